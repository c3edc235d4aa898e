"""Metrics: how an answer is scored, as right or wrong or, where the metric is graded, by a number from 0 to 1."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from paft.config.schema import DatasetConfig, is_function
from paft.data.tasks.base import Example
from paft.evaluation.answers import first_option, first_text, found_by, last_number, plain, squad_tokens, token_f1
from paft.evaluation.own_metric import OwnFunction, load_function
from paft.evaluation.store import StoredCell
from paft.runtime.errors import InputError


@dataclass(frozen=True)
class Metric:
    """How an answer is scored.

    name is choice (the right option), or says how a free-form text is compared with the right answers, of which the best
    counts: exact (the whole texts, case and the kind of white space ignored), last_number (the last number of each), f1 (their
    tokens), regex (what `pattern` finds in the text, compared as by exact), or the path of a function of one's own.
    """

    name: str
    pattern: str | None = None
    function: OwnFunction | None = None

    @property
    def graded(self) -> bool:
        """Whether an answer may be partly right."""
        return self.name == "f1" or self.function is not None

    @property
    def called(self) -> str:
        """What a mean of scores is called."""
        return name_of_scores(self.name)

    def as_json(self) -> dict[str, str | None]:
        """Return what results record of it, in plain types: name, pattern, and the hash of a function's source."""
        source = None if self.function is None else self.function.source
        return {"name": self.name, "pattern": self.pattern, "source": source}

    @property
    def looks_inside(self) -> bool:
        """Whether the answer is looked for inside of a text, which may therefore take several lines."""
        return self.name in ("last_number", "regex")

    def read(self, text: str) -> Hashable:
        """Return the answer in a text, the same for texts that count as equal; None or "" where the text holds none."""
        if self.name == "last_number":
            return last_number(text)
        if self.name == "regex":
            found = found_by(self.pattern or "", text)
            return None if found is None else plain(found)
        return " ".join(squad_tokens(text)) if self.name == "f1" else plain(text)

    def score(self, text: str, example: Example) -> bool | float | None:
        """Return whether a free-form text is right, or for f1 how right it is; for a function None.

        A function scores texts that are stored already, so that its mistakes lose none (see `Grading`).
        """
        if self.function is not None:
            return None
        if self.name == "f1":
            return max(token_f1(text, answer) for answer in example.answers)
        found = self.read(text)
        return any(found == self._right(answer) for answer in example.answers) and found is not None

    def _right(self, answer: str) -> Hashable:
        return last_number(answer) if self.name == "last_number" else plain(answer)


def chosen(log_probs: NDArray[np.float32], lengths: NDArray[np.float32], example: Example) -> StoredCell:
    """Return the row of answer columns of a choice: the first of those with the highest log-probability for its length.

    Args:
        log_probs: (C,), of each choice.
        lengths: (C,) or (1,), what each is divided by.
    """
    scores = log_probs / lengths
    predicted = int(scores.argmax())
    return {
        "log_probs": log_probs.tolist(),
        "predicted": predicted,
        "correct": predicted == example.gold,
        "tied": int((scores == scores[predicted]).sum()) > 1,
        "output": None,
        "output_tokens": 0,
    }


def answered(example: Example, text: str, n_tokens: int, letters: bool, metric: Metric) -> StoredCell:
    """Return the row of answer columns of a generated text.

    Args:
        n_tokens: that were generated.
        letters: where the example has choices, whether their letters are looked for in the text, or their texts.
        metric: of free-form answers.
    """
    predicted, correct = -1, metric.score(text, example) if not example.choices else False
    if example.choices:
        predicted = first_option(text, len(example.choices)) if letters else first_text(text, example.choices)
        correct = predicted == example.gold != -1
    return {
        "log_probs": [],
        "predicted": predicted,
        "correct": correct,
        "tied": False,
        "output": text,
        "output_tokens": n_tokens,
    }


def name_of_scores(metric: str) -> str:
    """Return what a mean of the scores of a metric, given by its name or path, is called."""
    if is_function(metric):
        return "score"
    return "F1" if metric == "f1" else "accuracy"


@cache
def _load(name: str, pattern: str | None) -> Metric:
    return Metric(name, pattern, load_function(name) if is_function(name) else None)


def metric_of(dataset: DatasetConfig) -> Metric:
    """Return the metric of a data set; raises InputError if it is a function that cannot be loaded.

    A function is loaded once for a job, which begins with `check_metric`.
    """
    return _load(dataset.metric, dataset.pattern)


def check_metric(dataset: DatasetConfig, examples: Sequence[Example]) -> Metric:
    """Load the metric of a data set, and refuse one that cannot score these examples.

    A function is tried on the first of them, with its right answer and with an empty text.

    Raises InputError.
    """
    _load.cache_clear()  # the file may have been changed since another job of this process
    metric = metric_of(dataset)
    if metric.function is not None:
        for text in (examples[0].answer, ""):
            metric.function(text, examples[0])
    if metric.name == "last_number":
        for example in examples:
            if example.answer and not example.choices and all(last_number(answer) is None for answer in example.answers):
                raise InputError(
                    f"{example.where}: dataset.metric=last_number compares numbers, and {example.answer!r} holds none, so that "
                    "no text could be right; use dataset.metric=exact."
                )
    if metric.name == "f1":
        for example in examples:
            if example.answer and not any(map(squad_tokens, example.answers)):
                raise InputError(
                    f"{example.where}: dataset.metric=f1 counts neither articles nor punctuation, and the answer "
                    f"{example.answer!r} is nothing else, so no text could be right; use dataset.metric=exact."
                )
    return metric
