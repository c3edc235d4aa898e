"""The paper's tables and figures from finished runs, beside the paper's numbers.

    python experiments/report.py RUNS... --out DIR     # RUNS: folders of runs, or folders that hold them, such as outputs
    python experiments/report.py RUNS... --keep --out DIR     # and keeps in DIR/runs what the report is made from
    python experiments/report.py --paper               # the paper's numbers alone, with their sources and flaws

Writes README.md, index.html (one file, pictures included), a CSV for each table, and PNG and PDF for each figure.
experiments/readme.py puts what is kept under experiments/results into the repository's README.
"""

import argparse
import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from experiments.paper.collect import Cell, Collected, check_alike, find, keep
from experiments.paper.figures import distributions, draw_pool_size, mmd
from experiments.paper.notes import READING, SELECTION, beware, missing, model_name, set_up
from experiments.paper.page import Table, markdown, write_csv
from experiments.paper.published import paper_tables
from experiments.paper.tables import controls, inference, k_and_t, main_results, pool_size, training_time, worst_and_adversarial
from experiments.studies import commits
from paft.cli.hydra_app import run_plain
from paft.runtime.errors import InputError
from paft.runtime.files import check_place, write_atomically


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


def write(found: Collected, out: Path) -> None:
    """Write the whole report."""
    cells = found.cells
    check_alike(cells)
    first, sizes = main_results(cells), pool_size(cells)
    then = [inference(cells), worst_and_adversarial(cells), *k_and_t(cells), *sizes]
    last = [training_time(cells), controls(cells)]
    out.mkdir(parents=True, exist_ok=True)  # now that nothing was found wrong
    draw_pool_size(sizes, out)
    tables = [*first, *distributions(cells, out), *then, mmd(cells, out), *last]
    for table in tables:
        if table.rows:
            write_csv(table, out)
    text = "\n".join(_page(found, tables))
    write_atomically(out / "README.md", text)
    write_html(text, out)
    for table in tables:
        if table.rows:
            print("\n".join(markdown(table)))
    print(f"Written: {out / 'README.md'}, {out / 'index.html'}")


def _page(found: Collected, tables: Sequence[Table]) -> list[str]:
    """Lay out the page from top to bottom."""
    cells = found.cells
    made_at = commits(cell.results for cell in cells)
    page = ["# PAFT: the paper's tables from these runs", ""]
    page += [f"{len(cells)} runs of {', '.join(sorted({*map(model_name, cells)}))}, made at {made_at}.", ""]
    page += [*beware(cells), READING, "", SELECTION, "", "What was run:", "", *set_up(cells), ""]
    for table in tables:
        page += markdown(table)
    page += ["## What is not here", "", missing(cells), ""]
    for what, lines in (
        ("Folders that were left out:", [f"{name}: {why}" for name, why in found.left_out.items()]),
        ("Cells that failed (the same command tries them again):", found.failures),
        ("Finished runs that belong to no table:", _unused(cells, tables)),
    ):
        if lines:
            page += [what, "", *(f"* {line}" for line in lines), ""]
    return [*page, "## What the paper prints", "", *paper_tables(), _HOW_MADE, ""]


def _unused(cells: Sequence[Cell], tables: Sequence[Table]) -> list[str]:
    shown = {cell.folder for table in tables for cell in table.cells}
    return [cell.folder.name for cell in cells if cell.folder not in shown]


_HOW_MADE = (
    "Made by `python experiments/report.py RUNS... --out DIR`. What the repository's README shows of it: "
    "`python experiments/readme.py`."
)


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
    check_place(f"--out {arguments.out}", arguments.out)
    found = find(arguments.runs)
    write(found, arguments.out)
    if arguments.keep:
        keep(found, arguments.out / "runs")


if __name__ == "__main__":
    run_plain(main)
