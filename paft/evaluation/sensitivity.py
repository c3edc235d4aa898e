"""How much a model's answers change with the prompt, by the measures of other papers, from stored log-probabilities.

None of them needs right answers but PSS and the calibration.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paft.evaluation.statistics import Array

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Whether confidence means what it says; all values are averages over prompts but worst_ece.

    confidence is the probability of the chosen option among the options, ece the expected calibration error (10 bins of equal
    width), worst_ece that of the worst prompt, brier the squared distance of all options' probabilities from the right answer.
    """

    confidence: float
    ece: float
    worst_ece: float
    brier: float


@dataclass(frozen=True)
class Sensitivity:
    """Measures of prompt sensitivity; 0 means that the prompt changes nothing.

    posix (arXiv 2410.02185, eq. 1): over ordered pairs of prompts, by how much the log-probability of one prompt's answer
    changes under the other, per token of the answer; nats. pss (ProSA, arXiv 2410.12405): over pairs of prompts, the mean
    difference of the scores (right 1, wrong 0) on the same example. flip_rate: the share of pairs of prompts whose answers to
    an example differ; free-form answers differ as texts that the metric tells apart. calibration and pss are None where rows
    have no labels; posix and calibration where texts were generated.
    """

    posix: float | None
    pss: float | None
    flip_rate: float
    calibration: Calibration | None


def posix(log_probs: Array, tokens: Array, predicted: NDArray[np.int32]) -> float:
    """Return POSIX: the mean over examples and ordered pairs (i, j) of |log P(y_j|x_i) - log P(y_j|x_j)| / L_j.

    y_j is the answer under prompt j.

    Args:
        log_probs: (P, E, C), summed over an option's tokens; -inf pads examples with fewer options. P is at least 2.
        tokens: (E, C), the length of each option.
        predicted: (P, E), the option that is the answer, which need not be the likeliest: longer ones may be judged by token.
    """
    n_prompts, n_examples, n_choices = log_probs.shape
    total = 0.0
    for choice in range(n_choices):  # all prompts that choose the same option of an example share its column
        own = predicted == choice  # (P, E)
        values = np.where(np.isfinite(log_probs[:, :, choice]), log_probs[:, :, choice], 0.0)
        ordered = np.sort(values, axis=0)
        # Sum over i of |v_i - v_j| for each j, by sorted prefix sums: P log P instead of P^2.
        prefix = np.cumsum(ordered, axis=0)
        for example in np.flatnonzero(own.any(axis=0)):
            mine = values[own[:, example], example]
            below = np.searchsorted(ordered[:, example], mine, side="right")
            sums = prefix[below - 1, example]
            distance = mine * below - sums + (prefix[-1, example] - sums) - mine * (n_prompts - below)
            total += float(distance.sum()) / float(tokens[example, choice])
    return total / (n_examples * n_prompts * (n_prompts - 1))


def pss(correct: NDArray[np.bool_ | np.float64]) -> float:
    """Return ProSA's PromptSensiScore: the mean difference of the scores of an example over pairs of prompts.

    Args:
        correct: (P, E), right or wrong, or scores from 0 to 1; P is at least 2.
    """
    n_prompts = correct.shape[0]
    ordered = np.sort(correct.astype(float), axis=0)
    # In a sum over pairs the k-th smallest of P values is k times the larger and P - 1 - k times the smaller one.
    sums = ((2 * np.arange(n_prompts) - n_prompts + 1)[:, None] * ordered).sum(axis=0)
    return float((sums / (n_prompts * (n_prompts - 1) / 2)).mean())


def calibration(log_probs: Array, predicted: NDArray[np.int32], gold: NDArray[np.int32]) -> Calibration:
    """Return the calibration of the options' probabilities.

    Args:
        log_probs: (P, E, C), of which the probabilities among the options are made; -inf pads.
        predicted: (P, E); gold: (E,).
    """
    shifted = np.exp(log_probs - log_probs.max(-1, keepdims=True))
    probability = shifted / shifted.sum(-1, keepdims=True)  # (P, E, C)
    confidence = np.take_along_axis(probability, predicted[..., None].astype(int), -1)[..., 0]
    right = predicted == gold
    eces = [_ece(own, hits) for own, hits in zip(confidence, right, strict=True)]
    target = np.arange(log_probs.shape[-1]) == gold[:, None]
    brier = ((probability - target) ** 2).sum(-1)
    return Calibration(float(confidence.mean()), float(np.mean(eces)), float(max(eces)), float(brier.mean()))


def _ece(confidence: Array, right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error of one prompt; confidence and right are (E,)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((right[bins == b] - confidence[bins == b]).sum())) for b in np.unique(bins)]
    return sum(gaps) / len(confidence)
