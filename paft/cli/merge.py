"""paft merge RUN --out DIR: write the base model with an adapter's weights added in."""

import argparse
from pathlib import Path

from paft.config.adapter import read_metadata
from paft.runtime.errors import InputError
from paft.runtime.files import check_place


def main() -> None:
    """Merge the adapter in sys.argv; raises InputError for a folder that exists already or holds no adapter."""
    parser = argparse.ArgumentParser(prog="paft merge", description="Write the base model with an adapter's weights added in.")
    parser.add_argument("run", type=Path, help="a run folder, or its adapter folder")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the merged model")
    parser.add_argument("--remote-code", action="store_true", help="run the code that comes with the base model")
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
