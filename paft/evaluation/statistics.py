"""How sure one can be of what a score matrix says: estimates and intervals, on arrays alone.

Two things are samples here: the prompts, from all that people might write, and the examples, from all that
could be asked. `correct` (P, E) float is 0 or 1, or a mean of such matrices; `groups` (E,) int says which examples belong
together (RACE: the questions of an article) and are drawn as one. Results are fractions, as accuracies are. How often the
intervals hold the truth: experiments/benchmarks/coverage.py.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, shapiro, t

Array: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = NDArray[np.int64]


FEWEST = 10  # prompts, and groups of examples: with fewer no interval can be promised
_EQUAL = 1e-9  # accuracies no further apart are equal


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; low and high are None where none can be promised."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two runs, a and b, on the same P prompts and E examples, as means over their S seeds.

    Of these numbers `mean` has an interval (for other prompts and examples; the seeds are those at hand), and std_a and
    std_b where std_interval gives one and there is one seed. p is the chance of stds at least this unlike if both runs
    varied alike over prompts (see `swap_test`), or 1 where that test sees the run of the smaller std vary more. The worst
    prompts, the counts and by_seed are without an interval.
    """

    mean: Estimate  # of a less that of b
    std_a: Estimate  # over prompts, corrected for the examples' noise; over seeds the root of the mean variance
    std_b: Estimate
    p: float | None  # None where no interval can be promised either
    worst_a: float  # without selection bias: worst_without_selection
    worst_b: float
    wins: int  # prompts on which a is more accurate than b
    ties: int
    losses: int
    by_seed: tuple[float, ...]  # the mean of a less that of b, by pair of seeds


@dataclass(frozen=True)
class SeedVariance:
    """How far seeds move the accuracy, beside how far prompts do: stds, free of the examples' noise; no intervals.

    seed: of a seed's mean accuracy over all prompts. prompt: of a prompt's over all seeds. interaction: of what a prompt
    gains or loses with one seed more than with the others. Zero where there is no more than chance explains.
    """

    seed: float
    prompt: float
    interaction: float


def can_promise(correct: Array, groups: Groups) -> bool:
    """Say whether intervals can be given: not for fewer than ten prompts or groups, nor where all values are alike."""
    return min(len(correct), len(np.unique(groups))) >= FEWEST and correct.min() < correct.max()


def noise_variance(correct: Array, groups: Groups) -> float:
    """Return the variance that the accuracies of prompts owe to the examples being finitely many.

    The residual mean square of a two-way analysis of variance without replication, over E (Searle, Casella,
    McCulloch: Variance Components, 1992, section 4.3); examples of a group are summed first.
    """
    return float(_noise(_centre(correct), groups).sum() / (len(correct) - 1))


def corrected_variance(correct: Array, groups: Groups) -> float:
    """Return the variance of true accuracies over prompts, without bias: so it may be below zero."""
    return float(correct.mean(1).var(ddof=1) - noise_variance(correct, groups))


def corrected_std(correct: Array, groups: Groups) -> float:
    """Return the std of true accuracies over prompts: what is seen, less what the finitely many examples add.

    Zero where the accuracies differ no more than chance has them differ.
    """
    return _root(corrected_variance(correct, groups))


