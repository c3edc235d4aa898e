"""How much the wording matters: numbers over the prompts of a score matrix (paper, section 4.1)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.statistics import (
    Estimate,
    agreement,
    can_promise,
    majority_accuracy,
    mean_interval,
    std_interval,
    worst_without_selection,
)


@dataclass(frozen=True)
class Robustness:
    """Accuracies are fractions.

    mean, std, min and max are taken over prompts (std: population), spread is max - min, top is the
    share of prompts at or above the task's threshold (None where the task has none).
    """

    mean: float
    std: float
    min: float
    max: float
    spread: float
    top: float | None
    n_prompts: int
    n_examples: int


@dataclass(frozen=True)
class Uncertainty:
    """What robustness would be over all prompts and examples of the kind, as far as this sample tells.

    mean has a 95% interval. std is that over prompts less the noise of finitely many examples; it has an interval where
    the accuracies look normal, and none (low and high None) otherwise: see `std_interval`. worst is the worst prompt's
    accuracy without the bias of having been chosen on the examples that measure it; no interval can be promised for it.
    """

    mean: Estimate
    std: Estimate
    worst: float


@dataclass(frozen=True)
class Con:
    """Accuracy on adversarial prompts (paper, section 4.4): the paper does not say whether it takes the mean or the worst."""

    mean: float
    worst: float


@dataclass(frozen=True)
class Consensus:
    """How far prompts agree: the share of equal choices over pairs of prompts, and the accuracy of their majority."""

    agreement: float
    majority: float | None  # None where rows have no labels


def accuracy_per_prompt(matrix: ScoreMatrix) -> NDArray[np.float64]:
    """Return the accuracy (P,) of each prompt over the examples."""
    return matrix.correct.mean(axis=1)


def robustness(matrix: ScoreMatrix, threshold: float | None) -> Robustness:
    """Summarise a score matrix."""
    accuracy = accuracy_per_prompt(matrix)
    return Robustness(
        mean=float(accuracy.mean()),
        std=float(accuracy.std()),
        min=float(accuracy.min()),
        max=float(accuracy.max()),
        spread=float(accuracy.max() - accuracy.min()),
        top=None if threshold is None else float((accuracy >= threshold).mean()),
        n_prompts=matrix.correct.shape[0],
        n_examples=matrix.correct.shape[1],
    )


def uncertainty(matrix: ScoreMatrix) -> Uncertainty | None:
    """Say how sure the summary is; None for fewer than ten prompts or independent examples, or where all answers are alike."""
    groups = np.unique(matrix.groups, return_inverse=True)[1]
    correct = matrix.correct.astype(float)
    if not can_promise(correct, groups):
        return None
    return Uncertainty(mean_interval(correct, groups), std_interval(correct, groups), worst_without_selection(correct, groups))


def consensus(matrix: ScoreMatrix) -> Consensus:
    """Compare the choices of the prompts; needs two prompts and examples with choices, scored or generated."""
    return Consensus(agreement(matrix.predicted), majority_accuracy(matrix.predicted, matrix.gold))


def con(matrix: ScoreMatrix) -> Con:
    """Return Con, both readings, from the matrix of the adversarial prompts."""
    accuracy = accuracy_per_prompt(matrix)
    return Con(float(accuracy.mean()), float(accuracy.min()))
