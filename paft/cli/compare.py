"""paft compare RUN_A RUN_B: tell whether one run is more robust than another, and how sure that is."""

import argparse
import shlex
import sys
from pathlib import Path

from paft.runtime.files import check_page

_ABOUT = """\
Compare two runs on the cells they share: is A more robust than B, and how sure are we?

    paft compare RUN_A RUN_B [--report DIR]
    paft compare A1,A2,A3 B1,B2,B3      # seeds of one another, paired in this order

A run is a folder with results.json and matrix.parquet. Shared are prompts of the same text and examples with the same
fields and answer. The difference of the means has a 95% interval for other prompts and examples of the kind; the stds over
prompts are compared by a permutation test; the worst prompts are estimated without selection bias and have no interval.
"""


def main() -> None:
    """Compare the runs in sys.argv, print the table and write the report; raises InputError if they cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="paft compare", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for side in ("a", "b"):
        parser.add_argument(
            side, metavar=f"RUN_{side.upper()}", help="a run's folder; several, seeds of one another, with commas"
        )
    parser.add_argument("--report", type=Path, metavar="DIR", help="folder for README.md, comparison.json and overlay.png")
    arguments = parser.parse_args()
    if arguments.report is not None:
        check_page(f"--report {arguments.report}", arguments.report)
    # Imports that take seconds wait until the command line is known to be right.
    from paft.reporting.compare import compare_sides, show, write_report

    compared = compare_sides(*([Path(folder) for folder in side.split(",")] for side in (arguments.a, arguments.b)))
    show(compared)
    if arguments.report is not None:
        write_report(arguments.report, compared, shlex.join(["paft", "compare", *sys.argv[1:]]))
