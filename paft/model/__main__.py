"""python -m paft.model merge RUN --out DIR: write a merged model."""

import argparse
from pathlib import Path

from paft.cli import run_plain


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m paft.model", description="Work on trained adapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    merging = commands.add_parser("merge", help="write the base model with the adapter's weights added in")
    merging.add_argument("run", type=Path, help="a run folder, or its adapter folder")
    merging.add_argument("--out", type=Path, required=True, help="a new folder for the merged model")
    merging.add_argument("--remote-code", action="store_true", help="run the code that comes with the base model")
    arguments = parser.parse_args()
    from paft.model.adapter import merge

    merge(arguments.run, arguments.out, arguments.remote_code)
    print(f"Merged model: {arguments.out}")


if __name__ == "__main__":
    run_plain(main)
