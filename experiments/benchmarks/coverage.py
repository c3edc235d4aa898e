"""Do the 95% intervals hold the truth 95 times in 100? Simulated score matrices with a known truth.

    python -m experiments.benchmarks.coverage [--report experiments/results/coverage]

An answer is right where prompt effect + example effect + noise > 0; example effects and noise are normal with std 1 (of
examples in articles, half of the variance is the article's). Prompt effects are normal around 0.5 with a std that is varied,
or prompts fail: most are normal around 1.8 (nine answers of ten are right), the others at 0 (half are right, as by chance
between two choices). The truth is that of all prompts and examples of the kind. For the paired comparison a second matrix
has the same examples and other prompts' effects of the same distribution, 0.1 higher;
for the swap test a third, of the same distribution as the first.

The worst tenth of the prompts (CVaR10) of two methods: accuracies are 0.85 minus the difficulty of a prompt and that of its
family of four (gamma, so that a few prompts are much worse than the others), plus what a method at a prompt, a seed, and a seed
at a prompt add (normal). One method is better by a constant. The truth is that of all prompts, seeds and examples of the kind.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy.stats import norm, t

import paft
from paft.cli.hydra_app import run_plain
from paft.evaluation.statistics import Array, Estimate, difference_interval, mean_interval, std_interval, swap_test
from paft.evaluation.tail import cvar, cvar_difference
from paft.reporting.page import table, write, write_json

_EXAMPLES = 200
_BETTER = 0.1

Mixture: TypeAlias = tuple[tuple[float, float, float], ...]  # of prompt effects: weight, mean, std of each normal part

PROMPTS: dict[str, Mixture] = {
    "normal, small": ((1.0, 0.5, 0.03),),
    "normal, middle": ((1.0, 0.5, 0.3),),
    "normal, large": ((1.0, 0.5, 0.8),),
    "one in ten fails": ((0.9, 1.8, 0.1), (0.1, 0.0, 0.0)),
    "half fail": ((0.5, 1.8, 0.1), (0.5, 0.0, 0.0)),
}


@dataclass(frozen=True)
class Case:
    """How many prompts, of which kind, and how many examples share an article (1: none do)."""

    kind: str
    prompts: int
    per_article: int


@dataclass(frozen=True)
class Found:
    """What one simulation found; std is None where no interval was given."""

    mean: bool
    difference: bool
    std: bool | None
    alike_rejected: bool  # at 5%, though both matrices vary alike over prompts


@cache
def truth(mixture: Mixture, better: float = 0.0) -> tuple[float, float]:
    """Return mean and std over all prompts of the accuracy over all examples, by quadrature over 20,001 quantiles."""
    quantiles = norm.ppf((np.arange(20_001) + 0.5) / 20_001)
    weights, means, spreads = (np.array(values)[:, None] for values in zip(*mixture, strict=True))
    accuracy = norm.cdf((means + better + spreads * quantiles) / np.sqrt(2))
    mean = (weights * accuracy).sum() / 20_001
    return float(mean), float(np.sqrt((weights * (accuracy - mean) ** 2).sum() / 20_001))


def simulate(case: Case, seed: int) -> tuple[Array, Array, Array]:
    """Return matrices (P, E) of right and wrong answers to the same examples: one, a better one, one of the first kind."""
    generator = np.random.default_rng([seed, case.prompts, case.per_article])
    own = generator.normal(size=_EXAMPLES)
    articles = generator.normal(size=_EXAMPLES // case.per_article).repeat(case.per_article)
    difficulty = own if case.per_article == 1 else (own + articles) / np.sqrt(2)
    weights, means, spreads = (np.array(values) for values in zip(*PROMPTS[case.kind], strict=True))

    def answers(better: float) -> Array:
        part = generator.choice(len(weights), case.prompts, p=weights)
        prompts = generator.normal(means[part] + better, spreads[part])
        return (prompts[:, None] + difficulty + generator.normal(size=(case.prompts, _EXAMPLES)) > 0).astype(float)

    return answers(0.0), answers(_BETTER), answers(0.0)


def measure(case: Case, draws: int, seed: int) -> Found:
    """Simulate once and see which intervals hold the truth."""
    one, other, alike = simulate(case, seed)
    groups = np.arange(_EXAMPLES) // case.per_article
    (mean, std), (better, _) = truth(PROMPTS[case.kind]), truth(PROMPTS[case.kind], _BETTER)
    return Found(
        bool(holds(mean_interval(one, groups, draws, seed), mean)),
        bool(holds(difference_interval(other, one, groups, draws, seed), better - mean)),
        holds(std_interval(one, groups, draws, seed), std),
        swap_test(alike[None], one[None], groups, draws, seed)[0] < 0.05,
    )


def holds(estimate: Estimate, true: float) -> bool | None:
    """Say whether an interval holds the truth; None if there is no interval."""
    if estimate.low is None or estimate.high is None:
        return None
    return estimate.low <= true <= estimate.high


@dataclass(frozen=True)
class TailCase:
    """Stds (of accuracies) over prompts, seeds, seed x prompt and method x prompt; the gain of one method; sizes."""

    world: str
    prompt: float
    seed: float
    interaction: float
    method: float
    gain: float
    seeds: int
    prompts: int


_TAIL_EXAMPLES = 200
_PROMPTS_PER_FAMILY = 4
# prompt, seed, seed x prompt, method x prompt: of a task near its ceiling, and of one where prompts decide
_WORLDS = {
    "seeds decide": (0.025, 0.018, 0.05, 0.01),
    "prompts decide": (0.05, 0.007, 0.015, 0.01),
    "methods differ": (0.05, 0.01, 0.02, 0.04),
}
TAILS = [
    TailCase(world, *stds, gain, seeds, prompts)
    for world, stds in _WORLDS.items()
    for gain in (0.0, 0.03)
    for seeds, prompts in ((5, 200), (12, 100), (12, 200))
]


def arms(case: TailCase, generator: np.random.Generator, prompts: int, seeds: int) -> tuple[Array, Array]:
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
def true_gain(case: TailCase) -> float:
    """Return the difference of CVaR10 over all prompts and seeds, by 200,000 prompts of 50 seeds."""
    one, other = arms(case, np.random.default_rng(0), 200_000, 50)
    return float((cvar(one, 0.1) - cvar(other, 0.1)).mean())


def measure_tail(case: TailCase, seed: int) -> tuple[bool | None, bool, bool]:
    """Simulate once: whether the interval holds the truth, whether it lies above zero, whether one over seeds alone does."""
    generator = np.random.default_rng([seed, case.seeds, case.prompts])
    a, b = (
        (generator.random((*side.shape, _TAIL_EXAMPLES)) < side[..., None]).astype(float)
        for side in arms(case, generator, case.prompts, case.seeds)
    )
    found = cvar_difference(a, b, [f"family {i // _PROMPTS_PER_FAMILY}" for i in range(case.prompts)])
    by_seed = cvar(a.mean(2), 0.1) - cvar(b.mean(2), 0.1)
    half = float(t.ppf(0.975, case.seeds - 1)) * float(by_seed.std(ddof=1)) / np.sqrt(case.seeds)
    return holds(found, true_gain(case)), found.low is not None and found.low > 0, bool(by_seed.mean() - half > 0)


def tail_row(case: TailCase, simulations: list[tuple[bool | None, bool, bool]]) -> dict[str, str | int | float | None]:
    """Return the row of a case: shares of the simulations."""
    held, above, seeds_alone = (float(np.mean([bool(s[i]) for s in simulations])) for i in range(3))
    sizes: dict[str, str | int | float | None] = {
        "world": case.world,
        "gain": true_gain(case),
        "seeds": case.seeds,
        "prompts": case.prompts,
    }
    return sizes | {"interval": held, "above zero": above, "seeds alone above zero": seeds_alone}


def row(case: Case, simulations: list[Found]) -> dict[str, str | int | float | None]:
    """Return a row of the table: shares of the simulations."""
    shown = [f.std for f in simulations if f.std is not None]
    return {
        "prompt effects": case.kind,
        "prompts": case.prompts,
        "per article": case.per_article,
        "true std": truth(PROMPTS[case.kind])[1],
        "mean": float(np.mean([f.mean for f in simulations])),
        "paired difference": float(np.mean([f.difference for f in simulations])),
        "std": float(np.mean(shown)) if shown else None,
        "std shown": len(shown) / len(simulations),
        "swap test": float(np.mean([f.alike_rejected for f in simulations])),
    }


def main() -> None:
    """Simulate and print the coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tails", type=int, default=500, help="simulations of the worst tenth")
    parser.add_argument("--report", type=Path, default=Path("outputs/coverage"))
    arguments = parser.parse_args()
    cases = [Case(kind, prompts, per) for kind in PROMPTS for prompts in (20, 50) for per in (1, 4)]
    rows = []
    with ProcessPoolExecutor() as pool:  # a simulation is its seed's, whichever process it runs in
        for case in cases:
            simulations = pool.map(partial(measure, case, arguments.draws), range(arguments.simulations), chunksize=25)
            rows.append(row(case, list(simulations)))
            print(*(f"{value:.3f}" if isinstance(value, float) else value for value in rows[-1].values()), flush=True)
        tails = []
        for tail in TAILS:
            found = pool.map(partial(measure_tail, tail), range(arguments.tails), chunksize=25)
            tails.append(tail_row(tail, list(found)))
            print(*(f"{value:.3f}" if isinstance(value, float) else value for value in tails[-1].values()), flush=True)
    page = render(rows, arguments.simulations, arguments.draws) + render_tails(tails, arguments.tails)
    print("\n".join(page))
    write(arguments.report, page)
    results = {
        "simulations": arguments.simulations,
        "draws": arguments.draws,
        "examples": _EXAMPLES,
        "versions": {"paft": paft.__version__} | {name: metadata.version(name) for name in ("numpy", "scipy")},
        "rows": rows,
        "tails": tails,
    }
    write_json(arguments.report, results)


