"""How sure one can be of what a score matrix says: estimates and intervals, on arrays alone.

Two things are samples here: the prompts, from all that people might write, and the examples, from all that
could be asked. `correct` (P, E) is 0 or 1 (or, for a paired comparison, a difference of two such matrices);
`groups` (E,) int says which examples belong together (RACE: the questions of an article) and are drawn as one.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Array: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def noise_variance(correct: Array, groups: Groups) -> float:
    """Return the variance that the accuracies of prompts owe to the examples being finitely many.

    The residual mean square of a two-way analysis of variance without replication, over E (Searle, Casella,
    McCulloch: Variance Components, 1992, section 4.3); examples of a group are summed first.
    """
    prompts, examples = correct.shape
    residual = correct - correct.mean(1, keepdims=True) - correct.mean(0) + correct.mean()
    sums = _sum_groups(residual, groups)  # (P, G)
    n = sums.shape[1]
    return float((sums**2).sum() * n / (n - 1) / (prompts - 1) / examples**2)


def corrected_std(correct: Array, groups: Groups) -> float:
    """Return the std of true accuracies over prompts: what is seen, less what the finitely many examples add.

    Zero where the accuracies differ no more than chance has them differ.
    """
    return float(np.sqrt(max(0.0, correct.mean(1).var(ddof=1) - noise_variance(correct, groups))))


def mean_interval(correct: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean over prompts and examples with its interval: of a fresh sample of both.

    Prompts and groups are resampled independently and their deviations added, as the mean is linear in both. This
    counts the interaction of prompts and examples twice, once with each (resampling both at once would count it three
    times: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007), so the sum is shrunk by as much. For few
    prompts the deviations are widened by n/(n-1) in variance and by the ratio of the t to the normal quantile, with
    Satterthwaite's degrees of freedom.
    """
    generator = np.random.default_rng(seed)
    value = float(correct.mean())
    by_prompt = correct.mean(1)
    sums, sizes = _sum_groups(correct.sum(0, keepdims=True), groups)[0], np.bincount(_dense(groups)) * len(correct)
    prompts, n_groups = len(by_prompt), len(sizes)
    of_prompts = _resampled_means(by_prompt, np.ones(prompts), draws, generator) - value
    of_groups = _resampled_means(sums, sizes.astype(float), draws, generator) - value
    of_prompts *= np.sqrt(prompts / (prompts - 1))
    of_groups *= np.sqrt(n_groups / (n_groups - 1))
    variances = np.array([of_prompts.var(), of_groups.var()])
    if not variances.any():
        return Estimate(value, value, value)
    freedom = variances.sum() ** 2 / (variances**2 / np.array([prompts - 1, n_groups - 1])).sum()
    interaction = noise_variance(correct, groups) / prompts
    once = max(variances.sum() - interaction, interaction) / variances.sum()
    deviations = (of_prompts + of_groups) * float(np.sqrt(once) * t.ppf(0.975, freedom) / norm.ppf(0.975))
    lowest = -1.0 if correct.min() < 0 else 0.0  # of a paired difference, or of an accuracy
    low, high = np.clip(value + np.quantile(deviations, [0.025, 0.975]), lowest, 1.0)
    return Estimate(value, float(low), float(high))


