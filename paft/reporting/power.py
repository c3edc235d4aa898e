"""How many seeds, prompts and examples show a difference: power, simulated from the runs of a pilot.

The pilot says how much accuracies vary over seeds, over prompts, and over both together, beyond the noise of the examples.
A seed that does badly on one hard prompt does so on others, too: prompts are apart from their mean by a factor of the seed's
own, which is fitted so that the worst tenth varies over seeds as much as the pilot's.
Arms like it are drawn again and again, one of them better by the difference at every prompt, and compared as `paft compare`
compares CVaR10: by an interval for other seeds and other families of prompts. Half of what a method does to a prompt (in
variance) it does to the prompt's family.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from paft.evaluation.statistics import Array, corrected_variance, seed_variance
from paft.evaluation.tail import cvar, half_width
from paft.reporting.compare import correct_of, seeds_of, share
from paft.runtime.errors import InputError

SEEDS = (3, 5, 8, 12, 16, 24, 32, 48)
SIZES = ((50, 100), (50, 500), (100, 200), (200, 100), (200, 200), (200, 500), (400, 100))  # prompts, examples
ENOUGH = 0.8
_PROMPTS_PER_FAMILY = 4
_TRIALS = 200
_LEAST_NOISE = 1e-4
_SEEDS_TO_MATCH = 100
_SOME_HARDNESS = 0.3
_CLEARLY = 0.05


@dataclass(frozen=True)
class Pilot:
    """How accuracies vary, as the runs of a pilot show it; all values are fractions.

    accuracies are those of the pilot's prompts, averaged over its runs: the shape of their distribution. seed, prompt and
    interaction are stds as in SeedVariance; hardness is the std over seeds of the factor by which prompts are apart from their
    mean, which is a part of the interaction; method is the std over prompts of the difference of two methods, beyond chance.
    noise is the variance of scores over examples, as a share of what it would be if answers were right or wrong: 1 if they are.
    """

    accuracies: Array  # (P,)
    seed: float
    prompt: float
    interaction: float
    method: float
    noise: float = 1.0
    hardness: float = 0.0


def read_pilot(a: Sequence[Path], b: Sequence[Path] = (), *, prompts: Sequence[int] | None = None) -> Pilot:
    """Read a pilot: runs of one method that differ in their seed, and perhaps as many of another.

    Args:
        prompts: the places of those that are looked at, among the prompts of all runs as the first has them; None: all.

    Raises InputError for fewer than two runs of a method, and for runs that share too few prompts or examples.
    """
    if len(a) < 2:
        raise InputError("A pilot needs two seeds of a method at least: how much seeds vary decides how many are needed.")
    if b and len(b) != len(a):
        raise InputError(f"{len(a)} runs against {len(b)}: give as many of one method as of the other.")
    runs = share([*seeds_of(a), *seeds_of(b)])
    groups = runs[0].matrix.group_numbers
    own = slice(None) if prompts is None else list(prompts)
    sides = [correct_of(side)[:, own] for side in (runs[: len(a)], runs[len(a) :]) if side]
    variances = [seed_variance(side, groups) for side in sides]
    method = 0.0
    if b:
        apart = corrected_variance(sides[0].mean(0) - sides[1].mean(0), groups)
        method = max(0.0, apart - sum(v.interaction**2 for v in variances) / len(a)) ** 0.5

    def average(name: str) -> float:
        return float(np.mean([getattr(v, name) ** 2 for v in variances])) ** 0.5

    accuracies = np.mean([side.mean((0, 2)) for side in sides], axis=0)
    noise = _noise(np.concatenate(sides))
    pilot = Pilot(accuracies, average("seed"), average("prompt"), average("interaction"), method, noise)
    return replace(pilot, hardness=_hardness(pilot, sides))


def _hardness(pilot: Pilot, sides: Sequence[Array]) -> float:
    """Return the hardness with which the worst tenth of drawn arms varies over seeds as much as that of the pilot (S, P, E).

    At most what the interaction leaves room for.
    """
    _, prompts, examples = sides[0].shape
    if pilot.prompt == 0:
        return 0.0

    def variance(hardness: float) -> float:
        rng = np.random.default_rng(0)
        drawn = (_arms(replace(pilot, hardness=hardness), 0.0, _SEEDS_TO_MATCH, prompts, examples, rng) for _ in range(5))
        return float(np.mean([cvar(arm, 0.1).var(ddof=1) for arms in drawn for arm in arms]))

    found = float(np.mean([cvar(side.mean(2), 0.1).var(ddof=1) for side in sides]))
    none, some = variance(0.0), variance(_SOME_HARDNESS)
    if found <= none or some <= (1 + _CLEARLY) * none:  # in the second case prompts vary too little for it to matter
        return 0.0
    most = pilot.interaction / pilot.prompt
    return min(most, _SOME_HARDNESS * ((found - none) / (some - none)) ** 0.5)  # variances grow with its square


def _noise(correct: Array) -> float:
    """Return the variance of scores (S, P, E) over examples, as a share of that of answers which are right or wrong."""
    means = correct.mean(2)
    largest = float((means * (1 - means)).mean())
    return float(correct.var(axis=2).mean()) / largest if largest > 0 else 1.0


def power(
    pilot: Pilot, difference: float, seeds: int, prompts: int, examples: int, share: float, trials: int = _TRIALS, seed: int = 0
) -> float:
    """Return how often an interval would lie above zero if one arm is better by `difference` at every prompt.

    Args:
        share: of the worst prompts that are compared: 0.1 is CVaR10, 1 the mean.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(trials):
        a, b = _arms(pilot, difference, seeds, prompts, examples, rng)
        found += _lower_end(a, b, share) > 0
    return found / trials


