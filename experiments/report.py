"""The paper's tables and figures from finished runs, beside the paper's numbers.

    python experiments/report.py RUNS... --out DIR     # RUNS: folders of runs, or folders that hold them, such as outputs
    python experiments/report.py RUNS... --keep --out DIR     # and keeps in DIR/runs what the report is made from
    python experiments/report.py --paper               # the paper's numbers alone, with their sources and flaws

Writes README.md, index.html (one file, pictures included), a CSV for each table, and PNG and PDF for each figure.
"""

import argparse
import base64
import csv
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from cells import commits
from collect import Cell, check_alike, failures, find, keep
from markdown_it import MarkdownIt
from tables import (
    PAPER,
    Table,
    controls,
    file_name,
    inference,
    k_and_t,
    main_results,
    of_table_1,
    pool_size,
    training_time,
    worst_and_adversarial,
)

from paft.cli import run_plain
from paft.errors import InputError
from paft.prompts.audit import read_for_audit
from paft.reporting.audit import distances, save_curve
from paft.reporting.figure import save_overlay
from paft.runs import write_atomically

_READING = (
    "Mean: over seeds, prompts and examples, with a 95% interval for other prompts and examples of the kind (seeds are "
    "those at hand). std, worst and Top: over prompts, averaged over seeds. Everything that was chosen was chosen on "
    "validation prompts and examples; test prompts were read once. The paper's model is Llama-3-8B."
)
_MISSING = (
    "What stands in the paper and not here: HumanEval, XStoryCloze, Geometry3k and T-Eval (Table 2), of which it is not said "
    "what the models were trained on; tuning with GRPO, of which there is no released code, reward or prompt; its adversarial "
    "prompts and the names of its ten generator models, which were not published."
)


def distributions(cells: Sequence[Cell], out: Path) -> list[Table]:
    """Draw the accuracy over prompts of every method, for each part (paper, Figure 3)."""
    tables = []
    for part, methods in of_table_1(cells).items():
        name = file_name("figure3", part)
        accuracies = {method: found.correct.mean(2).ravel() for method, found in methods.items()}
        first = next(iter(methods.values())).cells[0]
        for suffix in ("png", "pdf"):
            save_overlay(out / f"{name}.{suffix}", accuracies, first.part(part).chance, first.results["threshold"])
        title = f"Figure 3: accuracy over unseen prompts, {part}"
        tables.append(
            Table(name, title, "", [], figures=[f"{name}.png"], notes=["All seeds together: std holds that of seeds."])
        )
    return tables


def draw_pool_size(tables: Sequence[Table], out: Path) -> None:
    """Draw mean, worst prompt and std over the number of training prompts (paper, Figure 8)."""
    for table in tables:
        if sum(not composed for _, composed, *_ in table.curve) < 2:
            continue
        figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
        sizes, composed, *curves = zip(*table.curve, strict=True)
        styles = (("mean", "#0072B2", "-"), ("worst prompt", "#D55E00", "--"), ("std", "#009E73", ":"))
        own = [i for i, one in enumerate(composed) if not one]
        for values, (label, colour, style) in zip(curves, styles, strict=True):
            percents = [100 * value for value in values]
            written = [(sizes[i], percents[i]) for i in own]
            axes.plot(*zip(*written, strict=True), style, marker="o", markersize=4, color=colour, label=label)
            apart = [(size, value) for size, value, one in zip(sizes, percents, composed, strict=True) if one]
            for size, value in apart:  # another kind of prompts: no line leads there
                axes.plot(size, value, marker="D", markersize=5, color=colour, markerfacecolor="none", linestyle="none")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("training prompts" + (" (◇: put together from parts)" if any(composed) else ""))
        axes.set_ylabel("percent")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        for suffix in ("png", "pdf"):
            figure.savefig(out / f"{table.name}.{suffix}", dpi=150)
        plt.close(figure)
        table.figures.append(f"{table.name}.png")


def mmd(cells: Sequence[Cell], out: Path) -> Table:
    """Draw the distance of training and test prompts over the size of the training pool (paper, Figure 9)."""
    headings = ["", "embedding", "bandwidth", "MMD², unbiased", "null, 95%", "p", "biased MMD"]
    table = Table("mmd", "Figure 9: distance of training and test prompts", "", headings)
    drawn = set[str]()
    for cell in cells:
        if cell.method != "paft" or not cell.plain_pool or cell.dataset in drawn:
            continue
        drawn.add(cell.dataset)
        name = file_name("mmd", cell.dataset)
        train, test = (read_for_audit(cell.folder / "prompts" / f"{split}.yaml") for split in ("train", "test"))
        if min(len(train.entries), len(test.entries)) < 2:
            continue
        apart = distances(train, test, None)
        for suffix in ("png", "pdf"):
            save_curve(out / f"{name}.{suffix}", apart)
        table.figures.append(f"{name}.png")
        for kind, (w, _) in apart.items():
            figures = [f"{w.bandwidth:.3f}", f"{w.squared:.4f}", f"{w.null:.4f}", f"{w.p:.3f}", f"{w.biased:.3f}"]
            table.rows.append([cell.dataset, kind, *figures])
    table.notes = [
        "The biased estimate, which plots like the paper's show, falls with the pool's size even where nothing differs; a "
        "distance above the null is wanted: these test prompts are of families that were not trained on.",
        "With a model's hidden states: `python -m paft.prompts audit --train T --test U --model MODEL --report DIR`.",
    ]
    return table


