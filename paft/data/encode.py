"""From a rendering to token ids, with the same boundary rule in training and in evaluation."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from paft.data.chat import Chat
from paft.data.render import answers_under, offered, render_with_shots, right_answer, space_before, split_white_space
from paft.data.tasks.base import Example
from paft.prompts import PromptTemplate
from paft.prompts.pool import Answer
from paft.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RULES = 2  # counted up when a rendering becomes other tokens than before: scores of both kinds never stand in one matrix
_NO_EMBEDDING = (
    "a token that the tokenizer knows and the model has no embedding for; take it out, or save the model again after "
    "resize_token_embeddings."
)


@dataclass(frozen=True)
class Encoded:
    """A rendering as token ids."""

    context: list[int]
    continuations: list[list[int]]  # each may follow the context
    truncated: bool  # whether the context lost its beginning to the cut-off


class Encoder:
    """Tokenises renderings of examples, and the answers that follow them.

    The boundary rule: white space at the end of the prompt moves to the answer, so that context and answer are tokenised as the
    model would have read and written them. Where there is none, one space is put before the answer, except between characters
    of a script that has none. In training the answer is followed by end-of-text, or by what ends a turn of the chat template;
    likelihood scoring leaves it out. Special tokens that the tokenizer puts behind a text are left out everywhere.

    Shots stand before the rendering, in the same template and with their answers by the same rule, a blank line after each; in
    a chat they are part of the user's turn.

    Args:
        answer: what prompts ask for, a letter or a text.
        cutoff: the most tokens of a rendering with its answer.
        chat: the chat template that prompts are wrapped in; None: prompts are plain text.
        space: whether a space comes before an answer; None: unless the script has none.
        vocabulary: how many tokens the model has embeddings for; None: for all.
        shots: examples that are shown before each one that is scored.

    Raises InputError if the tokenizer cannot be used.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        answer: Answer,
        cutoff: int,
        chat: Chat | None = None,
        space: bool | None = None,
        vocabulary: int | None = None,
        shots: Sequence[Example] = (),
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise InputError("The tokenizer has no end-of-text token, which training needs; use another model.")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None and getattr(backend.model, "dropout", None):
            raise InputError(
                "The tokenizer draws its tokens at random (tokenizer.json: dropout), so that no number could be repeated; set "
                "dropout to null."
            )
        self.tokenizer = tokenizer
        self.answer = answer
        self.cutoff = cutoff
        self.chat = chat
        self.space = space
        self.shots = shots
        self._behind = self._special_tokens_behind_a_text()
        self._head = [] if chat is None else self.tokenize(chat.head)
        tail = [] if chat is None else self.tokenize(chat.tail)
        self._tail_length = len(tail)
        chat_end = None if chat is None else chat.end_id
        self.end_id: int = tokenizer.eos_token_id if chat_end is None else chat_end
        self._unknown = self._tokens_beyond(vocabulary)
        if chat is not None and vocabulary is not None and max([0, *self._head, *tail]) >= vocabulary:
            raise InputError(f"model.chat_template=true: the chat template or the system prompt holds {_NO_EMBEDDING}")

    def answers(self, example: Example) -> list[str]:
        """Return the answers that an example offers: the letters or the texts of its choices (none for free-form answers)."""
        return offered(example, self.answer)

    def training(self, template: PromptTemplate, example: Example, shots: Sequence[Example] = ()) -> Encoded:
        """Encode a rendering, behind its shots, with its right answer and what ends it."""
        prompt = render_with_shots(template, example, shots, self.answer, self.space)
        return self._encode(prompt, [right_answer(template, example, self.answer)], end=[self.end_id])

    def asking(self, template: PromptTemplate, example: Example, shots: Sequence[Example] = ()) -> Encoded:
        """Encode a rendering, behind its shots, with each of its choices, or with a word as free-form answers may begin."""
        answers = answers_under(template, example, self.answer) or ["a"]
        return self._encode(render_with_shots(template, example, shots, self.answer, self.space), answers, end=[])

    def scoring(self, template: PromptTemplate, example: Example) -> Encoded:
        """Encode a rendering with each of its choices (none for free-form answers)."""
        return self._encode(self.prompt(template, example), answers_under(template, example, self.answer), end=[])

    def prompt(self, template: PromptTemplate, example: Example) -> str:
        """Return the rendering of an example that is scored, behind the shots, as a text without any chat template."""
        return render_with_shots(template, example, self.shots, self.answer, self.space)

    def before_the_answer(self, prompt: str) -> str:
        """Return the text that a prompt's answer follows: within the chat template, or without white space at its end."""
        return self._context(prompt)[0]

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text at the beginning of a sequence, without those that the tokenizer puts behind it."""
        # A chat template writes its own special tokens.
        ids: list[int] = self.tokenizer(text, add_special_tokens=self.chat is None).input_ids
        return ids[: self._own_length(ids)]

    def tokenize_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of `tokenize`, and where in the text each begins and ends; needs a fast tokenizer."""
        found = self.tokenizer(text, add_special_tokens=self.chat is None, return_offsets_mapping=True)
        n = self._own_length(found.input_ids)
        return found.input_ids[:n], found.offset_mapping[:n]

    def _own_length(self, ids: list[int]) -> int:
        """Return how many tokens of a text are not those that the tokenizer puts behind it."""
        n = len(self._behind)
        return len(ids) - n if n and self.chat is None and ids[-n:] == self._behind else len(ids)

    def answer_tokens(self, examples: Sequence[Example]) -> list[list[int]]:
        """Return the number of tokens of each answer that an example offers, with the space that stands before it, if any."""
        answers = [self.answers(example) for example in examples]
        space = self.space if self.chat is None else False  # as in _context
        flat = [space_before(answer, "", space) + answer for own in answers for answer in own]
        counts = iter([len(ids) for ids in self.tokenizer(flat, add_special_tokens=False).input_ids] if flat else [])
        return [[next(counts) for _ in own] for own in answers]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) over the vocabulary, the special tokens and the chat template of the tokenizer."""
        tokenizer = self.tokenizer
        added = {token.content: [i, token.special] for i, token in tokenizer.added_tokens_decoder.items()}
        content = [
            sorted(tokenizer.get_vocab().items()),
            sorted(added.items()),
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            [tokenizer(text).input_ids for text in ("a", " A\n b", "12,345.6", "naïve Ångström", "答案：是")],
            None if self.chat is None else tokenizer.get_chat_template(),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def check(self, templates: Iterable[PromptTemplate], examples: Sequence[Example]) -> None:
        """Check answers against the cut-off and texts against the vocabulary, before anything is trained or scored.

        Raises InputError.
        """
        self._check_cutoff(examples)
        for token in self._unknown:
            for template in templates:
                if token in template.text:
                    raise InputError(f"The prompt {template.id!r} holds {token!r}, {_NO_EMBEDDING}")
            for example in examples:
                if any(token in str(text) for text in (*example.fields.values(), example.answer)):
                    raise InputError(f"{example.where}: the row holds {token!r}, {_NO_EMBEDDING}")

    def _check_cutoff(self, examples: Sequence[Example]) -> None:
        """Raise InputError if an answer leaves no room for a prompt."""
        frame = max(len(self._head) + self._tail_length, 1)  # at least one token must predict the answer
        around = f" beside the {frame} of the chat template" if self.chat else ""
        for example in examples:
            for text in self.answers(example) or [example.answer]:
                if len(text.encode()) + 2 + frame <= self.cutoff:  # 2: a space and the end
                    continue  # no need to tokenise: a token has at least one byte
                length = len(self.tokenizer(f" {text}", add_special_tokens=False).input_ids) + 1
                if length + frame > self.cutoff:
                    raise InputError(
                        f"{example.where}: an answer has {length} tokens, which cutoff={self.cutoff} has no room for{around}; "
                        f"set cutoff above {length + frame - 1}."
                    )

    def _encode(self, prompt: str, answers: Sequence[str], end: list[int]) -> Encoded:
        context, space = self._context(prompt)
        ids = self.tokenize(context) or [self.tokenizer.eos_token_id]  # an empty prompt: some token must predict the answer
        spaces = [space_before(answer, context, self.space) if space is None else space for answer in answers]
        continuations = [self._continuation(context, ids, own + text) + end for own, text in zip(spaces, answers, strict=True)]
        room = self.cutoff - max(map(len, continuations), default=1)
        if room < 1:
            raise InputError(f"cutoff={self.cutoff} is shorter than an answer; raise it above {self.cutoff - room}.")
        if len(ids) <= room:
            return Encoded(ids, continuations, truncated=False)
        # The beginning of the prompt is cut, because question, options and cue stand at its end. What stands before it stays:
        # a begin-of-text token, the head of a chat.
        keep_first = self._before_the_prompt(ids, room)
        return Encoded(keep_first + ids[len(ids) - room + len(keep_first) :], continuations, truncated=True)

    def _before_the_prompt(self, ids: list[int], room: int) -> list[int]:
        if self.chat is None:
            return ids[:1] if ids[0] in self.tokenizer.all_special_ids and room > 1 else []
        if room < len(self._head) + self._tail_length:
            raise InputError(
                f"cutoff={self.cutoff} has no room for the chat template and an answer; raise it above "
                f"{self.cutoff - room + len(self._head) + self._tail_length - 1}."
            )
        shared = next((i for i, (a, b) in enumerate(zip(ids, self._head, strict=False)) if a != b), len(self._head))
        return ids[:shared]  # a last token of the head may have merged with the prompt

    def _context(self, prompt: str) -> tuple[str, str | None]:
        """Return the text before the answer, and the white space that belongs to the answer (None: the prompt has none)."""
        return (self.chat.wrap(prompt), "") if self.chat is not None else split_white_space(prompt)

    def _special_tokens_behind_a_text(self) -> list[int]:
        """Return what the tokenizer puts behind every text, as some do with end-of-text: an answer could not follow it."""
        with_special, plain = self.tokenizer("a").input_ids, self.tokenizer("a", add_special_tokens=False).input_ids
        for start in range(len(with_special) - len(plain), -1, -1):
            if with_special[start : start + len(plain)] == plain:
                return with_special[start + len(plain) :]
        return []

    def _tokens_beyond(self, vocabulary: int | None) -> list[str]:
        """Return the added tokens that the model has no embedding for; raises InputError if others have none, too."""
        if vocabulary is None or len(self.tokenizer) <= vocabulary:
            return []
        added = self.tokenizer.get_added_vocab()
        beyond = {token: i for token, i in self.tokenizer.get_vocab().items() if i >= vocabulary}
        if not beyond.keys() <= added.keys() or self.end_id >= vocabulary:
            raise InputError(
                f"The tokenizer has {len(self.tokenizer)} tokens and the model has embeddings for {vocabulary}: they do not "
                "belong together; save the model with its own tokenizer, or after resize_token_embeddings."
            )
        return sorted(beyond)

    def _continuation(self, context: str, ids: list[int], text: str) -> list[int]:
        """Return the tokens of `text` as they follow the context and its tokens `ids`."""
        whole = self.tokenize(context + text)
        if whole[: len(ids)] == ids and len(whole) > len(ids):
            return whole[len(ids) :]
        # The tokenizer merges across the boundary: the answer is tokenised alone, as generation would.
        return self.tokenizer(text, add_special_tokens=False).input_ids
