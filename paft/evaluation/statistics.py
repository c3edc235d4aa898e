"""The statistics of a score matrix: estimates, intervals and tests, on plain arrays.

Two things are samples here: the prompts, from all that people might write, and the examples, from all that could be asked.
`correct` (P, E) float is 0 or 1, a score between them, or a mean of such matrices; no formula needs more of it than that it
lies there. `groups` (E,) int says which examples belong together (RACE: the
questions of an article) and are drawn as one. All results are fractions, like accuracies. How often the intervals contain
the truth is measured by experiments/benchmarks/coverage.py.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, shapiro, t

Array: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = NDArray[np.int64]


FEWEST = 10  # prompts, and groups of examples, without which no interval can be promised
EQUAL = 1e-9  # accuracies that differ by no more are equal


@dataclass(frozen=True)
class Estimate:
    """An estimate with its 95% interval; low and high are None where no interval can be promised."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs, a and b, on the same P prompts and E examples, as means over their S seeds.

    `mean` has an interval for other prompts and examples, but the same seeds. std_a and std_b have one where there is one
    seed and `std_interval` gives one. p is the probability of stds that differ at least as much if both runs varied equally
    over prompts (see `swap_test`), or 1 if by that test the run with the smaller std varies more. The worst prompts, the
    counts and by_seed have no interval.
    """

    mean: Estimate  # the mean of a minus that of b
    std_a: Estimate  # over prompts, corrected for the examples' noise; of several seeds the root of the mean variance
    std_b: Estimate
    p: float | None  # None where no interval of the mean can be promised either
    worst_a: float  # free of selection bias: worst_without_selection
    worst_b: float
    wins: int  # prompts on which a is more accurate than b
    ties: int
    losses: int
    by_seed: tuple[float, ...]  # the mean of a minus that of b, by pair of seeds


@dataclass(frozen=True)
class SeedVariance:
    """The stds of the accuracy over seeds and over prompts, corrected for the examples' noise; without intervals.

    seed is the std of a seed's mean accuracy over all prompts. prompt is the std of a prompt's mean accuracy over all seeds.
    interaction is the std of what a prompt gains or loses with one seed in particular. Each is zero where the differences are
    no larger than chance explains.
    """

    seed: float
    prompt: float
    interaction: float


def can_promise(correct: Array, groups: Groups) -> bool:
    """Return whether intervals can be promised: not for fewer than ten prompts or groups, nor where all values are equal."""
    return min(len(correct), len(np.unique(groups))) >= FEWEST and correct.min() < correct.max()


def noise_variance(correct: Array, groups: Groups) -> float:
    """Return the part of the variance of the accuracies over prompts that comes from the finite number of examples.

    It is the residual mean square of a two-way analysis of variance without replication, divided by E (Searle, Casella,
    McCulloch: Variance Components, 1992, section 4.3). The examples of a group are summed first.
    """
    return float(_noise(_centre(correct), groups).sum() / (len(correct) - 1))


def corrected_variance(correct: Array, groups: Groups) -> float:
    """Return the unbiased estimate of the variance of the true accuracies over prompts, which may be below zero."""
    return float(correct.mean(1).var(ddof=1) - noise_variance(correct, groups))


def corrected_std(correct: Array, groups: Groups) -> float:
    """Return the std of the true accuracies over prompts: that of the observed ones minus the examples' noise.

    It is zero where the accuracies differ no more than chance explains.
    """
    return _root(corrected_variance(correct, groups))


def mean_interval(correct: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean over prompts and examples, with an interval for fresh samples of both.

    Prompts and groups are resampled independently, and their deviations are added, because the mean is linear in both. This
    counts the interaction of prompts and examples twice, once with each. (Resampling both at once would count it three
    times: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007.) The sum is shrunk so that it counts once. For
    few prompts the deviations are widened by n/(n-1) in variance, and by the ratio of the t to the normal quantile, with
    Satterthwaite's degrees of freedom. There is no interval where no resampling changes the mean.
    """
    return _interval_of_mean(correct, groups, draws, seed, lowest=0.0)


