"""How much a prompt's wording changes the accuracy: statistics over the prompts of a score matrix (paper, section 4.1)."""

from dataclasses import dataclass

from paft.evaluation.disagreement import Answers
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.statistics import (
    EQUAL,
    Estimate,
    can_promise,
    mean_interval,
    std_interval,
    worst_without_selection,
)


@dataclass(frozen=True)
class Robustness:
    """The accuracies of prompts (their mean scores where the metric is graded), summarised; all values are fractions.

    mean, std, min and max are taken over prompts (std: of the population). spread is max - min. top is the share of prompts
    at or above the task's threshold, None where the task has none.
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
    """Estimates of the robustness over all prompts and examples of the kind, of which the matrix is a sample.

    mean has a 95% interval. std is the std over prompts minus the noise of finitely many examples; it has an interval only
    where the accuracies look normal (see `std_interval`), otherwise its low and high are None. worst is the worst prompt's
    accuracy without selection bias: the prompt is chosen on other examples than those that measure it. No interval can be
    promised for worst.
    """

    mean: Estimate
    std: Estimate
    worst: float


@dataclass(frozen=True)
class Con:
    """The accuracy on adversarial prompts (paper, section 4.4); the paper does not say whether Con is the mean or the worst."""

    mean: float
    worst: float


@dataclass(frozen=True)
class Consensus:
    """The agreement of prompts: the share of equal choices over pairs of prompts, and the accuracy of their majority."""

    agreement: float
    majority: float | None  # None where rows have no labels


def robustness(matrix: ScoreMatrix, threshold: float | None) -> Robustness:
    """Summarise a score matrix over its prompts.

    Args:
        threshold: the accuracy at or above which a prompt counts for Top; None: no Top.
    """
    accuracy = matrix.accuracy
    return Robustness(
        mean=float(accuracy.mean()),
        std=float(accuracy.std()),
        min=float(accuracy.min()),
        max=float(accuracy.max()),
        spread=float(accuracy.max() - accuracy.min()),
        top=None if threshold is None else float((accuracy >= threshold - EQUAL).mean()),
        n_prompts=matrix.correct.shape[0],
        n_examples=matrix.correct.shape[1],
    )


def uncertainty(matrix: ScoreMatrix) -> Uncertainty | None:
    """Return estimates with intervals from a score matrix.

    None for fewer than ten prompts or ten independent groups of examples, and where all answers have the same score.
    """
    groups = matrix.group_numbers
    correct = matrix.correct.astype(float)
    if not can_promise(correct, groups):
        return None
    return Uncertainty(mean_interval(correct, groups), std_interval(correct, groups), worst_without_selection(correct, groups))


def consensus(matrix: ScoreMatrix) -> Consensus:
    """Compare the choices of the prompts of a matrix, which needs two prompts at least and examples with choices."""
    answers = Answers(matrix.predicted)
    majority = answers.majority
    return Consensus(answers.agreement, float(((majority == matrix.gold) & (majority >= 0)).mean()))


def con(matrix: ScoreMatrix) -> Con:
    """Return both readings of Con from the matrix of the adversarial prompts."""
    accuracy = matrix.accuracy
    return Con(float(accuracy.mean()), float(accuracy.min()))
