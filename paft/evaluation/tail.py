"""The tail of the accuracies over prompts: how bad it is for those who happen upon an unlucky wording.

The worst prompt of all depends on the luck of one; the mean of the worst tenth (CVaR10) depends on a tenth of the prompts, and
comparisons should be made of it (see experiments/results/coverage).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.statistics import FEWEST, Array, Estimate
from paft.prompts import PromptPool

_FEWEST_SEEDS = 3
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # of the prompts, at which the curve is kept


FEWEST_OF_A_TAIL = 10  # prompts, of which the worst tenth is one


@dataclass(frozen=True)
class Family:
    """The prompts of one family: how many, their mean accuracy, and that of the worst of them."""

    prompts: int
    mean: float
    worst: float


@dataclass(frozen=True)
class Tail:
    """The worst prompts of a matrix; all values are fractions.

    cvar10 is the mean accuracy of the worst tenth of the prompts, curve that of the worst share for each share of the prompts,
    as pairs (share, mean); p5 is the fifth percentile. Of finitely many examples, all are a little below the truth, because the
    worst prompts are chosen by the same examples that measure them.
    """

    cvar10: float
    p5: float
    curve: tuple[tuple[float, float], ...]


def cvar(accuracy: Array, share: float) -> Array:
    """Return the mean of the worst share of values along the last axis; a value may count in part.

    Args:
        accuracy: (..., P).
        share: above 0, at most 1.
    """
    ordered = np.sort(accuracy, axis=-1)
    n = share * ordered.shape[-1]
    weight = np.clip(n - np.arange(ordered.shape[-1]), 0, 1)
    mean: Array = (ordered * weight).sum(-1) / n
    return mean


def tail(matrix: ScoreMatrix) -> Tail:
    """Return the tail of a score matrix."""
    accuracy = matrix.accuracy
    curve = tuple((share, float(cvar(accuracy, share))) for share in SHARES)
    return Tail(float(cvar(accuracy, 0.1)), float(np.quantile(accuracy, 0.05)), curve)


def cvar_difference(a: Array, b: Array, families: Sequence[str], share: float = 0.1) -> Estimate:
    """Return how much better a is than b at its worst prompts, with an interval for other seeds and other families of prompts.

    For each seed the mean accuracy of the worst share of a's prompts minus that of b's, averaged over seeds. The variance over
    seeds (t) and the delete-one-family jackknife over prompts are added, and the degrees of freedom are Satterthwaite's. There
    is no interval for fewer than three seeds or ten families. Both sides are measured on the same examples; the interval does
    not cover other examples.

    Args:
        a: (S, P, E), right (1) and wrong (0), or scores between them.
        b: (S, P, E), the same prompts and examples; seeds are paired in their order.
        families: of each prompt; prompts of a family are no independent evidence.
    """
    one, other = a.mean(2), b.mean(2)
    by_seed = cvar(one, share) - cvar(other, share)
    value, n_seeds = float(by_seed.mean()), len(by_seed)
    names = sorted(set(families))
    if n_seeds < _FEWEST_SEEDS or len(names) < FEWEST:
        return Estimate(value)
    own = np.asarray(families)
    left = [float((cvar(one[:, own != name], share) - cvar(other[:, own != name], share)).mean()) for name in names]
    half = half_width(by_seed, (len(names) - 1) * float(np.var(left)), len(names))
    return Estimate(value, value - half, value + half) if half else Estimate(value)


def half_width(by_seed: Array, of_prompts: float, families: int) -> float:
    """Return half of the 95% interval of a mean over seeds, for other seeds and other families of prompts.

    The variance over seeds and that over families are added. The degrees of freedom are Satterthwaite's.

    Args:
        by_seed: (S,).
        of_prompts: the variance that comes from so many families.
    """
    of_seeds = float(by_seed.var(ddof=1)) / len(by_seed)
    variance = of_seeds + of_prompts
    if variance == 0:
        return 0.0
    freedom = variance**2 / (of_seeds**2 / (len(by_seed) - 1) + of_prompts**2 / (families - 1))
    return float(stats.t.ppf(0.975, freedom)) * variance**0.5


def by_family(accuracy: Array, families: Sequence[str]) -> Mapping[str, Family]:
    """Return the families with their accuracies, the worst first; prompts of no family ("") are left out.

    Args:
        accuracy: (P,).
        families: the name of each prompt's.
    """
    own: dict[str, list[float]] = {}
    for name, value in zip(families, accuracy.tolist(), strict=True):
        if name:
            own.setdefault(name, []).append(value)
    found = {name: Family(len(values), sum(values) / len(values), min(values)) for name, values in own.items()}
    return dict(sorted(found.items(), key=lambda item: item[1].mean))


def families_named(pool: PromptPool) -> dict[str, list[str]]:
    """Return the families of the prompts (P) by wording, by layout, and by kind where all layouts are named KIND/VARIANT."""
    layouts = [template.layout for template in pool.templates]
    families = {"wording": [template.wording for template in pool.templates], "layout": layouts}
    return families | ({"kind": [kind_of(layout) for layout in layouts]} if all("/" in layout for layout in layouts) else {})


def kind_of(layout: str) -> str:
    """Return the kind of a layout family that is named KIND/VARIANT; other names are kinds of their own."""
    return layout.split("/")[0]