def mean_interval(correct: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean over prompts and examples with its interval: of a fresh sample of both.

    Prompts and groups are resampled independently and their deviations added, as the mean is linear in both. This
    counts the interaction of prompts and examples twice, once with each (resampling both at once would count it three
    times: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007), so the sum is shrunk by as much. For few
    prompts the deviations are widened by n/(n-1) in variance and by the ratio of the t to the normal quantile, with
    Satterthwaite's degrees of freedom. None where no resampling changes the mean.
    """
    return _interval_of_mean(correct, groups, draws, seed, lowest=0.0)


def difference_interval(a: Array, b: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return how much more accurate a is than b, both (P, E) on the same prompts and examples, as mean_interval does.

    What is hard for both, prompt or example, cancels: the interval is narrower than those of two means suggest.
    """
    return _interval_of_mean(a - b, groups, draws, seed, lowest=-1.0)


def std_interval(correct: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Return the corrected std over prompts, with its interval where the accuracies look normal.

    A bootstrap-t over prompts of the logarithm of the observed variance (Efron, Tibshirani: An Introduction to the
    Bootstrap, 1993, sections 12.5 and 12.6), less the noise of the examples at both ends. Widened for few prompts as
    the mean's interval is. It holds what it says where prompt effects are about normal, and not where some prompts fail
    and the others do not. So none is given where a test of normality of the accuracies (Shapiro, Wilk: Biometrika 1965)
    has p < 0.05, nor where all are equal. What no sample can show remains: that there are failing prompts, if it has none.
    """
    accuracy, noise = correct.mean(1), noise_variance(correct, groups)
    value = corrected_std(correct, groups)
    if np.ptp(accuracy) == 0 or shapiro(accuracy).pvalue < 0.05:
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
    largest = (correct.max() - correct.min()) / 2  # that a std can be
    low, high = np.minimum(np.sqrt(np.maximum(0.0, ends - noise)), largest)
    return Estimate(value, float(low), float(high))


def worst_without_selection(correct: Array, groups: Groups, splits: int = 200, seed: int = 0) -> float:
    """Return the accuracy of the worst prompt, chosen on one half of the examples and measured on the other.

    The least of many noisy accuracies is less than the least true one; this is free of that. The mean over random halves, both
    ways; never more than the mean of all prompts, which it would exceed by chance where they are alike. No interval: none can
    be promised for a minimum.
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
    return float(min(np.mean(found), correct.mean()))


def agreement(predictions: NDArray[np.int32]) -> float:
    """Return how often two prompts predict the same choice: the mean over pairs of prompts and examples.

    Args:
        predictions: (P, E), the index of the predicted choice; -1, where none was found, agrees with nothing.
    """
    prompts, examples = predictions.shape
    counts = _votes(predictions)
    return float((counts * (counts - 1)).sum() / (prompts * (prompts - 1)) / examples)


def majority_accuracy(predictions: NDArray[np.int32], gold: NDArray[np.int32]) -> float:
    """Return the accuracy of the choice that most prompts predict; of equals the one with the lowest index.

    Args:
        predictions: (P, E), the index of the predicted choice; -1, where none was found, is no vote, and an example
            without a vote is answered wrongly.
        gold: (E,), the index of the right choice.
    """
    votes = _votes(predictions)
    return float(((votes.argmax(0) == gold) & votes.any(0)).mean())


def compare(a: Array, b: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two runs on the cells they share.

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
        wins=int((gains > _EQUAL).sum()),
        ties=int((np.abs(gains) <= _EQUAL).sum()),
        losses=int((gains < -_EQUAL).sum()),
        by_seed=tuple((a - b).mean((1, 2)).tolist()),
    )


def swap_test(a: Array, b: Array, groups: Groups, draws: int = 10_000, seed: int = 0) -> tuple[float, int]:
    """Return the two-sided p of the hypothesis that a and b, both (S, P, E), vary equally over prompts, and which varies more.

    That is 1 for a, -1 for b and 0 for neither, by the test's own statistic.

    Each run is centred at its median prompt; then a and b are swapped, or not, at random on each prompt, again and again
    (Good: Permutation, Parametric, and Bootstrap Tests of Hypotheses, 2005). The statistic is the difference of the squared
    distances from the median less the examples' noise; a swap changes the sign of a prompt's term. The median, after
    Brown, Forsythe (JASA 1974): a mean is moved by a failing prompt, and then all the others seem to vary.

    Exact where a and b are exchangeable on each prompt once centred, but for the centres' being estimated; for two modes of
    like weight, between which the median jumps, it is not (see coverage.py). If only k prompts fail, p cannot fall far
    below 2 ** (1 - k). The classical test for pairs (Pitman, Morgan: Biometrika 1939) correlates a + b with a - b; it needs
    normal accuracies (where a few prompts fail it tells equals apart far too often), and it takes the
    examples' noise, larger in the less accurate run, for variation over prompts.
    """
    of_a, of_b = (np.mean([_squares(one, groups) for one in runs], axis=0) for runs in (a, b))
    terms = of_a - of_b
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(terms)))
    beyond = np.abs(signs @ terms) >= np.abs(terms.sum()) * (1 - 1e-12)
    p = float((1 + beyond.sum()) / (1 + draws))  # never zero: Phipson, Smyth, SAGMB 2010
    return p, int(np.sign(terms.sum()))


