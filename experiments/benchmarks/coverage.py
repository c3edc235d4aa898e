"""Do the 95% intervals hold the truth 95 times in 100? Simulated score matrices with a known truth.

    python -m experiments.benchmarks.coverage [--report experiments/results/coverage]

An answer is right where prompt effect + example effect + noise > 0; example effects and noise are normal with std 1 (of
examples in articles, half of the variance is the article's). Prompt effects are normal around 0.5 with a std that is varied,
or prompts fail: most are normal around 1.8 (nine answers of ten are right), the others at 0 (half are right, as by chance
between two choices). The truth is that of all prompts and examples of the kind. For the paired comparison a second matrix
has the same examples and other prompts' effects of the same distribution, 0.1 higher;
for the swap test a third, of the same distribution as the first.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy.stats import norm

import paft
from paft.cli.hydra_app import run_plain
from paft.evaluation.statistics import Array, Estimate, difference_interval, mean_interval, std_interval, swap_test
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
    parser.add_argument("--report", type=Path, default=Path("outputs/coverage"))
    arguments = parser.parse_args()
    cases = [Case(kind, prompts, per) for kind in PROMPTS for prompts in (20, 50) for per in (1, 4)]
    rows = []
    with ProcessPoolExecutor() as pool:  # a simulation is its seed's, whichever process it runs in
        for case in cases:
            simulations = pool.map(partial(measure, case, arguments.draws), range(arguments.simulations), chunksize=25)
            rows.append(row(case, list(simulations)))
            print(*(f"{value:.3f}" if isinstance(value, float) else value for value in rows[-1].values()), flush=True)
    page = render(rows, arguments.simulations, arguments.draws)
    print("\n".join(page))
    write(arguments.report, page)
    results = {
        "simulations": arguments.simulations,
        "draws": arguments.draws,
        "examples": _EXAMPLES,
        "versions": {"paft": paft.__version__} | {name: metadata.version(name) for name in ("numpy", "scipy")},
        "rows": rows,
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
        "Made by `python -m experiments.benchmarks.coverage`.",
    ]


if __name__ == "__main__":
    run_plain(main)
