"""The page of the comparison: endpoints with intervals, a forest plot, the curve of the worst prompts, kinds, seeds."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiments.worst_prompt.ablations import ablated_runs, ablation_lines, compared
from experiments.worst_prompt.arms import Arms, arms_of
from experiments.worst_prompt.files import typed_path
from experiments.worst_prompt.measures import measure_lines
from experiments.worst_prompt.planning import power_lines
from experiments.worst_prompt.registered import FORWARD, Registered, compute, exploratory, unregistered
from paft.evaluation.tail import SHARES, cvar
from paft.reporting.collect import Collected, keep_runs
from paft.reporting.page import bracketed, bullets, percent, table, write, write_json
from paft.reporting.runs import FinishedRun, TableRow
from paft.reporting.sweep import given, origin
from paft.runtime.errors import InputError


def write_page(collected: Collected, registered: Registered, path: Path, out: Path, keep: bool) -> None:
    """Write README.md, results.json and figures; raises InputError if the arms are not there."""
    runs, arms = arms_of(collected, registered)
    problems = exploratory(registered, runs, path) + unregistered(collected.runs, registered)
    tokens, unequal = compute(runs)
    unknown = [kind for endpoint in registered.endpoints for kind in endpoint.kinds if kind not in arms.kinds]
    if unknown:
        there = ", ".join(dict.fromkeys(arms.kinds))
        raise InputError(f"{path}: no test prompt has a layout of the kind {unknown[0]!r}; there are {there}.")
    out.mkdir(parents=True, exist_ok=True)
    every = {endpoint.name: arms.of_kinds(endpoint.kinds) for endpoint in registered.endpoints}
    headline = next(iter(every.values()))
    page = ["# Training that holds at the worst prompt", "", *origin([run for own in runs.values() for run in own])]
    page += ["EXPLORATORY, not the registered comparison:", "", *bullets(problems)] if problems else ["As registered.", ""]
    page += bullets([f"The compute is not equal: {line}." for line in unequal])
    page += [verdict(headline, registered), ""]
    page += table(["", "prompts", "baseline", "method", "difference"], _rows(every))
    page += [
        f"Percent; {len(arms.seeds)} paired seeds, {arms.method.shape[2]} examples. CVaR10: the mean of the worst tenth of the "
        "prompts within a trained model. In brackets 95% intervals for other seeds and other families of wordings; they do not "
        "cover other examples or other tasks.",
        "",
        beside_guessing(runs, headline),
        "",
        "![differences](forest.png)",
        "",
        "![the worst prompts](curve.png)",
        "",
    ]
    page += ["## By kind of layout", "", *table(["kind", "prompts", "baseline", "method", "difference"], _by_kind(arms))]
    page += ["## By seed", "", *table(["seed", "baseline", "method", "difference"], _by_seed(headline))]
    page += ["CVaR10 of the headline's prompts.", ""]
    both = {
        arm: sorted((run for run in own if run.seed in arms.seeds), key=lambda run: run.seed or 0) for arm, own in runs.items()
    }
    page += measure_lines(both)
    own = arms.places(registered.endpoints[0].kinds)
    page += power_lines(both["method"], both["baseline"], len(own), arms.method.shape[2], own)
    page += compute_lines(tokens)
    ablated = ablated_runs(collected, registered)
    differences = compared(ablated, registered.ablations) if registered.ablations is not None else []
    if registered.ablations is not None and ablated:
        page += ablation_lines(ablated, differences, registered.ablations, path)
    page += [f"Baseline: `{' '.join(registered.baseline)}`. Method: `{' '.join(registered.method)}`. Both: "
             f"`{' '.join(registered.common)}`. Registered in `{typed_path(path)}`.", "",
             f"Made by `python -m experiments.worst_prompt page RUNS --registered {typed_path(path)}`."]  # fmt: skip
    _forest(every, out / "forest.png")
    _curve(every, out / "curve.png")
    write(out, page)
    write_json(out, {
        "registered": registered.model_dump(), "exploratory": problems, "unequal": unequal, "seeds": arms.seeds,
        "endpoints": {name: {"cvar10": vars(own.tail()), "mean": vars(own.mean())} for name, own in every.items()},
        "kinds": {kind: vars(arms.of_kinds([kind]).mean()) for kind in dict.fromkeys(arms.kinds)},
        "ablations": [one.as_json() for one in differences],
    })  # fmt: skip
    if keep:
        keep_runs(collected, out)
    print("\n".join(page))


def beside_guessing(runs: Mapping[str, Sequence[FinishedRun]], headline: Arms) -> str:
    """Say what guessing and one choice throughout get, and what share of the answers is each choice."""
    first = runs["baseline"][0]
    matrix = first.matrix(first.dataset)
    guessed = tail_of_guessing(matrix.chance, len(headline.kinds), headline.method.shape[2])
    said = f"Guessing gets {percent(matrix.chance)} of the mean and, of {len(headline.kinds)} prompts, about "
    said += f"{percent(guessed)} of CVaR10"
    said += "" if matrix.constant is None else f"; one choice throughout gets {percent(matrix.constant)} of both"
    answers = "; ".join(f"{arm} {given(TableRow(list(own), own[0].dataset)).text}" for arm, own in runs.items())
    return f"{said}. An arm near these has learnt little there that it could lose. Answers by place: {answers}."


def compute_lines(arms: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the section of what each arm was trained on, as `compute` returns it."""
    columns = {
        "tokens": "trained tokens",
        "updates": "updates",
        "seconds": "seconds of training",
        "probe_tokens": "tokens of other forward passes",
        "repeated_tokens": "trained twice",
    }
    rows = [[arm, *(f"{own[name]:,.0f}" for name in columns)] for arm, own in arms.items()]
    means = f"Means over runs. A token of a forward pass alone counts as {FORWARD:g} of a trained one."
    return ["## Compute", "", *table(["", *columns.values()], rows), means, ""]


