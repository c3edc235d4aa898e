"""Is every bad input refused in one sentence, with exit code 2, with nothing left behind, and before anything slow?

    python tests/reliability/bad_input.py [--report experiments/results/bad_input]

The tables in bad_inputs/ hold those of all commands. Each is given to its command in a process and a folder of its own. A
mistake that shows without the model must be refused without importing torch or a library on top of it: these rows run where
such an import ends the process.
"""

import argparse
import contextlib
import io
import os
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.cli.hydra_app import run_plain
from paft.runtime.files import check_place
from tests.reliability.bad_inputs import ROWS
from tests.reliability.bad_inputs.case import Case, Needs
from tests.reliability.page import write_page

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "transformers", "peft", "datasets")
_TIMEOUT_S = 300


def write_files(row: Case, folder: Path, model: Path) -> None:
    """Write what the row needs to be there."""
    for name, content in row.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.replace("%MODEL", str(model)).encode())


def files_below(folder: Path) -> dict[str, bytes | None]:
    """Return the files below a folder with their content, and folders with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def command_line(row: Case, model: Path) -> list[str]:
    """Return what is typed behind `python`."""
    script = row.command.split() if row.command.startswith("-m") else [str(ROOT / row.command)]
    arguments = [word.replace("%MODEL", str(model)) for word in row.arguments.split(" ; ") if word]
    return [*script, *arguments]


def here(row: Case, folder: Path, model: Path) -> str:
    """Give the row to its command in this process; return what is wrong with the answer, or nothing.

    Changes the working directory to `folder`, and back.
    """
    write_files(row, folder, model)
    before, (first, *rest) = files_below(folder), command_line(row, model)
    out, said, argv, path = io.StringIO(), io.StringIO(), sys.argv, sys.path
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), contextlib.chdir(folder):
        try:
            if first == "-m":
                sys.argv = rest
                runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            else:
                sys.argv, sys.path = [first, *rest], [str(Path(first).parent), *path]
                runpy.run_path(first, run_name="__main__")
        except SystemExit as left:
            code = left.code
        finally:
            sys.argv, sys.path = argv, path
    return wrong(row, model, code, said.getvalue(), before, files_below(folder))


def apart(row: Case, model: Path, without_heavy: Path) -> tuple[str, float]:
    """Give the row to its command in a process of its own; return what is wrong with the answer, and the seconds it took."""
    settings = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    places = [str(ROOT), *([str(without_heavy)] if row.needs == "nothing" else [])]
    environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(places)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_files(row, folder, model)
        before, started = files_below(folder), time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, *command_line(row, model)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {_TIMEOUT_S} s", float(_TIMEOUT_S)
        seconds = time.perf_counter() - started
        return wrong(row, model, done.returncode, done.stderr, before, files_below(folder)), seconds


def wrong(
    row: Case, model: Path, code: object, said: str, before: Mapping[str, bytes | None], after: Mapping[str, bytes | None]
) -> str:
    """Return in what the answer is not as it should be, or nothing.

    Args:
        said: on stderr.
        before: the files of the row's folder, and `after`.
    """
    sentence = row.sentence.replace("%MODEL", str(model))
    new = sorted(name for name in {*before, *after} if name not in before or before[name] != after.get(name))
    if row.arguments.startswith("-m ;"):  # Hydra's and ours: what failed is for the same command to go on with
        new = [name for name in new if not "outputs/sweeps/".startswith(name) and not name.startswith("outputs/sweeps/")]
    if code != 2:
        problem = f"exit code {code}"
    elif sentence not in said or "Traceback" in said:
        problem = "something else is said"
    elif row.says == "a sentence" and not is_one_sentence(said if row.needs == "nothing" else said.splitlines(True)[-1]):
        problem = "this is not one sentence"  # libraries say something of their own on their way
    elif row.says == "usage" and not said.startswith("usage: "):
        problem = "this is no usage"
    elif new:
        problem = f"{', '.join(new)}: left behind, or changed"
    else:
        return ""
    return f"{problem}: {said[-2000:]}"


def is_one_sentence(message: str) -> bool:
    """Say whether this is one line with one sentence."""
    whole = message.startswith("error: ") and message.endswith((".\n", "...\n", "?\n")) and message.count("\n") == 1
    return whole and not re.search(r"\. [A-Z]", message)


def write_without_heavy(folder: Path) -> Path:
    """Write a folder for PYTHONPATH with which importing what is heavy ends the process; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in HEAVY:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    return folder


def _seconds(tried: Sequence[float]) -> str:
    return f"{len(tried)} | {statistics.median(tried):.1f} | {max(tried):.1f}"


def main() -> None:
    """Give every row to its command, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("outputs/bad_input"))
    arguments = parser.parse_args()
    check_place(f"--report {arguments.report}", arguments.report)
    from tests.tiny import save_tiny_llama

    tried = []
    with tempfile.TemporaryDirectory() as scratch:
        model, without_heavy = Path(scratch) / "model", write_without_heavy(Path(scratch) / "without_heavy")
        save_tiny_llama(model)
        for row in ROWS:
            problem, seconds = apart(row, model, without_heavy)
            tried.append({"row": f"{row.command}: {row.name}", "needs": row.needs, "seconds": round(seconds, 2)})
            print(f"{seconds:6.2f} s  {row.command}: {row.name}{problem and f'  WRONG: {problem}'}", flush=True)
            if problem:
                tried[-1]["wrong"] = problem
    write(arguments.report, tried)
    if any("wrong" in row for row in tried):
        sys.exit(1)


def write(folder: Path, tried: Sequence[Mapping[str, Any]]) -> None:
    """Write README.md and results.json."""
    bad = [row["row"] for row in tried if "wrong" in row]
    page = [
        "# Bad input",
        "",
        "| what must be loaded to see the mistake | rows | median, s | slowest, s |",
        "|---|---:|---:|---:|",
    ]
    for needs in get_args(Needs):
        page.append(f"| {needs} | {_seconds([row['seconds'] for row in tried if row['needs'] == needs])} |")
    light = [row for row in tried if row["needs"] == "nothing"]
    slowest = max(light, key=lambda row: row["seconds"])
    page += ["", f"The slowest for which nothing is loaded: {slowest['row']}, {slowest['seconds']} s.", ""]
    if bad:
        page += [f"Not refused as they should be: {', '.join(bad)}."]
    else:
        page += [
            "All were refused as they should be: with exit code 2, in one sentence (after the usage, where argparse refuses), "
            "nothing left behind (except a sweep's own folder), and, where nothing must be loaded, without an import of "
            f"{', '.join(HEAVY)}."
        ]
    page += ["", "Made by `python tests/reliability/bad_input.py`. Versions and device: results.json.", ""]
    write_page(folder, page, {"rows": list(tried)})


if __name__ == "__main__":
    run_plain(main)
