"""The paper's tables on real data, for a card that is at hand for half an hour: several runs at a time, the most telling first.

    python -m experiments.real_tables table1 --data DIR                      # Table 1; also: table5 pool_size controls
    python -m experiments.real_tables table1 --data DIR --minutes 25 --at-a-time 4 model=qwen2_5_coder_0_5b_gguf
    python -m experiments.real_tables table1 --data DIR --plan               # only print the runs, in their order

Every run is a cell of the recipe of that name (conf/experiment) at scale=gpu, and a process of its own; further settings are
typed as for train.py. Of each seed PAFT and one fixed prompt come first, RACE and HellaSwag before the other data sets, so that
whatever is cut off, the table that stands tells the most. The report is written again after each run that ends. When the time
is up, or the command is interrupted, the runs that go on are told to stop and save their state; the same command resumes them
and skips what is finished. Data sets on which a small model stays at chance with options shown have them hidden, or are left
out, as the report says.
"""

import argparse
import contextlib
import io
import itertools
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.paper.__main__ import report
from paft.cli.hydra_app import run_plain
from paft.config.compose import CONF, compose_training
from paft.reporting.collect import collect, keep_runs
from paft.reporting.results import FILE
from paft.runtime.errors import InputError
from paft.runtime.files import check_place

RECIPES = ("table1", "table5", "pool_size", "controls")
_BALANCED, _HIDDEN = "dataset.balanced=true", ("dataset.answer=text", "dataset.options=hidden")
DATASETS = {
    "race": (_BALANCED,),
    "hellaswag": (_BALANCED, *_HIDDEN),
    "piqa": (_BALANCED, *_HIDDEN),
    "winogrande": (_BALANCED,),  # where it is named
}
_NOT_TOLD = "a model of 0.5 billion weights was not told from chance (experiments/results/learnable: one seed, 1,600 rows)"
_FIRST = ("paft", "user", "base")  # methods; those that search come last, because they score most
_STOPPED = "stopped; the same command resumes it"
_LOOK_S = 0.5  # between two looks at a run
_TO_STOP_S = 60  # a run that is told to stop has so long to save its state
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Cell:
    """A run: what is typed, and the name of its folder."""

    overrides: tuple[str, ...]
    name: str


def cells(recipe: str, datasets: Sequence[str], typed: Sequence[str]) -> list[Cell]:
    """Return the runs of a recipe in the order of what they tell; raises InputError for settings that do not compose.

    The first two data sets come seed by seed, then the others, then the searches for one prompt in the same order.
    """
    swept = _swept(recipe)
    if "dataset" in swept or any(one.startswith(("seed=", "dataset=")) for one in typed):
        raise InputError("seed= and dataset= are what the tables sweep; give --datasets for others, and leave out the seed.")
    found: dict[str, tuple[tuple[int, int, int, int], Cell]] = {}
    for dataset, *values in itertools.product(datasets, *swept.values()):
        own = dict(zip(swept, values, strict=True))
        overrides = (f"experiment={recipe}", "scale=gpu", f"dataset={dataset}", *(f"{k}={v}" for k, v in own.items()),
                     *DATASETS.get(dataset, ()), *typed)  # fmt: skip
        config = compose_training(overrides)
        method = config.method.name
        place = _FIRST.index(method) if method in _FIRST else len(_FIRST)
        order = (int(method not in _FIRST), int(datasets.index(dataset) > 1), int(own["seed"]), place)
        found.setdefault(config.run_name, (order, Cell(overrides, config.run_name)))  # a base model has no seed
    return [cell for _, cell in sorted(found.values(), key=lambda pair: pair[0])]


def _swept(recipe: str) -> dict[str, list[str]]:
    """Return the lists of values that a recipe sweeps."""
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", [f"experiment={recipe}"], return_hydra_config=True)
    found = OmegaConf.to_container(config.hydra.sweeper.params)
    assert isinstance(found, dict)
    return {str(key): str(values).split(",") for key, values in found.items()}


def check(wanted: Sequence[Cell], root: Path) -> None:
    """Load all but the weights of a run on each data set; raises InputError for a model, rows or prompts that are not there.

    Args:
        root: where the runs' folders will lie.
    """
    from paft.jobs.one_run import prepare

    configs = [compose_training([*cell.overrides, f"output_root={root.absolute()}"]) for cell in wanted]
    for config in {config.dataset.name: config for config in reversed(configs)}.values():
        prepare(config)


