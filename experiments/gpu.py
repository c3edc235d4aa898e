"""What is to be measured on a GPU, in the order of its worth, for a card that is at hand for half an hour.

    python -m experiments.gpu --data DIR [--minutes 30] [--tokenizer FOLDER] [--report experiments/results]

Updates and scoring beside TRL and lm-evaluation-harness, losses beside TRL's, and the tests that need a GPU. Each is a process
of its own with a time limit, and leaves its page when it ends; what fails or takes too long is said, and the next one starts.
What is finished is not done again, so that the same command goes on where it stopped. At the end the page gpu/README.md shows
what was got beside the targets, which are for an H100. Models are shapes with random weights; --model names another small one.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paft.cli.hydra_app import run_plain
from paft.reporting.page import table, write
from paft.runtime.errors import InputError

_LEAST_S = 30  # a job that has less is not started


@dataclass(frozen=True)
class Target:
    """A figure, what it should be, and where it stands in a job's results."""

    what: str
    at_least: float
    read: Callable[[Any], float]


@dataclass(frozen=True)
class Job:
    """One thing to measure: a command, and the folder of its page."""

    folder: str
    command: list[str]
    minutes: float
    targets: list[Target] = field(default_factory=list)


def jobs(data: str, small: str, tokenizer: str | None) -> list[Job]:
    """Return the jobs, the most worthy first.

    Args:
        data: folder with <dataset>/<split>.jsonl.
        small: the small model, as benchmarks take it.
    """
    common = ["--data", data, "--accelerator", "cuda", *(["--tokenizer", tokenizer] if tokenizer else [])]
    train = ["experiments.benchmarks.train_speed", *common, "--micro-batch-tokens", "8192"]
    score = ["experiments.benchmarks.eval_speed", *common, "--model", small, "--examples", "250", "--batch-tokens", "16384"]
    without_losses, one_size = ["--losses", "0"], "--examples-per-update"
    return [
        Job(
            "gpu_train/135m_8", [*train, "--model", small, one_size, "8", "--updates", "40", *without_losses], 8,
            [_times("trl", 15), _less_memory],
        ),
        Job(
            "gpu_train/135m_64",
            [*train, "--model", small, one_size, "64", "--updates", "20", "--rounds", "2", *without_losses], 7,
            [_times("trl", 10), _less_memory],
        ),
        Job(
            "gpu_train/0.5b_8",
            [*train, "--model", "0.5b", one_size, "8", "--updates", "30", "--rounds", "2", *without_losses], 7,
            [_times("trl", 8), _less_memory],
        ),
        Job(
            "gpu_train/8b_64",
            [*train, "--model", "8b", one_size, "64", "--updates", "6", "--rounds", "1", *without_losses], 10,
            [_times("trl_liger", 1.5), _rate, _less_memory],
        ),
        Job(
            "gpu_eval/135m",
            [*score, "--only", "PIQA, letters", "RACE-middle, letters", "--adapter", "without", "--rounds", "2"], 9,
            [_slowest_scoring, _same_predictions],
        ),
        Job("gpu_train/losses", [*train, "--model", small, one_size, "8", "--rounds", "0"], 5),
        Job("gpu_tests", ["pytest", "-q", "tests/acceptance/test_cuda.py"], 5),
    ]  # fmt: skip


def _times(side: str, at_least: float) -> Target:
    name = {"trl": "TRL", "trl_liger": "TRL with Liger's kernels"}[side]
    return Target(f"times {name}", at_least, lambda found: found["sizes"][0]["ratios"][side])


def _memory_ratio(found: Any) -> float:
    sides = found["sizes"][0]["sides"]
    theirs = min(figures["peak_memory_gib"] for side, figures in sides.items() if side != "ours")
    return float(theirs / sides["ours"]["peak_memory_gib"])


_less_memory = Target("TRL's memory over ours", 1, _memory_ratio)
_rate = Target("share of the multiply rate", 0.6, lambda found: found["sizes"][0]["sides"]["ours"]["share_of_multiply_rate"])
_slowest_scoring = Target("times lm-eval, the slowest workload", 6, lambda found: min(row["ratio"] for row in found["rows"]))
_same_predictions = Target(
    "same predictions in fp32, the worst workload", 1, lambda found: min(e["same predictions"] for e in found["exactness"])
)


def run(job: Job, report: Path, seconds: float) -> str:
    """Run a job for at most so many seconds, its output to log.txt in its folder; return how it ended."""
    folder = report / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    module, *arguments = job.command
    page = [] if module == "pytest" else ["--report", str(folder)]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, *page], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds / 60:.1f} minutes"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
                process.wait()
    said = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()
    if module == "pytest" and code == 0:
        write(folder, ["# The tests that need a GPU", "", f"`python -m pytest {' '.join(arguments)}`: {said[-1].strip('= ')}."])
    return "done" if code == 0 else f"failed: {said[-1] if said else f'exit code {code}'}"


def finished(job: Job, report: Path) -> bool:
    """Whether a job's page is there, with its numbers where some have a target."""
    return all((report / job.folder / name).is_file() for name in ("README.md", *(["results.json"] if job.targets else [])))


def summary(all_jobs: list[Job], report: Path, ended: dict[str, str]) -> list[str]:
    """Return the page of targets; a job that has not finished shows how it ended."""
    rows = []
    for job in all_jobs:
        label = f"[{job.folder}](../{job.folder})"
        if not finished(job, report):
            rows.append([job.folder, ended.get(job.folder, "not started"), "-", "-", "-"])
            continue
        found = json.loads((report / job.folder / "results.json").read_text(encoding="utf-8")) if job.targets else {}
        rows += [[label, *_beside(target, found)] for target in job.targets] or [[label, "done", "-", "-", "-"]]
    lines = ["# On a GPU: what was got beside the targets for an H100", ""]
    return [*lines, *table(["", "", "target", "got", "met"], rows), "Made by `python -m experiments.gpu --data DIR`."]


def _beside(target: Target, found: Any) -> list[str]:
    try:
        got = target.read(found)
    except KeyError:  # Liger was not installed
        return [target.what, f"{target.at_least:g}", "not measured", "no"]
    return [target.what, f"{target.at_least:g}", f"{got:.2f}", "yes" if got >= target.at_least else "no"]


def main() -> None:
    """Run what is left to do within the time; print and write the summary after each job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with piqa and race_middle, as <dataset>/<split>.jsonl")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", default="135m", help="the small model: of conf/model, a folder, or the shape 135m")
    parser.add_argument("--tokenizer", help="of the shapes: a folder; default: the embedded model's")
    parser.add_argument("--report", type=Path, default=Path("experiments/results"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError("experiments.gpu needs a CUDA device, and this machine has none that torch can use.")
    if not (Path(arguments.data) / "piqa").is_dir():
        raise InputError(f"--data {arguments.data}: there is no folder piqa in it; name the one with <dataset>/<split>.jsonl.")
    ends_at = time.monotonic() + 60 * arguments.minutes
    all_jobs, ended = jobs(arguments.data, arguments.model, arguments.tokenizer), {}
    for job in all_jobs:
        left = ends_at - time.monotonic()
        if finished(job, arguments.report) or left < _LEAST_S:
            continue
        print(f"{job.folder} ...", flush=True)
        ended[job.folder] = run(job, arguments.report, min(60 * job.minutes, left))
        print(f"{job.folder}: {ended[job.folder]}", flush=True)
        write(arguments.report / "gpu", summary(all_jobs, arguments.report, ended))
    print("\n".join(summary(all_jobs, arguments.report, ended)))


if __name__ == "__main__":
    run_plain(main)
