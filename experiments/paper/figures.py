"""The figures of the report: they can be told apart without colour, and each names its data set."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.paper.published import NAMES, PAPER
from experiments.paper.rows import table_1
from experiments.paper.section import PaperSection
from paft.pools.audit import read_for_audit
from paft.pools.audit_page import Distances, distances, save_curve
from paft.reporting.page import file_name, number, percent, words
from paft.reporting.runs import FinishedRun, TableRow

_SUFFIXES = ("png", "pdf")
_BINS = np.linspace(0, 100, 41)


def _save(figure: Figure, out: Path, name: str) -> None:
    for suffix in _SUFFIXES:
        figure.savefig(out / f"{name}.{suffix}", dpi=150)
    plt.close(figure)


def distributions(runs: pd.DataFrame, out: Path) -> list[PaperSection]:
    """Draw the accuracy over prompts of every method, for each part (paper, Figure 3)."""
    tables = []
    for part, methods in table_1(runs).items():
        name = file_name("figure3", part)
        title = f"Figure 3: accuracy over unseen prompts, {part}"
        _save(_histograms(methods, part), out, name)
        notes = ["The runs of Table 1, all seeds together: a tick is a prompt of one seed. Each row is scaled to its own peak."]
        tables.append(PaperSection(name, title, [], figures={f"{name}.png": title}, notes=notes))
    return tables


def _histograms(methods: Mapping[str, TableRow], part: str) -> Figure:
    """Draw a histogram for each method, below each other, with a tick for each prompt and a line at the mean."""
    figure, rows = plt.subplots(
        len(methods), 1, figsize=(7, 1.1 + 0.75 * len(methods)), layout="constrained", sharex=True, squeeze=False
    )
    first = next(iter(methods.values())).runs[0]
    chance, threshold = first.matrix(part).chance, first.results.threshold
    low, high = _view(methods.values(), chance)
    places = [("chance", chance, ":"), *([] if threshold is None else [("Top", threshold, "--")])]
    references = [(name, 100 * place, style) for name, place, style in places if low <= 100 * place <= high]
    for axes, (method, row) in zip(rows[:, 0], methods.items(), strict=True):
        percents = 100 * row.correct.mean(2).ravel()
        counts, edges = np.histogram(percents, _BINS)
        axes.bar(edges[:-1], counts / counts.max(), width=2.5, align="edge", color="#56B4E9", edgecolor="white", linewidth=0.5)
        axes.vlines(percents, -0.32, -0.08, color="0.25", linewidth=0.8)
        axes.vlines(100 * row.mean.value, -0.32, 1, color="black", linewidth=2.2)
        for _, place, style in references:
            axes.axvline(place, color="0.5", linestyle=style, linewidth=1, zorder=0)
        label = f"{NAMES[method]}\n{percent(row.mean.value)} ± {percent(row.average('std'))}"
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axes.set_yticks([])
        axes.set_ylim(-0.36, 1.05)
        axes.set_xlim(low, high)
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    top = rows[0, 0]
    for name, place, _ in references:
        top.text(place, 1.0, name, transform=top.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
    figure.supxlabel("accuracy on an unseen prompt (%); the line: their mean; mean ± std as in Table 1", fontsize=9)
    figure.suptitle(part, fontsize=11)
    return figure


def _view(rows: Iterable[TableRow], chance: float) -> tuple[float, float]:
    """Return the percents to show: the tens between which all prompts and chance lie, and a little room."""
    seen = np.concatenate([[chance], *(row.correct.mean(2).ravel() for row in rows)])
    return 10 * float(np.floor(10 * seen.min())) - 1, 10 * float(np.ceil(10 * seen.max())) + 1


def draw_pool_size(tables: Sequence[PaperSection], out: Path) -> None:
    """Draw mean, worst prompt and std over the number of training prompts (paper, Figure 8)."""
    for table in tables:
        written = {int(label): row for label, row in table.curve.items() if label.isdigit()}
        if len(written) < 2:
            continue
        composed = {int(label.split(",")[0]): row for label, row in table.curve.items() if not label.isdigit()}
        part = next(iter(written.values())).part
        _save(_over_sizes(written, composed, part), out, table.name)
        table.figures[f"{table.name}.png"] = table.title


def _over_sizes(written: Mapping[int, TableRow], composed: Mapping[int, TableRow], part: str) -> Figure:
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    styles = (("mean", "#0072B2", "-", "o"), ("worst prompt", "#D55E00", "--", "v"), ("std", "#009E73", ":", "s"))
    for name, colour, line, marker in styles:
        for rows, style, face in ((written, line, colour), (composed, "none", "none")):  # no line leads to another kind
            if not rows:
                continue
            values = [100 * _value(row, name) for row in rows.values()]
            label = name + (", with its 95% interval" if name == "mean" else "") if rows is written else None
            axes.plot(list(rows), values, style, color=colour, marker=marker, ms=5, mfc=face, label=label)
            ends = np.array([_ends(row) for row in rows.values()]).T
            if name == "mean":
                axes.vlines(list(rows), *(100 * ends), color=colour, linewidth=1.2)
    sizes = sorted({*written, *composed})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("training prompts" + (" (hollow: put together from parts)" if composed else ""))
    axes.set_ylabel("percent")
    axes.set_ylim(0, 102)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(f"{part}: {_seeds([*written.values(), *composed.values()])}", fontsize=11)
    return figure


def _value(row: TableRow, name: str) -> float:
    return row.mean.value if name == "mean" else row.average({"worst prompt": "min", "std": "std"}[name]) or 0.0


def _ends(row: TableRow) -> tuple[float, float]:
    low, high = row.mean.low, row.mean.high
    return (row.mean.value if low is None else low, row.mean.value if high is None else high)


def _seeds(rows: Sequence[TableRow]) -> str:
    """Say of which seeds a curve is."""
    seeds = {tuple(row.seeds) for row in rows}
    if len(seeds) > 1:
        return "means over unlike seeds (see the table)"
    (same,) = seeds
    return f"seed {same[0]} alone" if len(same) == 1 else f"means over seeds {', '.join(map(str, same))}"


def mmd(runs: pd.DataFrame, out: Path) -> PaperSection:
    """Draw the distance of training and test prompts over the size of the training pool (paper, Figure 9)."""
    headings = ["data set", "embedding", "bandwidth", "MMD², unbiased", "null, 95%", "p", "biased MMD"]
    section = PaperSection("mmd", "Figure 9: distance of training and test prompts", headings)
    for run in runs.query("method == 'paft' and whole_pool").drop_duplicates("dataset")["finished"]:
        if not (apart := _apart(run)):
            continue
        name = file_name("mmd", run.dataset)
        for suffix in _SUFFIXES:
            save_curve(out / f"{name}.{suffix}", {f"{run.dataset}, {kind}": distance for kind, distance in apart.items()})
        section.figures[f"{name}.png"] = f"{section.title}, {run.dataset}"
        for kind, (w, _) in apart.items():
            figures = [number(w.bandwidth, ".3f"), number(w.squared, ".4f"), number(w.null, ".4f"), number(w.p, ".3f")]
            section.rows.append([words(run.dataset), words(kind), *figures, number(w.biased, ".3f")])
    section.notes = [
        "The biased estimate, which plots like the paper's show, falls with the pool's size even where nothing differs; a "
        "distance above the null is wanted: these test prompts are of families that were not trained on.",
        f"The paper's curves are not tabulated. {' '.join(PAPER['mmd']['notes'])}",
        "With a model's hidden states: `paft pools audit --train T --test U --model MODEL --report DIR`.",
    ]
    return section


def _apart(run: FinishedRun) -> Distances:
    train, test = (read_for_audit(run.pool_file(split)) for split in ("train", "test"))
    return distances(train, test, None) if min(len(train.entries), len(test.entries)) > 1 else {}
