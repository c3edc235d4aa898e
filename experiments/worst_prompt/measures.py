"""What else reports say of a run's prompts, for both arms of the comparison: sensitivity, calibration, parts of the spread."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import t

from paft.evaluation.statistics import EQUAL, Array, Estimate
from paft.reporting.page import bracketed, percent, table
from paft.reporting.results import Results
from paft.reporting.runs import FinishedRun, TableRow

POSIX = "POSIX (nats)"
Value = Callable[[Results], float | None]


def _calibration(results: Results, name: str) -> float | None:
    found = None if results.sensitivity is None else results.sensitivity.calibration
    return None if found is None else float(getattr(found, name))


def _con(results: Results, name: str) -> float | None:
    found = results.extra_measures.adversarial
    return None if found is None else float(getattr(found, name))


# Fractions, but for POSIX, which is in nats.
MEASURES: dict[str, Value] = {
    "fifth percentile of the prompts": lambda r: None if r.tail is None else r.tail.p5,
    "worst prompt, chosen on other examples": lambda r: None if r.uncertainty is None else r.uncertainty.worst,
    "std over prompts, less the examples' noise": lambda r: None if r.uncertainty is None else r.uncertainty.std.value,
    "answers that another prompt changes": lambda r: None if r.sensitivity is None else r.sensitivity.flip_rate,
    "PSS": lambda r: None if r.sensitivity is None else r.sensitivity.pss,
    POSIX: lambda r: None if r.sensitivity is None else r.sensitivity.posix,
    "calibration error under a prompt": lambda r: _calibration(r, "ece"),
    "the same under the worst prompt": lambda r: _calibration(r, "worst_ece"),
    "Con": lambda r: _con(r, "mean"),
    "Con, worst": lambda r: _con(r, "worst"),
}


def measure_lines(runs: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """Return the section of the page.

    Args:
        runs: of the baseline and of the method, of the same seeds in the same order.
    """
    rows = []
    for name, value in MEASURES.items():
        baseline, method = ([value(run.results) for run in runs[arm]] for arm in ("baseline", "method"))
        if None in (*baseline, *method):
            continue
        a, b = (np.array(values, dtype=float) for values in (baseline, method))
        difference = over_seeds(b - a)
        if name == POSIX:
            rows.append([name, *(f"{v.mean():.3f}" for v in (a, b)), _nats(difference)])
        else:
            rows.append([name, *(percent(float(v.mean())) for v in (a, b)), bracketed(difference, "+")])
    con = " Con: the accuracy under perturbed prompts (extra_measures=[adversarial]), and under the worst of them."
    con = con if any(name == "Con" for name, *_ in rows) else ""
    return [
        "## Other measures",
        "",
        *table(["on all test prompts", "baseline", "method", "difference"], rows),
        "Percent, but for POSIX; means over seeds. In brackets 95% intervals for other seeds alone: they do not cover other "
        "prompts. PSS: how often another prompt makes a right answer wrong, or a wrong one right. POSIX: by how much "
        f"another prompt changes the log-probability of an answer, a token.{con}",
        "",
        *_parts(runs),
    ]


def over_seeds(differences: Array) -> Estimate:
    """Return the mean of paired differences (S,) with a t interval; none for fewer than three seeds, or if all are equal."""
    mean, n = float(differences.mean()), len(differences)
    if n < 3 or np.ptp(differences) <= EQUAL:
        return Estimate(mean)
    half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1)) / n**0.5
    return Estimate(mean, mean - half, mean + half)


def _nats(estimate: Estimate) -> str:
    ends = "" if estimate.low is None else f" [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    return f"{estimate.value:+.3f}{ends}"


def _parts(sides: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """Return a table of how much accuracies vary over prompts, over seeds, and over both together."""
    spreads = {arm: TableRow(list(own), own[0].dataset).spread for arm, own in sides.items()}
    rows = [[arm, *map(percent, (own.prompt, own.seed, own.interaction))] for arm, own in spreads.items() if own is not None]
    if not rows:
        return []
    return [
        *table(["std of the accuracy, points", "over prompts", "over seeds", "prompt x seed"], rows),
        "Less the noise of finitely many examples. Over prompts: of a prompt's mean over seeds; over seeds: of a seed's mean "
        "over prompts; prompt x seed: what a prompt gains or loses with one seed in particular.",
        "",
    ]
