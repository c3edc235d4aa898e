"""paft report RUNS... --out DIR: put the runs of a sweep into one table, with figures."""

import argparse
from pathlib import Path

from paft.runtime.files import check_page


def main() -> None:
    """Write the report that sys.argv asks for; raises InputError if there is no finished run."""
    parser = argparse.ArgumentParser(
        prog="paft report",
        description="Put the runs of a sweep into one table, with a column for each setting that differs, and figures.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="folders of runs, folders that hold them, or that of a sweep"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="folder for the report (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="copy what the report is made from to OUT/runs and OUT/pools")
    parser.add_argument(
        "--sort",
        default="mean",
        metavar="COLUMN",
        help="mean (the default), std, worst, Top or cvar10, best first; or a setting",
    )
    arguments = parser.parse_args()
    check_page(f"--out {arguments.out}", arguments.out)
    # Imports that take seconds wait until the command line is known to be right.
    from paft.reporting.sweep import report

    report(arguments.runs, arguments.out, arguments.keep, arguments.sort)
