"""Does the 95% interval of the worst tenth of the prompts (CVaR10) hold the truth 95 times in 100? Simulated studies.

    python -m experiments.benchmarks.tail_coverage [--report experiments/results/tail_coverage]

Two methods are compared: accuracies are 0.85 minus the difficulty of a prompt and that of its family of four (gamma, so that a
few prompts are much worse than the others), plus what a method at a prompt, a seed, and a seed at a prompt add (normal). One
method is better by a constant. The truth is that of all prompts, seeds and examples of the kind.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path

import numpy as np

import paft
from experiments.benchmarks.coverage import holds
from experiments.worst_prompt.measures import over_seeds
from paft.cli.hydra_app import run_plain
from paft.evaluation.statistics import Array
from paft.evaluation.tail import cvar, cvar_difference
from paft.reporting.page import table, write, write_json


@dataclass(frozen=True)
class Case:
    """Stds (of accuracies) over prompts, seeds, seed x prompt and method x prompt; the gain of one method; sizes."""

    world: str
    prompt: float
    seed: float
    interaction: float
    method: float
    gain: float
    seeds: int
    prompts: int
    examples: int


_PROMPTS_PER_FAMILY = 4
# prompt, seed, seed x prompt, method x prompt: of a task near its ceiling, of one where prompts decide, of one where methods
# dislike different prompts, and of experiments/results/worst_prompt/story_facts
_WORLDS = {
    "seeds decide": (0.025, 0.018, 0.05, 0.01),
    "prompts decide": (0.05, 0.007, 0.015, 0.01),
    "methods differ": (0.05, 0.01, 0.02, 0.04),
    "both decide": (0.064, 0.008, 0.041, 0.022),
}
CASES = [
    Case(world, *stds, gain, *sizes)
    for world, stds in _WORLDS.items()
    for gain in (0.0, 0.03)
    for sizes in ((5, 200, 200), (12, 100, 200), (12, 200, 200), (12, 100, 25), (12, 200, 25))  # seeds, prompts, examples
]


def arms(case: Case, generator: np.random.Generator, prompts: int, seeds: int) -> tuple[Array, Array]:
    """Return the true accuracies (S, P) of two methods, the first better by the gain; families share half of the variance."""

    def skewed(n: int) -> Array:
        return (generator.gamma(1.0, 1.0, n) - 1) / np.sqrt(2)  # mean 0, variance 1/2

    difficulty = case.prompt * (
        skewed(prompts) + skewed(-(-prompts // _PROMPTS_PER_FAMILY)).repeat(_PROMPTS_PER_FAMILY)[:prompts]
    )
    sides = []
    for gain in (case.gain, 0.0):
        own = case.method * generator.normal(size=prompts)
        of_seeds = case.seed * generator.normal(size=(seeds, 1)) + case.interaction * generator.normal(size=(seeds, prompts))
        sides.append(np.clip(0.85 + gain - difficulty + own + of_seeds, 0, 1))
    return sides[0], sides[1]


@cache
def true_gain(case: Case) -> float:
    """Return the difference of CVaR10 over all prompts and seeds, by 200,000 prompts of 50 seeds; both have the same luck."""
    if case.gain == 0:
        return 0.0
    better, same = (arms(replace(case, gain=gain), np.random.default_rng(0), 200_000, 50)[0] for gain in (case.gain, 0.0))
    return float((cvar(better, 0.1) - cvar(same, 0.1)).mean())


def measure(case: Case, seed: int) -> tuple[bool | None, bool, bool]:
    """Simulate once: whether the interval holds the truth, whether it lies above zero, whether one over seeds alone does."""
    generator = np.random.default_rng([seed, case.seeds, case.prompts, case.examples])
    a, b = (
        (generator.random((*side.shape, case.examples)) < side[..., None]).astype(float)
        for side in arms(case, generator, case.prompts, case.seeds)
    )
    found = cvar_difference(a, b, [f"family {i // _PROMPTS_PER_FAMILY}" for i in range(case.prompts)])
    by_seed = cvar(a.mean(2), 0.1) - cvar(b.mean(2), 0.1)
    alone = over_seeds(by_seed).low
    return holds(found, true_gain(case)), found.low is not None and found.low > 0, alone is not None and alone > 0


def row(case: Case, simulations: list[tuple[bool | None, bool, bool]]) -> dict[str, str | int | float | None]:
    """Return the row of a case: shares of the simulations."""
    held, above, seeds_alone = (float(np.mean([bool(s[i]) for s in simulations])) for i in range(3))
    sizes: dict[str, str | int | float | None] = {
        "world": case.world,
        "gain": true_gain(case),
        "seeds": case.seeds,
        "prompts": case.prompts,
        "examples": case.examples,
    }
    return sizes | {"interval": held, "above zero": above, "seeds alone above zero": seeds_alone}


def main() -> None:
    """Simulate and print the coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--report", type=Path, default=Path("outputs/tail_coverage"))
    arguments = parser.parse_args()
    rows = []
    with ProcessPoolExecutor() as pool:  # a simulation is its seed's, whichever process it runs in
        for case in CASES:
            simulations = pool.map(partial(measure, case), range(arguments.simulations), chunksize=25)
            rows.append(row(case, list(simulations)))
            print(*(f"{value:.3f}" if isinstance(value, float) else value for value in rows[-1].values()), flush=True)
    page = render(rows, arguments.simulations)
    print("\n".join(page))
    write(arguments.report, page)
    versions = {"paft": paft.__version__} | {name: metadata.version(name) for name in ("numpy", "scipy")}
    write_json(arguments.report, {"simulations": arguments.simulations, "versions": versions, "rows": rows})


def render(rows: list[dict[str, str | int | float | None]], simulations: int) -> list[str]:
    """Return the page."""
    counts = ("seeds", "prompts", "examples")
    headings = ["world", "true gain", *counts, "holds the truth", "above zero", "above zero by seeds alone"]
    shown = [
        [str(r["world"]), f"{100 * float(r['gain'] or 0):.1f}", *(str(r[key]) for key in counts)]
        + [f"{100 * float(r[key] or 0):.1f}" for key in ("interval", "above zero", "seeds alone above zero")]
        for r in rows
    ]
    return [
        "# Coverage of the 95% interval of the worst tenth of the prompts",
        "",
        *table(headings, shown),
        f"Percent of {simulations:,} simulated studies whose interval holds the truth, or lies above zero; the true gain in "
        "points. The interval is for other seeds and other families of prompts: variance over seeds plus the delete-one-family "
        "jackknife. In the last column it is a t interval over seeds alone. Where the true gain is 0, at most 2.5% should lie "
        "above zero: where methods dislike different prompts, seeds alone call a method better for the prompts that happen to "
        "be in the test.",
        "",
        "Made by `python -m experiments.benchmarks.tail_coverage`.",
    ]


if __name__ == "__main__":
    run_plain(main)
