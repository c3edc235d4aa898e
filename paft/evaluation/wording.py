"""What the wording of a prompt costs, and which kinds of prompt it costs most: estimates that do not mistake noise for either.

As in statistics.py, `correct` (P, E) float is right (1) or wrong (0) by prompt and example, or a score in between, and `groups`
(E,) int says which examples belong together. All results are fractions, like accuracies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f, t

from paft.evaluation.statistics import (
    EQUAL,
    FEWEST,
    Array,
    Estimate,
    Groups,
    can_promise,
    noise_variance,
    sums_by_group,
)
from paft.evaluation.tail import cvar

_WORST = 0.1  # the share of the prompts whose mean a wording may cost
_BLOCKS = 100  # of prompts, at most, that the jackknife leaves out in turn
_NORMAL = 1.4  # of P normal accuracies, the variance of the mean less the worst tenth is about 1.4 / P of its square


@dataclass(frozen=True)
class Kind:
    """A kind of prompt that is worse than the others: its name, how many prompts it has, its mean accuracy, and the others'."""

    name: str
    prompts: int
    mean: float
    others: float


def wording_matters(correct: Array, groups: Groups) -> float:
    """Return the probability of accuracies that differ as much over prompts if the wording did not matter; 1 for one prompt.

    The F test of a two-way analysis of variance without replication: the variance over prompts against the examples' noise.
    """
    n, variance = len(correct), float(correct.mean(1).var(ddof=1)) if len(correct) > 1 else 0.0
    n_groups = len(np.unique(groups))
    if variance == 0 or n_groups < 2:
        return 1.0
    noise = noise_variance(correct, groups)
    return float(f.sf(variance / noise, n - 1, (n - 1) * (n_groups - 1))) if noise else 0.0


def cost_of_wording(correct: Array, groups: Groups) -> Estimate:
    """Return how much less accurate the worst tenth of the prompts is than the mean of all, with a 95% interval.

    Of finitely many examples the worst prompts look worse than they are. What the noise adds to the variance over prompts is
    therefore taken from the square of the difference, as it is exact for normal accuracies; where a few prompts fail by far, it
    changes little.

    The interval adds the variance over prompts (jackknife, one prompt at a time or one of a hundred blocks; Efron, Tibshirani:
    An Introduction to the Bootstrap, 1993, chapter 11), which for few prompts may come out too small, and is at least that of
    normal accuracies, to that over groups of examples. The noise is taken from both ends. In simulations it held the truth 92
    to 100 times in 100 for normal accuracies, and 88 times where one prompt in ten or twenty fails. There is none for fewer
    than ten prompts or groups. An end is never below zero, nor above the mean. Of fewer than ten
    prompts the worst tenth is the worst one.
    """
    accuracy = correct.mean(1)
    gap, n_prompts = _gap(accuracy), len(accuracy)
    sums, sizes = sums_by_group(correct, groups)
    variance, n = float(accuracy.var()) * n_prompts / max(n_prompts - 1, 1), len(sizes)
    noisy = min(1.0, noise_variance(correct, groups) / variance) if variance and n > 1 else 0.0

    def without_noise(end: float) -> float:
        return float(np.sqrt(max(0.0, max(end, 0.0) ** 2 - noisy * gap**2)))

    value = without_noise(gap)
    if not can_promise(correct, groups) or gap < EQUAL:
        return Estimate(value)
    blocks = np.array_split(np.random.default_rng(0).permutation(n_prompts), min(n_prompts, _BLOCKS))
    jackknife = (len(blocks) - 1) * float(np.var([_gap(np.delete(accuracy, block)) for block in blocks]))
    of_prompts = max(jackknife, _NORMAL * gap**2 / n_prompts)
    weights = np.zeros(n_prompts)
    weights[accuracy.argsort(kind="stable")] = _weights(n_prompts)
    by_group = sums.mean(0) - weights @ sums
    residual = by_group - by_group.sum() / sizes.sum() * sizes
    of_groups = n / (n - 1) * float((residual**2).sum()) / sizes.sum() ** 2
    both = of_prompts + of_groups
    freedom = both**2 / (of_prompts**2 / (len(blocks) - 1) + of_groups**2 / (n - 1))
    half = float(t.ppf(0.975, freedom) * np.sqrt(both))
    most = float(accuracy.mean())  # the worst prompts have at least nothing right
    return Estimate(value, without_noise(gap - half), min(without_noise(gap + half), most))


