"""From a rendering to token ids, with the same boundary rule in training and in evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paft.data.tasks.base import LETTERS, Example
from paft.prompts import PromptTemplate
from paft.prompts.pool import Answer
from paft.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """A rendering as token ids."""

    context: list[int]
    continuations: list[list[int]]  # each may follow the context
    truncated: bool  # whether the context lost its beginning to the cut-off


class Encoder:
    """Tokenises renderings of examples, and the answers that follow them.

    The boundary rule: white space at the end of the prompt moves to the answer (one space by
    default), so that context and answer are tokenised as the model would have read and written
    them. In training the answer is followed by end-of-text; likelihood scoring leaves it out.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        answer: Answer,
        cutoff: int,
        chat_template: bool = False,
        system_prompt: str | None = None,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise InputError("The tokenizer has no end-of-text token, which training needs; use another model.")
        if chat_template and tokenizer.chat_template is None:
            raise InputError("model.chat_template=true: this tokenizer has no chat template; set it to false.")
        self.tokenizer = tokenizer
        self.answer = answer
        self.cutoff = cutoff
        self.chat_template = chat_template
        self.system_prompt = system_prompt

    def answers(self, example: Example) -> list[str]:
        """Return the answers that an example offers: the letters or the texts of its choices (none for free-form answers)."""
        return list(LETTERS[: len(example.choices)]) if self.answer == "letter" else list(example.choices)

    def training(self, template: PromptTemplate, example: Example) -> Encoded:
        """Encode a rendering with its right answer and end-of-text."""
        right = self.answers(example)[example.gold] if example.choices else example.answer
        return self._encode(template.render(example.fields), [right], end=[self.tokenizer.eos_token_id])

    def scoring(self, template: PromptTemplate, example: Example) -> Encoded:
        """Encode a rendering with each of its choices (none for free-form answers)."""
        return self._encode(template.render(example.fields), self.answers(example), end=[])

    def check_cutoff(self, examples: Sequence[Example]) -> None:
        """Raise InputError if an answer leaves no room for a prompt; checked before training, which scoring follows."""
        for example in examples:
            for text in self.answers(example) or [example.answer]:
                if len(text.encode()) + 3 <= self.cutoff:  # 3: a space, end-of-text and one token of context
                    continue  # no need to tokenise: a token has at least one byte
                length = len(self.tokenizer(f" {text}", add_special_tokens=False).input_ids) + 1
                if length >= self.cutoff:
                    raise InputError(
                        f"{example.where}: an answer has {length} tokens, which cutoff={self.cutoff} has no room for; "
                        f"set cutoff above {length}."
                    )

    def _encode(self, prompt: str, answers: Sequence[str], end: list[int]) -> Encoded:
        context, space = self._context(prompt)
        ids = self._tokenize(context) or [self.tokenizer.eos_token_id]  # an empty prompt: some token must predict the answer
        continuations = [self._continuation(context, ids, space + answer) + end for answer in answers]
        room = self.cutoff - max(map(len, continuations), default=1)
        if room < 1:
            raise InputError(f"cutoff={self.cutoff} is shorter than an answer; raise it above {self.cutoff - room}.")
        if len(ids) <= room:
            return Encoded(ids, continuations, truncated=False)
        # The beginning is cut, except a begin-of-text token, because question, options and cue stand at the end.
        keep_first = ids[:1] if ids[0] in self.tokenizer.all_special_ids and room > 1 else []
        return Encoded(keep_first + ids[len(ids) - room + len(keep_first) :], continuations, truncated=True)

    def _context(self, prompt: str) -> tuple[str, str]:
        """Return the text before the answer, and the white space that belongs to the answer."""
        if self.chat_template:
            system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt is not None else []
            chat = [*system, {"role": "user", "content": prompt}]
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)), ""
        context = prompt.rstrip()
        return context, prompt[len(context) :] or " "

    def _tokenize(self, text: str) -> list[int]:
        # A chat template writes its own special tokens.
        return self.tokenizer(text, add_special_tokens=not self.chat_template).input_ids

    def _continuation(self, context: str, ids: list[int], text: str) -> list[int]:
        """Return the tokens of `text` as they follow the context and its tokens `ids`."""
        whole = self._tokenize(context + text)
        if whole[: len(ids)] == ids and len(whole) > len(ids):
            return whole[len(ids) :]
        # The tokenizer merges across the boundary: the answer is tokenised alone, as generation would.
        return self.tokenizer(text, add_special_tokens=False).input_ids
