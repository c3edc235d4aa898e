"""Where the prompts of a score matrix agree: what most of them answer, and which rows they answer differently.

None of it needs right answers.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.metrics import Metric
from paft.evaluation.statistics import Array
from paft.evaluation.store import read_cells


@dataclass(frozen=True)
class Answers:
    """The answers of P prompts to E examples.

    codes (P, E) int32 numbers the different answers to an example: the index of the choice or, of free-form answers, of the
    text among those of the example; -1: no answer. texts holds the free-form answers to each example by their codes, as they
    were first written; it is empty where there are choices.
    """

    codes: NDArray[np.int32]
    texts: tuple[tuple[str, ...], ...] = ()

    @property
    def votes(self) -> NDArray[np.int64]:
        """The number (E, C) of prompts that give each answer to an example."""
        examples = self.codes.shape[1]
        n_codes = max(int(self.codes.max(initial=0)), 0) + 2  # and -1
        places = self.codes + 1 + n_codes * np.arange(examples)
        counts: NDArray[np.int64] = np.bincount(places.ravel(), minlength=n_codes * examples).reshape(examples, n_codes)[:, 1:]
        return counts

    @property
    def majority(self) -> NDArray[np.int64]:
        """The answer (E,) that most prompts give, of equal votes the first; -1 where no prompt answers."""
        votes = self.votes
        return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)

    @property
    def agreement(self) -> float:
        """The share of pairs of prompts, over all examples, that give the same answer; no answer agrees with nothing.

        There are two prompts at least.
        """
        prompts, examples = self.codes.shape
        votes = self.votes
        return float((votes * (votes - 1)).sum() / (prompts * (prompts - 1)) / examples)

    @property
    def entropy(self) -> Array:
        """The entropy (E,) of the prompts' answers in bits, no answer being one of its own; 0 where all prompts agree."""
        silent = (self.codes < 0).sum(axis=0)
        shares = np.column_stack([self.votes, silent]) / len(self.codes)
        logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.abs(-(shares * logs).sum(axis=1))  # abs: no -0.0

    @property
    def with_majority(self) -> Array:
        """The share (P,) of the examples to which a prompt gives the answer of most prompts."""
        return ((self.codes == self.majority) & (self.codes >= 0)).mean(axis=1)


def answers_of(matrix: ScoreMatrix, path: Path, metric: Metric) -> Answers:
    """Return the answers of a finished score matrix.

    Args:
        path: its file, from which free-form answers are read.
        metric: which of these count as equal.
    """
    if min(matrix.n_choices) > 0:
        return Answers(matrix.predicted)
    codes = free_form_answers(path, metric, len(matrix.correct))
    outputs = np.array(read_cells(path, ["output"])["output"].to_pylist(), dtype=object).reshape(codes.shape)
    return Answers(codes, tuple(_texts(*columns) for columns in zip(codes.T, outputs.T, strict=True)))


def free_form_answers(matrix: Path, metric: Metric, n_prompts: int) -> NDArray[np.int32]:
    """Return a number (P, E) for the free-form answer of each cell: of an example, the same for texts that count as equal.

    It is -1 where a text holds no answer: no number (last_number), no match (regex), no token that counts (f1), or nothing.

    Args:
        matrix: the file of a finished matrix.
    """
    cells = read_cells(matrix, ["example", "output"])
    numbers: dict[int, dict[Hashable, int]] = {}  # by example
    found = []
    for example, output in zip(cells["example"].to_pylist(), cells["output"].to_pylist(), strict=True):
        own = numbers.setdefault(example, {})
        answer = metric.read(output or "")
        found.append(-1 if answer in (None, "") else own.setdefault(answer, len(own)))
    return np.array(found, dtype=np.int32).reshape(n_prompts, -1)


def _texts(codes: NDArray[np.int32], outputs: NDArray[np.object_]) -> tuple[str, ...]:
    """Return the text that first has each code, of the answers to one example."""
    known, first = np.unique(codes, return_index=True)
    return tuple(str(outputs[place]) for code, place in zip(known, first, strict=True) if code >= 0)