def working_prompts(correct: Array, chance: float, constant: Array | None, groups: Groups, error: float) -> NDArray[np.bool_]:
    """Say (P,) under which prompts, and not under all, a model is right more often than one that reads no row.

    None is named unless the accuracies differ over prompts beyond noise (`wording_matters`), and each that is passes a
    one-sided t test over groups at the level of Bonferroni, so that `error` bounds the probability of naming any by luck.
    With fewer than ten groups none is named.

    Args:
        chance: the accuracy of guessing.
        constant: where (E,) the answer is right that is right most often, as 0 and 1; None: not known.
    """
    none = np.zeros(len(correct), dtype=bool)
    if len(np.unique(groups)) < FEWEST or wording_matters(correct, groups) >= error:
        return none
    above = _more_than(correct, chance, groups, error)
    if constant is not None:
        above &= _more_than(correct, constant, groups, error)
    return none if above.all() else above


def _more_than(correct: Array, reference: float | Array, groups: Groups, error: float) -> NDArray[np.bool_]:
    """Say (P,) which prompts are right more often than a reference, an accuracy or a row of scores (E,).

    The std of groups is at least that of independent rows at the accuracy of the reference: of few rows that are nearly all
    right the sample's own is near zero.
    """
    more, sizes = sums_by_group(correct - reference, groups)
    n, usual = len(sizes), float(np.mean(reference))
    least = np.sqrt(usual * (1 - usual) * sizes.mean())
    needed = t.ppf(1 - error / len(correct), n - 1) * np.maximum(more.std(axis=1, ddof=1), least) / np.sqrt(n)
    above: NDArray[np.bool_] = more.mean(axis=1) > needed + EQUAL
    return above


def worse_kinds(accuracy: Array, names: Sequence[str], error: float, draws: int = 10_000) -> list[Kind]:
    """Return the kinds of prompt whose accuracy is lower than the others' beyond chance, the worst first.

    A permutation test: accuracies are dealt to the prompts anew, and a kind is worse if so low a mean, in standard errors,
    comes up for any kind in at most `error` of the draws (Westfall, Young: Resampling-Based Multiple Testing, 1993, max-T).
    Kinds of a single prompt are hardly ever found: with P prompts one of them is the worst in one of P draws.

    Args:
        accuracy: (P,).
        names: the kind of each prompt; prompts of no kind ("") are left out.
        error: the probability of naming a kind where there is no difference.
    """
    named = np.array([bool(name) for name in names])
    own = np.asarray(names)[named]
    kinds, place = np.unique(own, return_inverse=True)
    if len(kinds) < 2:
        return []
    values = accuracy[named][place.argsort(kind="stable")]  # the prompts of a kind stand together
    sizes = np.bincount(place)
    starts, others = np.cumsum(sizes) - sizes, len(values) - sizes

    def worse(dealt: Array) -> Array:
        """Return by how many standard errors, up to a factor, the mean of each kind (K, draws) is below the others'."""
        below = np.add.reduceat(dealt, starts, axis=0)
        lower: Array = (dealt.sum(0) - below) / others[:, None] - below / sizes[:, None]
        return lower / np.sqrt(1 / sizes + 1 / others)[:, None]

    generator = np.random.default_rng(0)
    found = worse(values[:, None])[:, 0]
    beyond = np.ones(len(kinds))  # the draw that was found: p is never zero
    for start in range(0, draws, 1000):  # a thousand at a time, to bound memory
        dealt = generator.permuted(np.tile(values[:, None], min(1000, draws - start)), axis=0)
        beyond += (worse(dealt).max(0) >= found[:, None] - EQUAL).sum(1)
    below = np.add.reduceat(values, starts)
    listed = [
        Kind(str(kinds[i]), int(sizes[i]), float(below[i] / sizes[i]), float((values.sum() - below[i]) / others[i]))
        for i in np.argsort(-found, kind="stable")
        if beyond[i] / (draws + 1) <= error
    ]
    return sorted(listed, key=lambda kind: kind.mean)


def _weights(n: int) -> Array:
    """Return the weights (n,), the worst first, of the mean of the worst tenth of n values; one may count in part."""
    weights: Array = np.clip(_WORST * n - np.arange(n), 0, 1) / (_WORST * n)
    return weights


def _gap(accuracy: Array) -> float:
    """Return the mean of accuracies (P,) less that of their worst tenth."""
    return float(accuracy.mean() - cvar(accuracy, _WORST))
