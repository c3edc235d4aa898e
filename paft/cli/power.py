"""paft power PILOT_A [PILOT_B]: how many seeds, prompts and examples show a difference."""

import argparse
from pathlib import Path

from paft.runtime.errors import InputError

_ABOUT = """\
Tell how many seeds, prompts and examples it takes to show a difference, from the runs of a pilot.

    paft power A1,A2,A3 --difference 2                        # seeds of one method
    paft power A1,A2,A3 B1,B2,B3 --difference 2 --measure mean     # and of the method that it is to be compared with

A run is a folder with results.json and matrix.parquet. The pilot shows how much accuracies vary over seeds, prompts and both
together; studies of several sizes are simulated from that, and compared as `paft compare` compares CVaR10.
"""
_SHARES = {"cvar10": 0.1, "mean": 1.0}


def main() -> None:
    """Print the table of power for the pilot in sys.argv; raises InputError if it is none."""
    parser = argparse.ArgumentParser(
        prog="paft power", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="PILOT_A", help="folders of runs that differ in their seed alone, with commas")
    parser.add_argument("b", metavar="PILOT_B", nargs="?", help="as many of another method")
    parser.add_argument("--difference", type=float, default=2.0, metavar="POINTS", help="to be shown (default %(default)s)")
    parser.add_argument("--measure", choices=tuple(_SHARES), default="cvar10", help="cvar10: the worst tenth of the prompts")
    arguments = parser.parse_args()
    if not 0 < arguments.difference <= 100:
        raise InputError(f"--difference {arguments.difference:g}: give points of accuracy, above 0 and at most 100.")
    # Imports that take seconds wait until the command line is known to be right.
    from paft.reporting.power import read_pilot, show, table_of

    sides = [[Path(folder) for folder in side.split(",")] for side in (arguments.a, arguments.b) if side is not None]
    pilot = read_pilot(*sides)
    difference, share = arguments.difference / 100, _SHARES[arguments.measure]
    show(pilot, difference, arguments.measure, table_of(pilot, difference, share))
