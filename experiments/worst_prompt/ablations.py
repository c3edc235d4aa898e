"""The ablations of the page: arms of uniform PAFT that differ in one thing, and whether the difference matters."""

from experiments.worst_prompt.arms import Arms, paired, runs_of
from experiments.worst_prompt.registered import Bounds, Registered
from paft.evaluation.statistics import Estimate
from paft.evaluation.tail import cvar
from paft.reporting.collect import Collected
from paft.reporting.page import bracketed, percent, table
from paft.reporting.runs import TableRow, commits


def ablation_lines(collected: Collected, registered: Registered) -> list[str]:
    """Return the section of the ablations; none where none is registered or finished."""
    ablations = registered.ablations
    if ablations is None:
        return []
    runs = {arm: runs_of(collected, registered, arm, ablations.seeds) for arm in ablations.arms}
    means, differences = [], []
    for arm, own in runs.items():
        if own:
            accuracy = TableRow(own, own[0].dataset).correct.mean(2)
            tails = cvar(accuracy, 0.1)
            cells = [
                str(len(own)),
                percent(float(tails.mean())),
                f"{percent(float(tails.min()))} to {percent(float(tails.max()))}",
            ]
            means.append([arm, f"`{' '.join(ablations.arms[arm])}`", *cells, percent(float(accuracy.mean()))])
        other = ablations.against.get(arm)
        arms = paired(own, runs[other]) if own and other is not None else None
        if arms is not None:
            differences.append([f"{arm} minus {other}", str(len(arms.seeds)), *_differences(arms, ablations.equivalent)])
    if not means:
        return []
    headings = ["arm", "differs in", "seeds", "CVaR10", "lowest and highest seed", "mean"]
    lines = ["## What else matters", "", *table(headings, means)]
    lines += table(["difference", "seeds", "CVaR10", "mean", "says"], differences)
    bounds = ablations.equivalent
    return [
        *lines,
        f"Percent, on all test prompts. Equivalent: both 95% intervals are within "
        f"±{bounds.cvar10:g} points of CVaR10 and ±{bounds.mean:g} of the mean, which is stricter than two one-sided tests at "
        f"5%. Registered with {len(ablations.seeds)} seeds; what is there of them stands here. Intervals as above; they are "
        "not corrected for how many arms there are. Made at "
        f"{commits(run.results.git for own in runs.values() for run in own)}.",
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


def _differences(arms: Arms, bounds: Bounds) -> list[str]:
    tail, mean = arms.tail(), arms.mean()
    return [bracketed(tail, "+"), bracketed(mean, "+"), says(tail, mean, bounds)]
