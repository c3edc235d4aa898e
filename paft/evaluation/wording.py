"""What the wording of a prompt costs, and which kinds of prompt it costs most: estimates that do not mistake noise for either.

As in statistics.py, `correct` (P, E) float is right (1) or wrong (0) by prompt and example, or a score in between, and `groups`
(E,) int says which examples belong together. All results are fractions, like accuracies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from paft.evaluation.statistics import FEWEST, Array, Estimate, Groups, can_promise, difference_interval

_EQUAL = 1e-9  # values that differ by no more are equal


@dataclass(frozen=True)
class Kind:
    """A kind of prompt that is worse than the others: its name, how many prompts it has, its mean accuracy, and the others'."""

    name: str
    prompts: int
    mean: float
    others: float


def estimate(values: Array, groups: Groups) -> Estimate:
    """Return the mean of values, with the 95% interval that so many prompts and examples allow.

    Where `can_promise` says so, it is for other prompts and examples of the kind. With fewer than ten prompts it is for other
    examples under these very prompts: a t interval of a ratio, over groups (Cochran: Sampling Techniques, 1977, section 2.11).
    With fewer than ten groups, or where no group differs from another, there is none.

    Args:
        values: (P, E), accuracies or differences of two runs' accuracies.
    """
    if can_promise(values, groups):
        return difference_interval(values, np.zeros_like(values), groups)
    value = float(values.mean())
    sums, sizes = _by_group(values.mean(0, keepdims=True), groups)
    n, residual = len(sizes), sums[0] - value * sizes
    if n < FEWEST or not residual.any():
        return Estimate(value)
    error = np.sqrt(n / (n - 1) * (residual**2).sum()) / sizes.sum()
    half = float(t.ppf(0.975, n - 1) * error)
    return Estimate(value, value - half, value + half)


def cost_of_wording(correct: Array, groups: Groups, share: float = 0.1, splits: int = 200, seed: int = 0) -> Estimate:
    """Return how much less accurate the worst share of the prompts is than the mean of all, with a 95% interval.

    The worst prompts are chosen on one half of the examples and measured on the other, in many random halves, because choosing
    and measuring on the same ones finds bad prompts where there are none. So the value may be below zero.

    The interval adds the variance over prompts (delete-one jackknife of the value; Efron, Tibshirani: An Introduction to the
    Bootstrap, 1993, chapter 11) to that over groups of examples, with the prompts that are the worst on all of them. There is
    none for fewer than ten prompts or groups.

    Args:
        share: of the prompts; below one prompt it is the worst one.
    """
    n_prompts = len(correct)
    sums, sizes = _by_group(correct, groups)
    if len(sizes) < 2:
        return Estimate(_gap(sums, sums / sizes, share))
    generator = np.random.default_rng(seed)
    halves = np.zeros((splits, len(sizes)))
    for half in halves:
        half[generator.permutation(len(sizes))[: len(sizes) // 2]] = 1
    first, second = (sums @ side.T / (side @ sizes) for side in (halves, 1 - halves))
    chosen, measured = np.hstack([first, second]), np.hstack([second, first])  # (P, 2 * splits)
    value = _gap(chosen, measured, share)
    if not can_promise(correct, groups):
        return Estimate(value)
    left = [_gap(np.delete(chosen, i, axis=0), np.delete(measured, i, axis=0), share) for i in range(n_prompts)]
    of_prompts = (n_prompts - 1) * float(np.var(left))
    weights = np.zeros(n_prompts)
    weights[correct.mean(1).argsort(kind="stable")] = _weights(n_prompts, share)
    by_group = sums.mean(0) - weights @ sums
    residual, n = by_group - by_group.sum() / sizes.sum() * sizes, len(sizes)
    of_groups = n / (n - 1) * float((residual**2).sum()) / sizes.sum() ** 2
    variance = of_prompts + of_groups
    if variance == 0:
        return Estimate(value)
    freedom = variance**2 / (of_prompts**2 / (n_prompts - 1) + of_groups**2 / (n - 1))
    half_width = float(t.ppf(0.975, freedom) * np.sqrt(variance))
    return Estimate(value, value - half_width, value + half_width)


def worse_kinds(accuracy: Array, names: Sequence[str], error: float, draws: int = 10_000, seed: int = 0) -> list[Kind]:
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
    values = accuracy[named]
    member = np.eye(len(kinds))[place].T  # (kinds, prompts)
    sizes = member.sum(1)
    others = len(values) - sizes

    def worse(dealt: Array) -> Array:
        """Return by how many standard errors, up to a factor, the mean of each kind (K, draws) is below the others'."""
        below = member @ dealt
        lower: Array = (dealt.sum(0) - below) / others[:, None] - below / sizes[:, None]
        return lower / np.sqrt(1 / sizes + 1 / others)[:, None]

    generator = np.random.default_rng(seed)
    found = worse(values[:, None])[:, 0]
    beyond = np.ones(len(kinds))  # the draw that was found: p is never zero
    for start in range(0, draws, 1000):  # a thousand at a time, to bound memory
        dealt = generator.permuted(np.tile(values[:, None], min(1000, draws - start)), axis=0)
        beyond += (worse(dealt).max(0) >= found[:, None] - _EQUAL).sum(1)
    below = member @ values
    listed = [
        Kind(str(kinds[i]), int(sizes[i]), float(below[i] / sizes[i]), float((values.sum() - below[i]) / others[i]))
        for i in np.argsort(-found, kind="stable")
        if beyond[i] / (draws + 1) <= error
    ]
    return sorted(listed, key=lambda kind: kind.mean)


def _by_group(values: Array, groups: Groups) -> tuple[Array, Array]:
    """Return the sums (P, G) of the columns of values (P, E) by group, and the sizes (G,) of the groups."""
    dense = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((dense.max() + 1, len(values)))
    np.add.at(sums, dense, values.T)
    return sums.T, np.bincount(dense).astype(float)


def _weights(n: int, share: float) -> Array:
    """Return the weights (n,), the worst first, of the mean of the worst share of n values; one may count in part."""
    weights: Array = np.clip(share * n - np.arange(n), 0, 1) / (share * n)
    return weights


def _gap(chosen: Array, measured: Array, share: float) -> float:
    """Return the mean of `measured` (P, S) less that of its worst share, chosen by `chosen` (P, S), averaged over S."""
    order = chosen.argsort(axis=0, kind="stable")
    worst = _weights(len(chosen), share) @ np.take_along_axis(measured, order, axis=0)
    return float((measured.mean(0) - worst).mean())