def seed_variance(correct: Array, groups: Groups) -> SeedVariance:
    """Separate what seeds, prompts and their interaction do to the accuracy.

    The analysis-of-variance estimators of a three-way crossed random model, seeds x prompts x examples, without
    replication (Searle, Casella, McCulloch: Variance Components, 1992, chapter 4), those below zero set to zero.

    Args:
        correct: (S, P, E), of at least two seeds, two prompts and two groups.
    """
    seeds, prompts, examples = correct.shape
    residual = _centre(correct).reshape(-1, examples)  # no pair of the three factors explains it
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
    """Take the mean along every axis out: what is left is what no effect of fewer factors explains."""
    for axis in range(values.ndim):
        values = values - values.mean(axis, keepdims=True)
    return values


def _noise(residual: Array, groups: Groups) -> Array:
    """Return what residuals (R, E) of the examples add to the squared deviation of each row's mean: (R,)."""
    sums = _sum_groups(residual, groups)
    n = sums.shape[1]
    return np.asarray((sums**2).sum(1) * n / (n - 1) / residual.shape[1] ** 2)


def _squares(correct: Array, groups: Groups) -> Array:
    """Return the squared distance (P,) of each accuracy from their median, less what the examples' noise adds to it."""
    accuracy = correct.mean(1)
    return np.asarray((accuracy - np.median(accuracy)) ** 2 - _noise(_centre(correct), groups))


def _interval_of_mean(values: Array, groups: Groups, draws: int, seed: int, lowest: float) -> Estimate:
    """Return the interval that mean_interval describes; values (P, E) lie between `lowest` and 1."""
    generator = np.random.default_rng(seed)
    value = float(values.mean())
    by_prompt = values.mean(1)
    sums, sizes = _sum_groups(values.sum(0, keepdims=True), groups)[0], np.bincount(_dense(groups)) * len(values)
    prompts, n_groups = len(by_prompt), len(sizes)
    of_prompts = _resampled_means(by_prompt, np.ones(prompts), draws, generator) - value
    of_groups = _resampled_means(sums, sizes.astype(float), draws, generator) - value
    of_prompts *= np.sqrt(prompts / (prompts - 1))
    of_groups *= np.sqrt(n_groups / (n_groups - 1))
    variances = np.array([of_prompts.var(), of_groups.var()])
    if not variances.any():
        return Estimate(value)
    freedom = variances.sum() ** 2 / (variances**2 / np.array([prompts - 1, n_groups - 1])).sum()
    interaction = noise_variance(values, groups) / prompts
    once = max(variances.sum() - interaction, interaction) / variances.sum()
    deviations = (of_prompts + of_groups) * float(np.sqrt(once) * t.ppf(0.975, freedom) / norm.ppf(0.975))
    low, high = np.clip(value + np.quantile(deviations, [0.025, 0.975]), lowest, 1.0)
    return Estimate(value, float(low), float(high))


def _votes(predictions: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count for each choice and example the prompts that predict it: (choices, E), of one choice at least."""
    return np.stack([(predictions == choice).sum(0) for choice in range(max(int(predictions.max()), 0) + 1)])


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