def _arms(
    pilot: Pilot, difference: float, seeds: int, prompts: int, examples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw the accuracies (S, P) of two arms like the pilot, measured on so many examples; the first is better.

    The mean of graded scores is drawn like that of more answers that are right or wrong, which has the same variance.
    """
    centre = pilot.accuracies.mean()
    scale = pilot.prompt / max(float(pilot.accuracies.std()), 1e-9)  # without the noise of examples and seeds
    common = centre + scale * (rng.choice(pilot.accuracies, prompts) - centre)
    of_each = max(0.0, pilot.interaction**2 - (pilot.hardness * pilot.prompt) ** 2) ** 0.5
    arms = []
    for gain in (difference, 0.0):
        of_family = rng.standard_normal(-(-prompts // _PROMPTS_PER_FAMILY)).repeat(_PROMPTS_PER_FAMILY)[:prompts]
        own = pilot.method / 2 * (rng.standard_normal(prompts) + of_family)
        harder = pilot.hardness * rng.standard_normal((seeds, 1)) * (common - centre)
        of_seeds = pilot.seed * rng.standard_normal((seeds, 1)) + harder + of_each * rng.standard_normal((seeds, prompts))
        truth = np.clip(common + own + of_seeds - _room(common) + gain, 0, 1)
        answers = round(examples / max(pilot.noise, _LEAST_NOISE))
        arms.append(rng.binomial(answers, truth) / answers)
    return arms[0], arms[1]


def _room(common: Array) -> float:
    """Return by how much accuracies are lowered so that a gain has room: near 100 none could be seen."""
    return max(0.0, float(np.quantile(common, 0.9)) - 0.97)


def _lower_end(a: Array, b: Array, share: float) -> float:
    """Return the lower end of the 95% interval of the difference (S, P), as cvar_difference has it.

    The variance over families is that of the influence of each prompt, which the jackknife approximates.
    """
    by_seed = cvar(a, share) - cvar(b, share)
    n_prompts = a.shape[1]
    influence = (_influence(a, share) - _influence(b, share)).mean(0)  # (P,)
    n_families = n_prompts // _PROMPTS_PER_FAMILY
    sums = influence[: n_families * _PROMPTS_PER_FAMILY].reshape(n_families, -1).sum(1) / n_prompts
    of_prompts = n_families**2 / (n_families - 1) * float(sums.var())
    return float(by_seed.mean()) - half_width(by_seed, of_prompts, n_families)


def _influence(accuracy: Array, share: float) -> Array:
    """Return the influence (S, P) of each prompt on the mean of the worst share."""
    quantile = np.quantile(accuracy, share, axis=1, keepdims=True)
    return np.asarray(np.minimum(accuracy - quantile, 0) / share + quantile - cvar(accuracy, share)[:, None])


def table_of(pilot: Pilot, difference: float, share: float) -> dict[tuple[int, int], list[float]]:
    """Return the power for each number of seeds in SEEDS, by size (prompts, examples)."""
    return {size: [power(pilot, difference, seeds, *size, share) for seeds in SEEDS] for size in SIZES}


def cheapest(found: dict[tuple[int, int], list[float]]) -> tuple[int, int, int] | None:
    """Return the numbers of seeds, prompts and examples with enough power that score the fewest cells; None if none has."""
    enough = [
        (seeds * prompts * examples, seeds, prompts, examples)
        for (prompts, examples), powers in found.items()
        for seeds, value in zip(SEEDS, powers, strict=True)
        if value >= ENOUGH
    ]
    return min(enough)[1:] if enough else None


def show(pilot: Pilot, difference: float, measure: str, found: dict[tuple[int, int], list[float]]) -> None:
    """Print what the pilot shows, the table of power, and what follows from it."""
    console = Console()
    console.print(
        f"The pilot: mean {100 * float(pilot.accuracies.mean()):.1f}; std over seeds {100 * pilot.seed:.1f}, over prompts "
        f"{100 * pilot.prompt:.1f}, seed x prompt {100 * pilot.interaction:.1f}, method x prompt {100 * pilot.method:.1f}.",
        highlight=False,
    )
    table = Table("prompts x examples", *map(str, SEEDS), title_justify="left")
    table.title = f"Percent of studies that find a difference of {100 * difference:g} points of {measure}, by number of seeds"
    for (prompts, examples), powers in found.items():
        table.add_row(f"{prompts} x {examples}", *(f"{100 * value:.0f}" for value in powers))
    console.print(table)
    best = cheapest(found)
    if best is None:
        console.print(f"None of these has {100 * ENOUGH:.0f}%: the difference is too small for them.", highlight=False)
    else:
        seeds, prompts, examples = best
        console.print(
            f"The fewest cells with {100 * ENOUGH:.0f}%: {seeds} seeds a method, {prompts} prompts x {examples} examples.",
            highlight=False,
        )
    console.print(
        f"For other seeds and other families of prompts ({_PROMPTS_PER_FAMILY} prompts a family), 95% intervals; a seed is a "
        f"pair of runs. Simulated {_TRIALS} times each.",
        highlight=False,
    )