def paper_tables() -> list[str]:
    """Return the paper's own tables as Markdown, with sources and flaws."""
    page = []
    for name, entry in PAPER.items():
        page += [f"### {name.replace('_', ' ')}", "", str(entry["source"]) + ".", ""]
        rows, columns = entry["rows"], list(entry.get("columns", ()))
        if "average" in entry:
            columns.append("average")
            rows = {row: [*values, entry["average"][row]] for row, values in rows.items()}
        if rows and columns:
            page += [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
            page += [f"| {row} | {' | '.join(map(_published, values))} |" for row, values in rows.items()]
        elif rows:
            page += [f"| {' | '.join(rows)} |", f"|{'---:|' * len(rows)}", f"| {' | '.join(map(str, rows.values()))} |"]
        page += [""] + [f"* {flaw}" for flaw in entry.get("flaws", ())] + ([""] if entry.get("flaws") else [])
    return page


def _published(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.2f} ± {value[1]:.2f}" + (f", {value[2]}" if len(value) > 2 else "")
    return str(value)


def markdown(table: Table) -> list[str]:
    """Lay out a table with its figures and notes."""
    lines = [f"## {table.title}", ""]
    if table.rows:  # without columns in which there is nothing, such as the paper's numbers of a data set that it lacks
        columns = [c for c in zip(table.headings, *table.rows, strict=True) if set(c[1:]) != {"-"}]
        headings, *rows = zip(*columns, strict=True)
        lines += [f"| {' | '.join(headings)} |", f"|---|{'---:|' * (len(headings) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    elif table.headings:
        lines += [f"No runs. `{table.command}`" if table.command else "No runs.", ""]
    for figure in table.figures:
        lines += [f"![{table.title}]({figure})", ""]
    shown = table.notes if table.rows or table.figures else []
    return [*lines, *(f"* {note}" for note in shown), *([""] if shown else [])]


def write_csv(table: Table, out: Path) -> None:
    """Write the rows of a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.headings, *table.rows])
    write_atomically(out / f"{table.name}.csv", text.getvalue())


def write_html(page: str, out: Path) -> None:
    """Write the page as one HTML file, with its pictures in it."""

    def embedded(found: re.Match[str]) -> str:
        data = base64.b64encode((out / html.unescape(found[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+\.png)"', embedded, MarkdownIt("commonmark", {"html": False}).enable("table").render(page))
    write_atomically(out / "index.html", _HTML.format(body=body))


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>PAFT: report</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
code {{ background: #f4f4f4; padding: 0.1rem 0.3rem; }}
</style></head><body>
{body}</body></html>
"""


def write(cells: Sequence[Cell], left_out: Sequence[str], failed: Sequence[str], out: Path) -> None:
    """Write the whole report.

    Args:
        left_out: lines about folders that are no finished runs.
        failed: lines about cells of sweeps that failed.
    """
    check_alike(cells)
    first, sizes = main_results(cells), pool_size(cells)
    then = [inference(cells), worst_and_adversarial(cells), *k_and_t(cells), *sizes]
    last = [training_time(cells), controls(cells)]
    out.mkdir(parents=True, exist_ok=True)  # now that nothing was found wrong
    draw_pool_size(sizes, out)
    tables = [*first, *distributions(cells, out), *then, mmd(cells, out), *last]
    models = sorted({str(cell.config["model"]["path"] or "SmolLM2-135M-Instruct, embedded") for cell in cells})
    page = ["# PAFT: the paper's tables from these runs", ""]
    page += [f"{len(cells)} runs of {', '.join(models)}, made at {commits(c.results for c in cells)}.", ""]
    page += [_READING, ""]
    for table in tables:
        page += markdown(table)
        if table.rows:
            write_csv(table, out)
    page += ["## What is not here", "", _MISSING, ""]
    shown = {cell.folder for table in tables for cell in table.cells}
    unused = [cell.folder.name for cell in cells if cell.folder not in shown]
    for what, lines in (
        ("Folders that were left out:", left_out),
        ("Cells that failed (the same command tries them again):", failed),
        ("Finished runs that belong to no table:", unused),
    ):
        if lines:
            page += [what, "", *(f"* {line}" for line in lines), ""]
    versions = {str(cell.results["versions"]) for cell in cells}
    if len(versions) > 1:
        page += [f"BEWARE: the runs were made with {len(versions)} sets of library versions.", ""]
    page += ["## What the paper prints", "", *paper_tables()]
    page += ["Made by `python experiments/report.py RUNS... --out DIR`.", ""]
    text = "\n".join(page)
    write_atomically(out / "README.md", text)
    write_html(text, out)
    for table in tables:
        if table.rows:
            print("\n".join(markdown(table)))
    print(f"Written: {out / 'README.md'}, {out / 'index.html'}")


def main() -> None:
    """Collect, check and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs, or folders that hold them")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"))
    parser.add_argument("--keep", action="store_true", help="copy scores, prompts and results of the runs to OUT/runs")
    parser.add_argument("--paper", action="store_true", help="print the paper's numbers and nothing else")
    arguments = parser.parse_args()
    if arguments.paper:
        print("\n".join(paper_tables()))
        return
    if not arguments.runs:
        raise InputError("Which runs? Give their folders, or one that holds them, e.g. `python experiments/report.py outputs`.")
    if arguments.out.is_file():
        raise InputError(f"--out {arguments.out}: this is a file; name a folder.")
    cells, left_out = find(arguments.runs)
    failed = failures(arguments.runs, {cell.folder.name for cell in cells})
    write(cells, left_out, failed, arguments.out)
    if arguments.keep:
        keep(cells, arguments.out / "runs")


if __name__ == "__main__":
    run_plain(main)