def tail_of_guessing(chance: float, prompts: int, examples: int) -> float:
    """Return the CVaR10 that is expected of prompts all of which are answered by guessing."""
    drawn = np.random.default_rng(0).binomial(examples, chance, (1000, prompts)) / examples
    return float(cvar(drawn, 0.1).mean())


def verdict(headline: Arms, registered: Registered) -> str:
    """Say in a sentence what the headline shows, or what it excludes."""
    tail, mean = headline.tail(), headline.mean()
    name = registered.endpoints[0].name
    if tail.low is None or tail.high is None or mean.low is None:
        return f"{name}: CVaR10 {percent(tail.value, '+')} points; too few seeds or families for an interval."
    found = f"{name}: CVaR10 {bracketed(tail, '+')} points, mean {bracketed(mean, '+')}"
    if tail.low > 0:
        missed = []
        if 100 * tail.value < registered.aim:
            missed.append(f"short of the registered aim of {registered.aim:g} points")
        if 100 * mean.low < -registered.guard:
            missed.append(f"with a mean that may be worse by more than the registered guard of {registered.guard:g} points")
        as_registered = f" by the registered aim of {registered.aim:g} points, the mean no worse"
        return f"{found}: better at the worst prompts{', ' + ' and '.join(missed) if missed else as_registered}."
    if tail.high < 0:
        return f"{found}: worse at the worst prompts."
    most = 1 - float(cvar(headline.baseline.mean(2), 0.1).mean())
    excluded = (
        f"gains of more than {percent(max(0.0, tail.high))} points are excluded" if tail.high < most else "none are excluded"
    )
    return f"{found}: no gain at the worst prompts is shown; of the {percent(most)} that there are to gain, {excluded}."


def _rows(every: dict[str, Arms]) -> list[list[str]]:
    rows = []
    for name, own in every.items():
        for what, share, difference in (("CVaR10", 0.1, own.tail()), ("mean", 1.0, own.mean())):
            values = [percent(float(cvar(side.mean(2), share).mean())) for side in (own.baseline, own.method)]
            rows.append([f"{name}, {what}", str(len(own.kinds)), *values, bracketed(difference, "+")])
    return rows


def _by_kind(arms: Arms) -> list[list[str]]:
    rows = []
    for kind in dict.fromkeys(arms.kinds):
        own = arms.of_kinds([kind])
        means = [percent(float(side.mean())) for side in (own.baseline, own.method)]
        rows.append([kind, str(len(own.kinds)), *means, bracketed(own.mean(), "+")])
    return rows


def _by_seed(headline: Arms) -> list[list[str]]:
    sides = [cvar(side.mean(2), 0.1) for side in (headline.baseline, headline.method)]
    return [[str(seed), percent(a), percent(b), percent(b - a, "+")] for seed, a, b in zip(headline.seeds, *sides, strict=True)]


def _forest(every: dict[str, Arms], path: Path) -> None:
    """Draw the differences with their intervals."""
    rows = [
        (f"{name}, {what}", estimate)
        for name, own in every.items()
        for what, estimate in (("CVaR10", own.tail()), ("mean", own.mean()))
    ]
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(rows) + 1.2))
    for place, (_, estimate) in enumerate(rows):
        axes.plot(100 * estimate.value, place, "o", color="black")
        if estimate.low is not None and estimate.high is not None:
            axes.plot([100 * estimate.low, 100 * estimate.high], [place, place], color="black")
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("method minus baseline, points")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curve(every: dict[str, Arms], path: Path) -> None:
    """Draw the difference of the mean of the worst share of the prompts over that share: did the tail move, or the mean?"""
    figure, axes = plt.subplots(figsize=(7, 3.5))
    for (name, own), style in zip(every.items(), cycle(("-", "--", ":", "-."))):
        found = [own.tail(share) for share in SHARES]
        axes.plot([100 * s for s in SHARES], [100 * e.value for e in found], style, marker="o", color="black", label=name)
        ends = [(100 * e.low, 100 * e.high) for e in found if e.low is not None and e.high is not None]
        if len(ends) == len(found):
            low, high = zip(*ends, strict=True)
            axes.fill_between([100 * s for s in SHARES], low, high, alpha=0.12, color="black")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("worst share of the prompts, percent (100: the mean)")
    axes.set_ylabel("method minus baseline, points")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