class Runner:
    """Runs cells, several at a time, until the time is up, and says how each ended.

    Args:
        root: where the runs' folders lie.
        out: where the report goes.
        seconds: from now on.
    """

    def __init__(self, root: Path, out: Path, seconds: float) -> None:
        self.root, self.out, self.ends_at = root, out, time.monotonic() + seconds
        self._lock, self._interrupted = threading.Lock(), threading.Event()

    def run(self, wanted: Sequence[Cell], at_a_time: int) -> list[str]:
        """Run the cells in their order; return how each ended. Where it is interrupted, the runs save their state first."""
        with ThreadPoolExecutor(at_a_time) as pool:
            try:
                ended = [pool.submit(self._run_and_report, cell, wanted) for cell in wanted]
                return [one.result() for one in ended]
            except BaseException:
                self._interrupted.set()
                raise

    def _run_and_report(self, cell: Cell, wanted: Sequence[Cell]) -> str:
        how = self._run(cell)
        with self._lock:
            print(f"{cell.name}: {how}", flush=True)
            if how.startswith("finished"):
                try:
                    write_report(self.root, wanted, self.out)
                except Exception as error:  # the runs are worth more than a report of them, which is tried again at the end
                    print(f"No report yet: {error}", flush=True)
        return how

    def _run(self, cell: Cell) -> str:
        if (self.root / cell.name / FILE).is_file():
            return "finished before"
        if self._interrupted.is_set():
            return "not started: interrupted"
        if time.monotonic() > self.ends_at:
            return "not started: the time was up"
        command = [sys.executable, "train.py", *cell.overrides, f"output_root={self.root.absolute()}", "trainer.progress=false"]
        log = self.root / "logs" / f"{cell.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(command, cwd=_ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                while (code := _ended(process)) is None:
                    if time.monotonic() > self.ends_at or self._interrupted.is_set():
                        return _stop(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
                    process.wait()
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "finished" if code == 0 else f"failed: {lines[-1] if lines else f'exit code {code}'} ({log})"


def _ended(process: "subprocess.Popen[bytes]") -> int | None:
    """Return the exit code of a process that ends within a moment; None if it goes on."""
    try:
        return process.wait(_LOOK_S)
    except subprocess.TimeoutExpired:
        return None


def _stop(process: "subprocess.Popen[bytes]") -> str:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_TO_STOP_S)  # it saves its state, if it has begun to train
    return _STOPPED


def write_report(root: Path, wanted: Sequence[Cell], out: Path, keep: bool = False) -> None:
    """Write the tables of what is finished of the cells; another run in the folder is no part of them.

    Args:
        keep: whether to copy what the report is made from.
    """
    names = {cell.name for cell in wanted}
    found = collect([root], "training")
    collected = replace(found, runs=[run for run in found.runs if run.results.run in names])
    with contextlib.redirect_stdout(io.StringIO()):  # the tables are long, and printed again after each run
        report(collected, out, reading(wanted))
    if keep:
        keep_runs(collected, out)


def reading(wanted: Sequence[Cell]) -> list[str]:
    """Say which data sets have their options hidden or are left out, and why, and how test rows were drawn."""
    configs = {config.name: config for config in (compose_training(cell.overrides).dataset for cell in wanted)}
    hidden = [name for name, config in configs.items() if config.options == "hidden"]
    lines = [f"Options hidden: {', '.join(hidden)}."] if hidden else []
    if untold := [name for name in hidden if {*_HIDDEN} <= {*DATASETS.get(name, ())}]:
        lines = [f"{lines[0]} With options shown, on {', '.join(untold)} {_NOT_TOLD}."]
    if "winogrande" not in configs:
        lines.append(
            f"WinoGrande is left out unless it is named: {_NOT_TOLD}, and its options, which fill a gap in the sentence, "
            "cannot be hidden."
        )
    balanced = [name for name, config in configs.items() if config.balanced]
    return [*lines, *([f"Each choice is right in as many test rows: {', '.join(balanced)}."] if balanced else [])]


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> None:
    """Run what is left to do within the time; write the report after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True, help="folder with <dataset>/<split>.jsonl")
    parser.add_argument("--datasets", nargs="+", default=[*DATASETS][:3], metavar="DATASET", help="in their order")
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument(
        "--at-a-time", type=int, default=5, help="runs; one alone leaves a card idle, seven need more than 80 GB"
    )
    parser.add_argument("--runs", type=Path, default=Path("outputs/real"), help="where the runs are made")
    parser.add_argument("--report", type=Path, default=Path("outputs/real_report"), help="where tables and figures go")
    parser.add_argument(
        "--keep", action="store_true", help="copy scores and results of the runs, and their prompts, to --report"
    )
    parser.add_argument("--plan", action="store_true", help="only print the commands")
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    arguments = parser.parse_intermixed_args()
    if arguments.at_a_time < 1 or arguments.minutes <= 0:
        raise InputError("--at-a-time and --minutes must be above 0.")
    check_place(f"--report {arguments.report}", arguments.report)
    check_place(f"--runs {arguments.runs}", arguments.runs)
    wanted = cells(arguments.recipe, arguments.datasets, [f"data_root={arguments.data.absolute()}", *arguments.overrides])
    if arguments.plan:
        print("\n".join(shlex.join(["paft", "train", *cell.overrides]) for cell in wanted))
        return
    check(wanted, arguments.runs)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    ended = Runner(arguments.runs, arguments.report, 60 * arguments.minutes).run(wanted, arguments.at_a_time)
    finished = sum(how.startswith("finished") for how in ended)
    print(f"{finished} of {len(wanted)} runs are finished.", flush=True)
    if finished:
        write_report(arguments.runs, wanted, arguments.report, arguments.keep)
        print(f"Written: {arguments.report / 'README.md'}")
    if any(how.startswith("failed") for how in ended):
        sys.exit(1)


if __name__ == "__main__":
    run_plain(main)
