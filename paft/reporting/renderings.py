"""What the model was given, and what it answered: whole renderings, decoded from their token ids."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple

from scipy.special import softmax

from paft.config.schema import TrainConfig
from paft.data.encode import Encoded, Encoder
from paft.data.inputs import Inputs
from paft.data.render import render
from paft.data.shots import Shots
from paft.data.tasks.base import LETTERS, Example
from paft.data.updates import foreseen, updates_of
from paft.evaluation.store import StoredCell
from paft.prompts import PromptTemplate

_LONGEST = 20_000  # characters of a rendering that are shown
_MOST_OPTIONS = 10  # that are shown


class Piece(NamedTuple):
    """A piece of a rendering: text, a special token, or the answer."""

    text: str
    kind: Literal["", "special", "answer"] = ""


class Option(NamedTuple):
    """A choice as a page shows it: its letter or a bullet, its text, its score, and what it was.

    The score of a letter is its share of the letters' probability, that of a text its log-probability, summed over its tokens.
    Where text was generated, it is None.
    """

    mark: str
    text: str
    score: float | None
    right: bool
    answered: bool


@dataclass(frozen=True)
class Rendering:
    """A rendering as the model was given it, with the answer behind it.

    tokens counts those of the prompt, of which the beginning is missing where the cut-off cut it off. wrong says that the
    answer is not right. options say which one was answered and which is right; of many, left_out are not shown. Of free-form
    answers there are none, and right is the right text. nothing says that no option, or no text, was answered.
    score says how right the answer is where the metric is graded.
    """

    prompt: str  # its id
    row: str
    pieces: list[Piece]
    tokens: int
    truncated: bool
    wrong: bool = False
    options: tuple[Option, ...] = ()
    right: str = ""
    nothing: bool = False
    left_out: int = 0
    score: float | None = None


class Reader:
    """Decodes renderings, exactly as they were tokenised for the model, special tokens and chat frame included.

    Args:
        encoder: what tokenised them; None: the model is behind a server.
        prompt: the text that a server was sent.
    """

    def __init__(self, encoder: Encoder | None, prompt: Callable[[PromptTemplate, Example], str] = render) -> None:
        self.encoder, self.prompt = encoder, prompt
        added = {} if encoder is None else encoder.tokenizer.added_tokens_decoder
        special = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def trained(self, template: PromptTemplate, example: Example, shots: Sequence[Example]) -> Rendering:
        """Return a rendering of training: the answer is what the model learns to write."""
        assert self.encoder is not None
        encoded = self.encoder.training(template, example, shots)
        return self._rendering(template, example, encoded, self._decoded_answer(encoded, 0))

    def tested(self, cell: StoredCell, template: PromptTemplate, example: Example, letters: bool) -> Rendering:
        """Return a rendering of the test: the answer is the model's.

        Args:
            cell: of the score matrix.
            letters: whether the prompt asks for a letter.
        """
        predicted, output = cell["predicted"], cell["output"]
        encoded = None if self.encoder is None else self.encoder.scoring(template, example)
        if output is not None:
            answer = output
        elif predicted < 0:
            answer = ""
        elif encoded is not None:
            answer = self._decoded_answer(encoded, predicted)
        else:
            answer = LETTERS[predicted] if letters else example.choices[predicted]
        found = self._rendering(template, example, encoded, answer)
        options = _options(cell, example, letters)
        return replace(
            found,
            wrong=bool(example.answer) and cell["correct"] < 1,
            score=None if isinstance(cell["correct"], bool) else cell["correct"],
            options=options,
            left_out=len(example.choices) - len(options),
            right="" if example.choices else " or ".join(example.answers),
            nothing=predicted < 0 if example.choices else not output,
        )

    def _rendering(self, template: PromptTemplate, example: Example, encoded: Encoded | None, answer: str) -> Rendering:
        text = self.prompt(template, example) if encoded is None else self._decoded(encoded.context)
        kept, left = text[-_LONGEST:], len(text) - _LONGEST
        pieces = [Piece(f"[{left:,} characters before this]")] if left > 0 else []
        pieces += [*self._pieces(kept), *self._pieces(answer, "answer")]
        n_tokens = 0 if encoded is None else len(encoded.context)
        return Rendering(template.id, example.id, pieces, n_tokens, encoded is not None and encoded.truncated)

    def _pieces(self, text: str, kind: Literal["", "answer"] = "") -> list[Piece]:
        """Cut a text into its special tokens and what stands between them."""
        pieces, end = [], 0
        for match in self._special.finditer(text) if self._special else ():
            pieces += [Piece(text[end : match.start()], kind), Piece(match[0], "special")]
            end = match.end()
        return [piece for piece in [*pieces, Piece(text[end:], kind)] if piece.text]

    def _decoded(self, ids: Sequence[int]) -> str:
        assert self.encoder is not None
        return str(self.encoder.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _decoded_answer(self, encoded: Encoded, index: int) -> str:
        """Return the text of a continuation as it stands behind its context."""
        before = self._decoded(encoded.context)
        whole = self._decoded([*encoded.context, *encoded.continuations[index]])
        if whole.startswith(before):
            return whole[len(before) :]
        return self._decoded(encoded.continuations[index])  # a character of several tokens stands across the boundary


Trained = tuple[PromptTemplate, Example, Sequence[Example]]  # an example of the training, under a template, behind its shots


def first_trained(config: TrainConfig, inputs: Inputs, chosen: str | None, n: int) -> list[Trained]:
    """Return the first examples that training shows, each under another template as far as there are several.

    Only those that are known beforehand: there are fewer where losses say from the beginning which templates are shown.

    Args:
        chosen: the id of the only template, which a search has found; None: there was no search.
        n: how many.
    """
    pool = inputs.train
    if pool is None:
        return []
    if chosen is not None:
        pool = replace(pool, templates=tuple(template for template in pool.templates if template.id == chosen))
    examples = inputs.examples.train
    updates = updates_of(foreseen(config), len(examples), pool, inputs.examples.task)
    known = 2 * config.sampler.lag if config.sampler.by_loss else None  # updates whose draws do not depend on losses
    shots = Shots(examples, config.dataset.shots, updates.sampler.seed, compared=updates.paired)
    shown: dict[str, Trained] = {}
    for tagged in (tag for update in islice(updates.of_epoch(0), known) for tag in update):
        if tagged.candidates > 1:  # losses say which of them training takes
            break
        template = updates.sampler.template(tagged.draw, tagged.template)
        shown.setdefault(template.id, (template, examples[tagged.row], shots.of(tagged.draw, tagged.row)))
        if len(shown) == n:
            break
    return list(shown.values())


def _options(cell: StoredCell, example: Example, letters: bool) -> tuple[Option, ...]:
    marks = LETTERS if letters else "•" * len(example.choices)
    scores: Sequence[float | None] = cell["log_probs"] or [None] * len(example.choices)
    if letters and cell["log_probs"]:
        scores = softmax(cell["log_probs"]).tolist()
    places = range(len(example.choices))
    options = [
        Option(mark, text, score, i == cell["gold"], i == cell["predicted"])
        for i, mark, text, score in zip(places, marks, example.choices, scores, strict=False)
    ]
    if len(options) > _MOST_OPTIONS:  # as of a set of labels
        options.sort(key=lambda option: (option.answered or option.right, option.score or 0.0), reverse=True)
    return tuple(options[:_MOST_OPTIONS])
