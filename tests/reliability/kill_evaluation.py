"""kill -9 at random moments of one evaluation, which is started again each time: does its score matrix end as undisturbed?

    python tests/reliability/kill_evaluation.py [--kills 20] [--report experiments/results/kill] [overrides of evaluate.py]

By default the embedded base model on story_facts, 12 prompts x 40 examples. The moments are drawn uniformly over the seconds of
an undisturbed run, process start included: some come while it loads, some while it writes, some after its end.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.cli.hydra_app import run_plain
from paft.evaluation.store import read_cells
from tests.reliability.page import write_page

_ROOT = Path(__file__).parents[2]
_SMALL = ["dataset=story_facts", "model=smollm2_135m", "eval_prompts=12", "eval_examples=40", "trainer.micro_batch_tokens=1024"]


def command(output_root: Path, overrides: list[str]) -> list[str]:
    """Return the evaluation's command line."""
    return [
        sys.executable,
        str(_ROOT / "evaluate.py"),
        *_SMALL,
        *overrides,
        "trainer.progress=false",
        f"output_root={output_root}",
    ]


def parts(output_root: Path) -> int:
    """Count the batches that are kept."""
    return len(list(output_root.glob("*/.matrix-*/*.parquet")))


def main() -> None:
    """Kill, start again, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("outputs/kill"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    generator = random.Random(arguments.seed)
    kills: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        started = time.perf_counter()
        subprocess.run(command(whole, arguments.overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        undisturbed = time.perf_counter() - started
        print(f"undisturbed: {undisturbed:.1f} s", flush=True)
        while sum(not kill["finished"] for kill in kills) < arguments.kills:  # one that came too late is none
            before, after = parts(killed), generator.uniform(0, undisturbed)
            process = subprocess.Popen(
                command(killed, arguments.overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                finished = process.wait(after) == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                finished = False
            kills.append({"after s": round(after, 1), "batches before": before, "batches": parts(killed), "finished": finished})
            print(kills[-1], flush=True)
            if finished:  # the other kills come down on a fresh evaluation
                _compare(whole, killed)
                for path in killed.glob("eval-*"):
                    path.rename(killed.with_name(f"finished-{len(kills)}"))
        subprocess.run(command(killed, arguments.overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows = _compare(whole, killed)
    moments = [kill["after s"] for kill in kills if not kill["finished"]]
    lines = [
        "# kill -9 at random moments of an evaluation",
        "",
        f"{arguments.kills} times, {min(moments)} to {max(moments)} s after the start of the process; undisturbed it takes "
        f"{undisturbed:.0f} s.",
        f"The {rows} cells are those of the undisturbed run, byte for byte.",
        "",
        "Made by `python tests/reliability/kill_evaluation.py`. Each kill: results.json.",
        "",
    ]
    print("\n".join(lines))
    write_page(arguments.report, lines, {"undisturbed s": undisturbed, "kills": kills, "cells": rows})


def _compare(whole: Path, killed: Path) -> int:
    """Check that both hold the same cells and left no parts; return their number."""
    (one,), (other,) = (list(folder.glob("eval-*/matrix.parquet")) for folder in (whole, killed))
    if one.read_bytes() != other.read_bytes() or parts(killed):
        raise SystemExit("DIFFERENT: the matrix of the killed evaluation is not that of the undisturbed one.")
    return len(read_cells(one))


if __name__ == "__main__":
    run_plain(main)
