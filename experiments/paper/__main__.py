"""The paper's tables and figures from finished runs, beside the paper's numbers.

    python -m experiments.paper RUNS... --out DIR     # RUNS: folders of runs, or folders that hold them, such as outputs
    python -m experiments.paper RUNS... --keep --out DIR     # and keeps what the report is made from in DIR/runs and DIR/pools
    python -m experiments.paper --paper               # the paper's numbers alone, with their sources and flaws

Writes README.md, index.html (one file, pictures included), a CSV for each table, and PNG and PDF for each figure.
`python -m experiments.paper.readme` puts what is kept under experiments/results into the repository's README.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.paper.figures import distributions, draw_pool_size, mmd
from experiments.paper.notes import SELECTION, missing, set_up
from experiments.paper.published import paper_tables
from experiments.paper.rows import alike, paper_frame
from experiments.paper.section import PaperSection
from experiments.paper.tables import controls, inference, k_and_t, main_results, pool_size, training_time, worst_and_adversarial
from paft.cli.hydra_app import run_plain
from paft.reporting.collect import Collected, collect, keep_runs
from paft.reporting.page import bullets, write, write_csv, write_html
from paft.reporting.runs import check_alike
from paft.reporting.sweep import READING, left_out, origin
from paft.runtime.errors import InputError
from paft.runtime.files import check_place


def report(collected: Collected, out: Path, data_sets: Sequence[str] = ()) -> None:
    """Write the whole report.

    Args:
        data_sets: what to say of them in a section of its own.
    """
    check_alike(collected.runs, alike)
    runs = paper_frame(collected.runs)
    first, sizes = main_results(runs), pool_size(runs)
    then = [inference(runs), worst_and_adversarial(runs), *k_and_t(runs), *sizes]
    last = [training_time(runs), controls(runs)]
    out.mkdir(parents=True, exist_ok=True)  # now that nothing is wrong
    draw_pool_size(sizes, out)
    sections = [*first, *distributions(runs, out), *then, mmd(runs, out), *last]
    for section in sections:
        if section.rows:
            write_csv(out, section)
            print("\n".join(section.lines()))
    page = _page(collected, runs, sections, data_sets)
    write(out, page)
    write_html(out, page)
    print(f"Written: {out / 'README.md'}, {out / 'index.html'}")


def _page(collected: Collected, runs: pd.DataFrame, sections: Sequence[PaperSection], data_sets: Sequence[str]) -> list[str]:
    """Lay out the page from top to bottom."""
    shown = {run.folder for section in sections for run in section.runs}
    others = [run.folder.name for run in collected.runs if run.folder not in shown]
    page = ["# PAFT: the paper's tables from these runs", "", *origin(collected.runs), READING, "", SELECTION, ""]
    page += ["What was run:", "", *bullets(set_up(runs))]
    for section in sections:
        page += section.lines()
    page += ["## Which data sets", "", *bullets(data_sets)] if data_sets else []
    page += ["## What is not here", "", missing(runs), "", *left_out(collected, others)]
    return [*page, "## What the paper prints", "", *paper_tables(), _MADE_BY]


_MADE_BY = (
    "Made by `python -m experiments.paper RUNS... --out DIR`. What the repository's README shows of it: "
    "`python -m experiments.paper.readme`."
)


def main() -> None:
    """Collect, check and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs, or folders that hold them")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"))
    parser.add_argument("--keep", action="store_true", help="copy scores and results of the runs, and their prompts, to OUT")
    parser.add_argument("--paper", action="store_true", help="print the paper's numbers and nothing else")
    arguments = parser.parse_args()
    if arguments.paper:
        print("\n".join(paper_tables()))
        return
    if not arguments.runs:
        raise InputError("Which runs? Give their folders, or one that holds them, e.g. `python -m experiments.paper outputs`.")
    check_place(f"--out {arguments.out}", arguments.out)
    collected = collect(arguments.runs, "training")
    report(collected, arguments.out)
    if arguments.keep:
        keep_runs(collected, arguments.out)


if __name__ == "__main__":
    run_plain(main)
