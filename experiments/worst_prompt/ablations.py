"""The ablations of the page: arms of uniform PAFT that differ in one thing, and whether the difference matters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.worst_prompt.arms import finished_by_arm, missing_seeds, paired
from experiments.worst_prompt.registered import Ablations, Bounds, Registered, equivalents, uncommitted
from paft.evaluation.statistics import Estimate
from paft.evaluation.tail import cvar
from paft.reporting.collect import Collected
from paft.reporting.page import bracketed, bullets, percent, table
from paft.reporting.runs import FinishedRun, TableRow, commits

Runs = Mapping[str, Sequence[FinishedRun]]


@dataclass(frozen=True)
class Compared:
    """An arm beside the one that it is compared with, on the seeds that both have."""

    arm: str
    other: str
    seeds: list[int]
    tail: Estimate  # of CVaR10
    mean: Estimate
    compute: float  # token-equivalents, as a share of the other arm's
    states: int  # of the code, at which the runs were made

    @classmethod
    def of(cls, arm: str, other: str, runs: Runs) -> "Compared | None":
        """Compare two arms; None if one has no run, or they share no seed."""
        both = paired(runs.get(arm, []), runs.get(other, []))
        if both is None:
            return None
        own, others = ([run for run in runs[name] if run.seed in both.seeds] for name in (arm, other))
        compute = sum(map(equivalents, own)) / sum(map(equivalents, others))
        states = len({str(run.results.git) for run in [*own, *others]})
        return cls(arm, other, both.seeds, both.tail(), both.mean(), compute, states)

    def cells(self, bounds: Bounds) -> list[str]:
        """Return the cells of a table: the difference, its seeds, both estimates, and what they say."""
        estimates = [bracketed(self.tail, "+"), bracketed(self.mean, "+")]
        return [f"{self.arm} minus {self.other}", str(len(self.seeds)), *estimates, says(self.tail, self.mean, bounds)]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in plain types."""
        return {**vars(self), "tail": vars(self.tail), "mean": vars(self.mean)}


def ablated_runs(collected: Collected, registered: Registered) -> dict[str, list[FinishedRun]]:
    """Return the finished runs of each arm of the ablations that has some; InputError if they were tested differently."""
    ablations = registered.ablations
    if ablations is None:
        return {}
    typed = {arm: [registered.overrides(arm, seed) for seed in ablations.seeds] for arm in ablations.arms}
    return finished_by_arm(collected, typed)


def compared(runs: Runs, ablations: Ablations) -> list[Compared]:
    """Compare the arms that have runs."""
    found = [Compared.of(arm, other, runs) for arm, other in ablations.against.items()]
    return [one for one in found if one is not None]


def ablation_lines(runs: Runs, found: Sequence[Compared], ablations: Ablations, path: Path) -> list[str]:
    """Return the section of the page.

    Args:
        found: what compared(runs, ablations) returns.
        path: the file of the registration.
    """
    means = []
    for arm, own in runs.items():
        accuracy = TableRow(list(own), own[0].dataset).correct.mean(2)
        tails = cvar(accuracy, 0.1)
        cells = [str(len(own)), percent(float(tails.mean())), f"{percent(float(tails.min()))} to {percent(float(tails.max()))}"]
        means.append(
            [
                arm,
                f"`{' '.join(ablations.arms[arm])}`" if ablations.arms[arm] else "nothing",
                *cells,
                percent(float(accuracy.mean())),
            ]
        )
    headings = ["arm", "differs in", "seeds", "CVaR10", "lowest and highest seed", "mean"]
    bounds, every = ablations.equivalent, [run for own in runs.values() for run in own]
    differences = [[*one.cells(bounds), f"{one.compute:.2f}", str(one.states)] for one in found]
    problems = [*missing_seeds(runs, ablations.arms, len(ablations.seeds)), *uncommitted(every, path)]
    return [
        "## What else matters",
        "",
        *(["EXPLORATORY, not as registered:", "", *bullets(problems)] if problems else []),
        *table(headings, means),
        *(table(["difference", "seeds", "CVaR10", "mean", "says", "compute", "states"], differences) if differences else []),
        f"Percent, on all test prompts. Equivalent: both 95% intervals are within "
        f"±{bounds.cvar10:g} points of CVaR10 and ±{bounds.mean:g} of the mean, which is stricter than two one-sided tests at "
        "5%. Intervals as above; they are not corrected for how many arms there are. Compute: token-equivalents, as a share of "
        "the other arm's. States: at how many commits the runs of both arms were made. Made at "
        f"{commits(run.results.git for run in every)}.",
        "",
    ]


def says(tail: Estimate, mean: Estimate, bounds: Bounds) -> str:
    """Say what two differences show: better, worse, equivalent within the bounds, or not decided."""
    if tail.low is None or tail.high is None or mean.low is None or mean.high is None:
        return "too few seeds or families"
    widest = max(-tail.low, tail.high) / bounds.cvar10, max(-mean.low, mean.high) / bounds.mean
    if 100 * max(widest) <= 1:
        return "equivalent"
    if tail.low > 0:
        return "better at the worst prompts"
    if tail.high < 0:
        return "worse at the worst prompts"
    return "not decided"
