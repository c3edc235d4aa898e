"""Do the 95% intervals hold the truth 95 times in 100? Simulated score matrices with a known truth.

    python experiments/benchmarks/coverage.py [--report experiments/results/coverage]

An answer is right where 0.5 + prompt effect + example effect + noise > 0, all normal; example effects and noise have
std 1, prompt effects a std that is varied. The truth is that of all prompts and examples of this kind. For the paired
difference a second matrix has the same examples and other prompt effects, and a mean that is 0.1 higher.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import norm

from paft.cli import run_plain
from paft.evaluation.statistics import Array, mean_interval, std_interval
from paft.runs import write_atomically

_EXAMPLES = 200
_BASE, _BETTER = 0.5, 0.6


def simulate(prompts: Array, difficulty: Array, base: float, generator: np.random.Generator) -> Array:
    """Return a matrix (P, E) of right and wrong answers from effects (P,) and (E,)."""
    noise = generator.normal(size=(len(prompts), len(difficulty)))
    return (base + prompts[:, None] + difficulty + noise > 0).astype(float)


def true_mean(base: float, spread: float) -> float:
    """Return the accuracy over all prompts and examples."""
    return float(norm.cdf(base / np.sqrt(2 + spread**2)))


def true_std(base: float, spread: float) -> float:
    """Return the std over all prompts of the accuracy over all examples, by quadrature over 20,001 quantiles."""
    effects = spread * norm.ppf((np.arange(20_001) + 0.5) / 20_001)
    return float(norm.cdf((base + effects) / np.sqrt(2)).std())


def coverage(prompts: int, spread: float, simulations: int, draws: int) -> dict[str, float]:
    """Return the share of simulations in which each interval holds the truth."""
    generator = np.random.default_rng(prompts)
    mean, std = true_mean(_BASE, spread), true_std(_BASE, spread)
    difference = true_mean(_BETTER, spread) - mean
    groups = np.arange(_EXAMPLES)
    held = {"mean": 0, "paired difference": 0, "std": 0}
    for seed in range(simulations):
        difficulty = generator.normal(size=_EXAMPLES)
        one, other = (simulate(generator.normal(0, spread, prompts), difficulty, b, generator) for b in (_BASE, _BETTER))
        found = {
            "mean": (mean, mean_interval(one, groups, draws, seed)),
            "paired difference": (difference, mean_interval(other - one, groups, draws, seed)),
            "std": (std, std_interval(one, groups, draws, seed)),
        }
        for name, (truth, interval) in found.items():
            held[name] += interval.low <= truth <= interval.high
    return {"true std": std} | {name: count / simulations for name, count in held.items()}


def main() -> None:
    """Simulate and print the coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--report", type=Path, default=Path("outputs/coverage"))
    arguments = parser.parse_args()
    rows = [
        {"prompts": prompts, "spread": spread, **coverage(prompts, spread, arguments.simulations, arguments.draws)}
        for prompts in (20, 50)
        for spread in (0.03, 0.3, 0.8)
    ]
    page = ["# Coverage of the 95% intervals", ""]
    page += ["| prompts | true std, points | mean | paired difference | std |", "|---:|---:|---:|---:|---:|"]
    page += [
        f"| {row['prompts']} | {100 * row['true std']:.1f} | "
        + " | ".join(f"{100 * row[name]:.1f}" for name in ("mean", "paired difference", "std"))
        + " |"
        for row in rows
    ]
    page += [
        "",
        f"Percent of {arguments.simulations:,} simulated matrices of {_EXAMPLES} examples whose interval holds the truth; ",
    ]
    page[-1] += f"{arguments.draws:,} bootstrap draws. Made by `python experiments/benchmarks/coverage.py`."
    print("\n".join(page))
    arguments.report.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.report / "README.md", "\n".join(page) + "\n")
    write_atomically(arguments.report / "results.json", json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_plain(main)