def render(rows: list[dict[str, str | int | float | None]], simulations: int, draws: int) -> list[str]:
    """Return the page: a table and what its columns say."""
    headings = ["prompt effects", "prompts", "examples an article", "true std", "mean", "paired difference", "std", "swap test"]
    shown = []
    for r in rows:
        std, share = ("-" if r[key] is None else f"{100 * float(r[key] or 0):.1f}" for key in ("std", "std shown"))
        values = [f"{100 * float(r[key] or 0):.1f}" for key in ("true std", "mean", "paired difference", "swap test")]
        cells = [r["prompt effects"], r["prompts"], r["per article"], *values[:3], f"{std} of the {share} shown", values[3]]
        shown.append(list(map(str, cells)))
    return [
        "# Coverage of the 95% intervals",
        "",
        *table(headings, shown),
        f"Percent of {simulations:,} simulated matrices of {_EXAMPLES} examples whose interval holds the truth; "
        f"{draws:,} bootstrap draws; the true std in points. "
        "The std has an interval where the accuracies look normal: of how many of those shown it holds the truth, and how "
        "many are shown. Swap test: how often it finds, at 5%, that two matrices of one kind vary differently.",
        "",
        "* Where a few prompts fail, the only samples that look normal are those that happen to have no failing prompt: "
        "their interval of the std is wrong, and nothing in such a sample shows it. The mean of such a sample is too high for "
        "the same reason. More prompts help, other formulas do not.",
        "",
    ]


def render_tails(rows: list[dict[str, str | int | float | None]], simulations: int) -> list[str]:
    """Return the part of the page on the worst tenth of the prompts."""
    headings = ["world", "true gain", "seeds", "prompts", "holds the truth", "above zero", "above zero by seeds alone"]
    shown = [
        [str(r["world"]), f"{100 * float(r['gain'] or 0):.1f}", str(r["seeds"]), str(r["prompts"])]
        + [f"{100 * float(r[key] or 0):.1f}" for key in ("interval", "above zero", "seeds alone above zero")]
        for r in rows
    ]
    return [
        "## The worst tenth of the prompts, of two methods",
        "",
        *table(headings, shown),
        f"Percent of {simulations:,} simulated studies of {_TAIL_EXAMPLES} examples. The interval is for other seeds and other "
        "families of prompts: variance over seeds plus the delete-one-family jackknife. In the last column it is a t interval "
        "over seeds alone. Where the true gain is 0, at most 2.5% should lie above zero: where methods dislike different "
        "prompts, seeds alone call a method better for the prompts that happen to be in the test.",
        "",
        "Made by `python -m experiments.benchmarks.coverage`.",
    ]


if __name__ == "__main__":
    run_plain(main)