def std_interval(correct: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the corrected std over prompts with its interval.

    A bootstrap-t over prompts of the logarithm of the observed variance (Efron, Tibshirani: An Introduction to the
    Bootstrap, 1993, sections 12.5 and 12.6), less the noise of the examples at both ends. Widened for few prompts as
    the mean's interval is. It holds what it says where prompt effects are about normal; where a few prompts fail and the
    others do not, it is too narrow.
    """
    generator = np.random.default_rng(seed)
    accuracy, noise = correct.mean(1), noise_variance(correct, groups)
    value = corrected_std(correct, groups)
    log_variance, error = _log_variance(accuracy[None])
    if not np.isfinite(log_variance[0]):
        return Estimate(0.0, 0.0, 0.0)
    resampled, errors = _log_variance(generator.choice(accuracy, (draws, len(accuracy))))
    with np.errstate(invalid="ignore"):
        pivots = (resampled - log_variance) / errors
    upper, lower = np.quantile(pivots[np.isfinite(pivots)], [0.975, 0.025])
    n = len(accuracy)
    wider = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / norm.ppf(0.975)
    ends = np.exp(log_variance[0] - np.array([upper, lower]) * error[0] * wider)
    largest = (correct.max() - correct.min()) / 2  # that a std can be
    low, high = np.minimum(np.sqrt(np.maximum(0.0, ends - noise)), largest)
    return Estimate(value, float(low), float(high))


def worst_without_selection(correct: Array, groups: Groups, splits: int = 200, seed: int = 0) -> float:
    """Return the accuracy of the worst prompt, chosen on one half of the examples and measured on the other.

    The least of many noisy accuracies is less than the least true one; this is free of that. The mean over random
    halves, both ways. No interval: none can be promised for a minimum.
    """
    generator = np.random.default_rng(seed)
    sums, sizes = _sum_groups(correct, groups), np.bincount(_dense(groups))
    found = []
    for _ in range(splits):
        half = np.zeros(len(sizes), dtype=bool)
        half[generator.permutation(len(sizes))[: len(sizes) // 2]] = True
        for chosen, measured in ((half, ~half), (~half, half)):
            worst = int((sums[:, chosen].sum(1) / sizes[chosen].sum()).argmin())
            found.append(sums[worst, measured].sum() / sizes[measured].sum())
    return float(np.mean(found))


def agreement(predictions: NDArray[np.int64]) -> float:
    """Return how often two prompts predict the same choice: the mean over pairs of prompts and examples.

    Args:
        predictions: (P, E), the index of the predicted choice.
    """
    prompts = len(predictions)
    same = sum(((predictions == choice).sum(0) ** 2).sum() for choice in np.unique(predictions))
    return float((same / predictions.shape[1] - prompts) / (prompts * (prompts - 1)))


def majority_accuracy(predictions: NDArray[np.int64], gold: NDArray[np.int64]) -> float:
    """Return the accuracy of the choice that most prompts predict; of equals the one with the lowest index.

    Args:
        predictions: (P, E), the index of the predicted choice; gold: (E,).
    """
    votes = np.stack([(predictions == choice).sum(0) for choice in range(int(predictions.max()) + 1)])
    return float((votes.argmax(0) == gold).mean())


def _dense(groups: Groups) -> Groups:
    return np.unique(groups, return_inverse=True)[1]


def _sum_groups(values: Array, groups: Groups) -> Array:
    """Sum the columns of (P, E) by group: (P, G)."""
    dense = _dense(groups)
    sums = np.zeros((dense.max() + 1, len(values)))
    np.add.at(sums, dense, values.T)
    return sums.T


def _resampled_means(sums: Array, sizes: Array, draws: int, generator: np.random.Generator) -> Array:
    """Return the means (draws,) of units drawn with replacement; a unit holds `sizes` values that sum to `sums`."""
    n = len(sums)
    means = []
    for start in range(0, draws, 1000):  # memory
        weights = generator.multinomial(n, np.full(n, 1 / n), size=min(1000, draws - start))
        means.append(weights @ sums / (weights @ sizes))
    return np.concatenate(means)


def _log_variance(values: Array) -> tuple[Array, Array]:
    """Return the logarithm of the variance of each row (B, n) and its standard error, from the fourth moment."""
    n = values.shape[1]
    centred = values - values.mean(1, keepdims=True)
    variance = (centred**2).sum(1) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (centred**4).mean(1) / variance**2 - (n - 3) / (n - 1)
        return np.log(variance), np.sqrt(np.maximum(relative, 1e-12) / n)
