"""python -m paft.model merge RUN --out DIR: write a merged model."""

import argparse
from pathlib import Path

from paft.cli.hydra_app import run_plain
from paft.config.adapter import read_metadata
from paft.runtime.errors import InputError
from paft.runtime.files import check_place


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m paft.model", description="Work on trained adapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    merging = commands.add_parser("merge", help="write the base model with the adapter's weights added in")
    merging.add_argument("run", type=Path, help="a run folder, or its adapter folder")
    merging.add_argument("--out", type=Path, required=True, help="a new folder for the merged model")
    merging.add_argument("--remote-code", action="store_true", help="run the code that comes with the base model")
    arguments = parser.parse_args()
    run, out = arguments.run, arguments.out
    if out.exists():
        raise InputError(f"--out {out}: this exists already; name a new folder.")
    check_place(f"--out {out}", out)
    folder = run / "adapter" if (run / "adapter").is_dir() else run
    read_metadata(folder)
    # Heavy imports wait until what can be seen without them is known to be right.
    from paft.model.adapter import merge

    merge(folder, out, arguments.remote_code)
    print(f"Merged model: {out}")


if __name__ == "__main__":
    run_plain(main)
