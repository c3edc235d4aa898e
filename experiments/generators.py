"""How many of the prompts that a model writes can be used: constructions by `paft pools construct` side by side.

    python -m experiments.generators FOLDER [FOLDER ...] [--report DIR]

A folder is what a construction wrote; it may have failed because too few candidates survived. Nothing is asked of a model here.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from paft.cli.hydra_app import run_plain
from paft.pools.construct import LEAST
from paft.reporting.page import bullets, table, write, write_json
from paft.reporting.provenance import provenance
from paft.reporting.runs import commits
from paft.runtime.errors import InputError
from paft.runtime.files import check_place

_HEADINGS = ["model", "data set", "options", "seed", "prompts a call", "calls", "tokens written", "texts",
             "survive", "why the others do not"]  # fmt: skip


def main() -> None:
    """Read the constructions and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of `paft pools construct`")
    parser.add_argument("--report", type=Path, default=Path("outputs/generators"), help="where the page goes")
    arguments = parser.parse_args()
    check_place(f"--report {arguments.report}", arguments.report)
    constructions = [construction(folder) for folder in arguments.folders]
    origin = provenance(torch.device("cpu"))
    arguments.report.mkdir(parents=True, exist_ok=True)
    write_json(arguments.report, {"constructions": constructions} | origin)
    made_by = f"Made by `python -m experiments.generators FOLDER ...` at {commits([origin['git']])}."
    write(arguments.report, [*page(constructions), f"{made_by} What each construction was asked for: results.json."])


def construction(folder: Path) -> dict[str, Any]:
    """Read construction.json of a folder.

    Raises InputError if it is not there or is of an older version.
    """
    path = folder / "construction.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} cannot be read; name folders that `paft pools construct` has written.") from None
    if missing := {"options", "per_call", "generators", "seed"} - {*content}:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}; give its `paft pools construct` command again.")
    return content


def page(constructions: Sequence[dict[str, Any]]) -> list[str]:
    """Return the page: a row for each construction."""
    rows = []
    for content in constructions:
        why = ", ".join(f"{reason} {n}" for reason, n in content["rejected"].items())
        kept, texts = content["kept"], content["candidates"]
        numbers = [str(content["per_call"]), str(content["calls"]), f"{content['tokens']['completion']:,}", str(texts)]
        share = f"{kept} ({100 * kept / texts:.0f}%)" if texts else "0"
        what = [" + ".join(content["generators"]), content["name"], content["options"], str(content["seed"])]
        rows.append([*what, *numbers, share, why or "-"])
    notes = [
        "Half of the calls show the model two rows and two templates, the other half only say what a template is.",
        "fields: a field is missing, invented or there twice. unreadable: a reply without any template. near-copy: as good "
        "as the same text as another candidate, or as an example of the request.",
        f"A pool is only made of {LEAST} survivors or more; they are split into training, validation and test prompts.",
    ]
    return ["# Models as writers of prompts", "", *table(_HEADINGS, rows), *bullets(notes)]


if __name__ == "__main__":
    run_plain(main)