def difference_interval(a: Array, b: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean accuracy of a minus that of b, with the interval of `mean_interval`.

    The difficulty of a prompt or an example, where it is the same for both, cancels. The interval is therefore narrower than
    those of the two means suggest.

    Args:
        a: (P, E).
        b: (P, E), the same prompts and examples.
    """
    return _interval_of_mean(a - b, groups, draws, seed, lowest=-1.0)


def estimate(values: Array, groups: Groups) -> Estimate:
    """Return the mean of values, with the 95% interval that so many prompts and examples allow.

    Where `can_promise` says so, it is for other prompts and examples of the kind; else it is that of `of_these_prompts`.

    Args:
        values: (P, E), accuracies or differences of two runs' accuracies.
    """
    if can_promise(values, groups):
        return difference_interval(values, np.zeros_like(values), groups)
    return of_these_prompts(values, groups)


def of_these_prompts(values: Array, groups: Groups) -> Estimate:
    """Return the mean of values, with a 95% interval for other examples under these very prompts.

    It is a t interval of a ratio, over groups (Cochran: Sampling Techniques, 1977, section 2.11). With fewer than ten groups,
    or where no group differs from another, there is none.

    Args:
        values: (P, E), accuracies or differences of two runs' accuracies.
    """
    value = float(values.mean())
    sums, sizes = sums_by_group(values.mean(0, keepdims=True), groups)
    n, residual = len(sizes), sums[0] - value * sizes
    if n < FEWEST or not residual.any():
        return Estimate(value)
    error = np.sqrt(n / (n - 1) * (residual**2).sum()) / sizes.sum()
    half = float(t.ppf(0.975, n - 1) * error)
    return Estimate(value, value - half, value + half)


def std_interval(correct: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the corrected std over prompts, with an interval where the accuracies look normal.

    The interval is a bootstrap-t, over prompts, of the logarithm of the observed variance (Efron, Tibshirani: An Introduction
    to the Bootstrap, 1993, sections 12.5 and 12.6). The examples' noise is subtracted at both ends, and the interval is
    widened for few prompts as that of the mean is. Its coverage is right where prompt effects are about normal, and wrong
    where some prompts fail and the others do not. So no interval is given where a test of normality of the accuracies
    (Shapiro, Wilk: Biometrika 1965) has p < 0.05, nor where all are equal. A sample without a failing prompt cannot show that
    such prompts exist.
    """
    accuracy, noise = correct.mean(1), noise_variance(correct, groups)
    value = corrected_std(correct, groups)
    if np.ptp(accuracy) <= EQUAL or shapiro(accuracy).pvalue < 0.05:
        return Estimate(value)
    generator = np.random.default_rng(seed)
    log_variance, error = _log_variance(accuracy[None])
    resampled, errors = _log_variance(generator.choice(accuracy, (draws, len(accuracy))))
    with np.errstate(invalid="ignore"):
        pivots = (resampled - log_variance) / errors
    upper, lower = np.quantile(pivots[np.isfinite(pivots)], [0.975, 0.025])
    n = len(accuracy)
    wider = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / norm.ppf(0.975)
    ends = np.exp(log_variance[0] - np.array([upper, lower]) * error[0] * wider)
    largest_std = (correct.max() - correct.min()) / 2  # that values in this range can have
    low, high = np.minimum(np.sqrt(np.maximum(0.0, ends - noise)), largest_std)
    return Estimate(value, float(low), float(high))


def worst_without_selection(correct: Array, groups: Groups, splits: int = 200, seed: int = 0) -> float:
    """Return the accuracy of the worst prompt, chosen on one half of the examples and measured on the other.

    The minimum of many noisy accuracies is lower than the lowest true accuracy; this estimate has no such bias. It is the mean
    over random halves, each used both to choose and to measure. It is limited to the mean of all prompts, which it would
    otherwise exceed by chance where prompts are equally good. There is no interval, because none can be promised for a minimum.
    """
    generator = np.random.default_rng(seed)
    sums, sizes = sums_by_group(correct, groups)
    accuracies = []
    for _ in range(splits):
        half = np.zeros(len(sizes), dtype=bool)
        half[generator.permutation(len(sizes))[: len(sizes) // 2]] = True
        for chosen, measured in ((half, ~half), (~half, half)):
            worst = int((sums[:, chosen].sum(1) / sizes[chosen].sum()).argmin())
            accuracies.append(sums[worst, measured].sum() / sizes[measured].sum())
    return float(min(np.mean(accuracies), correct.mean()))


def compare(a: Array, b: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two runs on the same prompts and examples.

    Args:
        a: (S, P, E), of S seeds (a single run: S is 1); at least two prompts and two groups.
        b: (S, P, E), the same prompts and examples; seeds are paired in their order.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    sure = can_promise(mean_a - mean_b, groups)
    gains = (mean_a - mean_b).mean(1)
    std_a, std_b = (_std_over_seeds(side, groups, draws, seed) for side in (a, b))
    p = None
    if sure:
        p, sign = swap_test(a, b, groups, draws, seed)
        p = p if sign == np.sign(std_a.value - std_b.value) else 1.0
    return Comparison(
        mean=difference_interval(mean_a, mean_b, groups, draws, seed) if sure else Estimate(float(gains.mean())),
        std_a=std_a,
        std_b=std_b,
        p=p,
        worst_a=float(np.mean([worst_without_selection(one, groups, seed=seed) for one in a])),
        worst_b=float(np.mean([worst_without_selection(one, groups, seed=seed) for one in b])),
        wins=int((gains > EQUAL).sum()),
        ties=int((np.abs(gains) <= EQUAL).sum()),
        losses=int((gains < -EQUAL).sum()),
        by_seed=tuple((a - b).mean((1, 2)).tolist()),
    )


def swap_test(a: Array, b: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> tuple[float, int]:
    """Test the hypothesis that a and b vary equally over prompts; return the two-sided p, and which varies more.

    The second value is 1 for a, -1 for b and 0 for neither, by the test's own statistic.

    This is a permutation test (Good: Permutation, Parametric, and Bootstrap Tests of Hypotheses, 2005). Each run is centred at
    its median prompt. Then a and b are swapped, or not, at random on each prompt, in each of many draws. The statistic is the
    difference of the squared distances from the median, each minus the examples' noise; a swap changes the sign of a prompt's
    term. The centre is the median, after Brown, Forsythe (JASA 1974), because a failing prompt moves a mean, and all other
    prompts then seem to vary.

    The test is exact where a and b are exchangeable on each prompt once centred, except that the centres are estimated. It is
    not exact for two modes of similar weight, between which the median jumps (see coverage.py). If only k prompts fail, p
    cannot fall far below 2 ** (1 - k).

    The classical test for pairs (Pitman, Morgan: Biometrika 1939) correlates a + b with a - b. It needs normal accuracies:
    where a few prompts fail, it rejects a true hypothesis far too often. It also mistakes the examples' noise, which is larger
    in the less accurate run, for variation over prompts.

    Args:
        a: (S, P, E), of S seeds.
        b: (S, P, E), the same prompts and examples.
    """
    squares_a, squares_b = (np.mean([_squares(one, groups) for one in runs], axis=0) for runs in (a, b))
    terms = squares_a - squares_b
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(terms)))
    beyond = np.abs(signs @ terms) >= np.abs(terms.sum()) * (1 - 1e-12)
    p = float((1 + beyond.sum()) / (1 + draws))  # never zero: Phipson, Smyth, SAGMB 2010
    return p, int(np.sign(terms.sum()))


def seed_variance(correct: Array, groups: Groups) -> SeedVariance:
    """Return the stds of the accuracy over seeds, over prompts, and of their interaction.

    These are the analysis-of-variance estimators of a three-way crossed random model, seeds x prompts x examples, without
    replication (Searle, Casella, McCulloch: Variance Components, 1992, chapter 4). Negative estimates are set to zero.

    Args:
        correct: (S, P, E), of at least two seeds, two prompts and two groups.
    """
    seeds, prompts, examples = correct.shape
    residual = _centre(correct).reshape(-1, examples)  # what no pair of the three factors explains
    cells = (_centre(correct.mean(2)) ** 2).sum() - _noise(residual, groups).sum()
    interaction = cells / (seeds - 1) / (prompts - 1)
    return SeedVariance(
        seed=_root(corrected_variance(correct.mean(1), groups) - interaction / prompts),
        prompt=_root(corrected_variance(correct.mean(0), groups) - interaction / seeds),
        interaction=_root(interaction),
    )


def _std_over_seeds(correct: Array, groups: Groups, draws: int, seed: int) -> Estimate:
    if len(correct) == 1 and can_promise(correct[0], groups):
        return std_interval(correct[0], groups, draws, seed)
    return Estimate(_root(float(np.mean([corrected_variance(one, groups) for one in correct]))))


def _root(variance: float) -> float:
    return float(np.sqrt(max(0.0, variance)))


def _centre(values: Array) -> Array:
    """Subtract the mean along every axis in turn; the rest is the interaction of all factors."""
    for axis in range(values.ndim):
        values = values - values.mean(axis, keepdims=True)
    return values


def _noise(residual: Array, groups: Groups) -> Array:
    """Return the part (R,) of the squared deviation of each row's mean that comes from the examples' residuals (R, E)."""
    sums, _ = sums_by_group(residual, groups)
    n = sums.shape[1]
    return np.asarray((sums**2).sum(1) * n / (n - 1) / residual.shape[1] ** 2)


def _squares(correct: Array, groups: Groups) -> Array:
    """Return the squared distance (P,) of each accuracy from their median, minus what the examples' noise adds to it."""
    accuracy = correct.mean(1)
    return np.asarray((accuracy - np.median(accuracy)) ** 2 - _noise(_centre(correct), groups))


def _interval_of_mean(values: Array, groups: Groups, draws: int, seed: int, lowest: float) -> Estimate:
    """Return the mean with the interval that `mean_interval` describes; values (P, E) lie between `lowest` and 1."""
    generator = np.random.default_rng(seed)
    value = float(values.mean())
    by_prompt = values.mean(1)
    (sums,), sizes = sums_by_group(values.sum(0, keepdims=True), groups)
    prompts, n_groups = len(by_prompt), len(sizes)
    of_prompts = _resampled_means(by_prompt, np.ones(prompts), draws, generator) - value
    of_groups = _resampled_means(sums, sizes * len(values), draws, generator) - value
    of_prompts *= np.sqrt(prompts / (prompts - 1))
    of_groups *= np.sqrt(n_groups / (n_groups - 1))
    variances = np.array([of_prompts.var(), of_groups.var()])
    if variances.max() < EQUAL**2:  # of scores, rounding errors are left
        return Estimate(value)
    freedom = variances.sum() ** 2 / (variances**2 / np.array([prompts - 1, n_groups - 1])).sum()
    interaction = noise_variance(values, groups) / prompts
    once = max(variances.sum() - interaction, interaction) / variances.sum()
    deviations = (of_prompts + of_groups) * float(np.sqrt(once) * t.ppf(0.975, freedom) / norm.ppf(0.975))
    low, high = np.clip(value + np.quantile(deviations, [0.025, 0.975]), lowest, 1.0)
    return Estimate(value, float(low), float(high))


def sums_by_group(values: Array, groups: Groups) -> tuple[Array, Array]:
    """Return the sums (P, G) of the columns of values (P, E) by group, and the sizes (G,) of the groups."""
    dense = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((dense.max() + 1, len(values)))
    np.add.at(sums, dense, values.T)
    return sums.T, np.bincount(dense).astype(float)


def _resampled_means(sums: Array, sizes: Array, draws: int, generator: np.random.Generator) -> Array:
    """Return the means (draws,) over units drawn with replacement; unit i holds sizes[i] values that sum to sums[i]."""
    n = len(sums)
    means = []
    for start in range(0, draws, 1000):  # a thousand at a time, to bound memory
        weights = generator.multinomial(n, np.full(n, 1 / n), size=min(1000, draws - start))
        means.append(weights @ sums / (weights @ sizes))
    return np.concatenate(means)


def _log_variance(values: Array) -> tuple[Array, Array]:
    """Return the logarithm (B,) of the variance of each row of values (B, n), and its standard error (B,).

    The standard error is computed from the fourth moment.
    """
    n = values.shape[1]
    centred = values - values.mean(1, keepdims=True)
    variance = (centred**2).sum(1) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (centred**4).mean(1) / variance**2 - (n - 3) / (n - 1)
        return np.log(variance), np.sqrt(np.maximum(relative, 1e-12) / n)
