"""How each label of a classification is answered: how often it is found, and how often it is right where it is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paft.evaluation.matrix import ScoreMatrix


@dataclass(frozen=True)
class LabelScore:
    """The answers to the rows of one label, and the answers that are this label, over all prompts; fractions.

    rows counts those whose right answer the label is. recall is the share of these that are answered rightly, worst_recall that
    under the prompt where it is lowest; both are None where there is no such row. given is the label's share of all answers,
    precision the share of these that are right: None where the label is never given, or rows have no right answers.
    """

    rows: int
    recall: float | None
    worst_recall: float | None
    given: float
    precision: float | None


def by_label(matrix: ScoreMatrix, labels: Sequence[str]) -> dict[str, LabelScore]:
    """Return how each label is answered, in their order, which is that of the choices."""
    return {label: _score(matrix, place) for place, label in enumerate(labels)}


def _score(matrix: ScoreMatrix, place: int) -> LabelScore:
    """Return how the label at a place is answered."""
    own, given = matrix.gold == place, matrix.predicted == place
    recall = matrix.correct[:, own].mean(axis=1) if own.any() else None
    known = given.any() and matrix.gold.min() >= 0
    return LabelScore(
        rows=int(own.sum()),
        recall=None if recall is None else float(np.mean(recall)),
        worst_recall=None if recall is None else float(np.min(recall)),
        given=float(given.mean()),
        precision=float(matrix.correct[given].mean()) if known else None,
    )
