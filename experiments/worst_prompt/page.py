"""The page of the comparison: endpoints with intervals, a forest plot, the curve of the worst prompts, kinds, seeds."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiments.worst_prompt.ablations import ablated_runs, ablation_lines, compared
from experiments.worst_prompt.arms import Arms, arms_of
from experiments.worst_prompt.measures import measure_lines
from experiments.worst_prompt.planning import power_lines
from experiments.worst_prompt.registered import FORWARD, Registered, compute, exploratory, unregistered
from paft.evaluation.tail import SHARES, cvar
from paft.reporting.collect import Collected, keep_runs
from paft.reporting.page import bracketed, bullets, percent, table, write, write_json
from paft.reporting.runs import TableRow
from paft.reporting.sweep import given, origin


def write_page(collected: Collected, registered: Registered, path: Path, out: Path, keep: bool) -> None:
    """Write README.md, results.json and figures; raises InputError if the arms are not there."""
    runs, arms = arms_of(collected, registered)
    problems = exploratory(registered, runs, path) + unregistered(collected.runs, registered)
    tokens, unequal = compute(runs)
    out.mkdir(parents=True, exist_ok=True)
    every = {endpoint.name: arms.of_kinds(endpoint.kinds) for endpoint in registered.endpoints}
    headline = next(iter(every.values()))
    first = runs["baseline"][0]
    matrix = first.matrix(first.dataset)
    chance, constant = matrix.chance, matrix.constant or 0.0
    answers = "; ".join(f"{arm} {given(TableRow(own, own[0].dataset)).text}" for arm, own in runs.items())
    guessed = tail_of_guessing(chance, len(headline.kinds), headline.method.shape[2])
    page = ["# Training that holds at the worst prompt", "", *origin([run for own in runs.values() for run in own])]
    page += ["EXPLORATORY, not the registered comparison:", "", *bullets(problems)] if problems else ["As registered.", ""]
    page += bullets([f"BEWARE: {line}." for line in unequal])
    page += [verdict(headline, registered), ""]
    page += table(["", "prompts", "baseline", "method", "difference"], _rows(every))
    page += [
        f"Percent; {len(arms.seeds)} paired seeds, {arms.method.shape[2]} examples. CVaR10: the mean of the worst tenth of the "
        "prompts within a trained model. In brackets 95% intervals for other seeds and other families of wordings; they do not "
        "cover other examples or other tasks.",
        "",
        f"Guessing gets {percent(chance)} of the mean and, of {len(headline.kinds)} prompts, about {percent(guessed)} of "
        f"CVaR10; one choice throughout gets {percent(constant)} of both. An arm near these has learnt little there that it "
        f"could lose. Answers by place: {answers}.",
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
    page += power_lines(both["method"], both["baseline"], len(arms.kinds), arms.method.shape[2])
    page += ["## Compute", ""]
    page += table(
        ["", "trained tokens", "updates", "seconds of training", "tokens of other forward passes", "trained twice"],
        [
            [
                arm,
                f"{f['tokens']:,.0f}",
                f"{f['updates']:,.0f}",
                f"{f['seconds']:,.0f}",
                f"{f['probe_tokens']:,.0f}",
                f"{f['repeated_tokens']:,.0f}",
            ]
            for arm, f in tokens.items()
        ],
    )
    page += [f"Means over runs. A token of a forward pass alone counts as {FORWARD:g} of a trained one.", ""]
    ablated = ablated_runs(collected, registered)
    differences = compared(ablated, registered.ablations) if registered.ablations is not None else []
    if registered.ablations is not None and ablated:
        page += ablation_lines(ablated, differences, registered.ablations, path)
    page += [f"Baseline: `{' '.join(registered.baseline)}`. Method: `{' '.join(registered.method)}`. Both: "
             f"`{' '.join(registered.common)}`.", "", "Made by `python -m experiments.worst_prompt page`."]  # fmt: skip
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
    if tail.low > 0 and 100 * tail.value >= registered.aim and 100 * mean.low >= -registered.guard:
        return f"{found}: better at the worst prompts by the registered aim of {registered.aim:g} points, the mean no worse."
    if tail.low > 0:
        return (
            f"{found}: better at the worst prompts, short of the registered aim of {registered.aim:g} points or of the guard."
        )
    excluded = f"gains of more than {percent(max(0.0, tail.high))} points are excluded"
    return f"{found}: no gain at the worst prompts is shown; {excluded}."


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
    for (name, own), style in zip(every.items(), ("-", "--", ":", "-."), strict=False):
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
