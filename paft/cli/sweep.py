"""A sweep (-m): what each of its jobs leaves, and what it has come to at its end, also where it was interrupted."""

import json
import logging
import math
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically
from paft.runtime.run_folder import FAILED, FINISHED


@dataclass
class Sweep:
    """A sweep that this process started; a launcher may run its jobs in others.

    swept are the keys that it varies. total is the number of runs, None where the sweeper does not say. running is the run that
    goes on in this process: its number, from 0, and what was typed.
    """

    folder: Path
    swept: Sequence[str]
    total: int | None
    running: tuple[int, Sequence[str]] | None = None

    def called(self, number: int, typed: Iterable[str]) -> str:
        """Return what to call a run: its place among all, and what it varies."""
        of = "" if self.total is None else f" of {self.total}"
        varied = self.varied(typed)
        return f"run {number + 1}{of}{f' ({varied})' if varied else ''}"

    def varied(self, typed: Iterable[str]) -> str:
        """Return what a run varies of all that was typed."""
        words = list(typed)
        return " ".join([word for word in words if word.partition("=")[0] in self.swept] or words)

    @property
    def interrupted(self) -> str:
        """Say where the sweep stands: in which run, or where they go on in other processes, after how many."""
        if self.running is not None:
            return f"in {self.called(*self.running)}"
        return f"after {len(records(self.folder, FINISHED))}{'' if self.total is None else f' of {self.total}'} runs"


started: list[Sweep] = []  # by the command that goes on in this process


class SweepStarted(Callback):
    """Remembers each sweep when it begins, and says how many of its runs joblib starts at a time."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra."""
        started.append(Sweep(Path(config.hydra.sweep.dir), *_plan(config)))
        launcher = config.hydra.launcher
        # Optuna's plug-in would say again that a trial failed, and why it cannot use what a failed run returns.
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").addFilter(lambda said: said.levelno < logging.WARNING)
        if "joblib" in launcher.get("_target_", ""):
            from joblib import cpu_count, effective_n_jobs

            jobs = effective_n_jobs(launcher.n_jobs)
            threads = f"{max(1, cpu_count() // jobs)} CPU threads each, unless OMP_NUM_THREADS says otherwise"
            print(f"{jobs} runs at a time, {threads}.", flush=True)


def _plan(config: DictConfig) -> tuple[list[str], int | None]:
    """Return the keys that a sweep varies, and how many runs it has."""
    sweeper = config.hydra.sweeper
    typed = [*(f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()), *config.hydra.overrides.task]
    varied: dict[str, Override] = {}
    with suppress(HydraException):  # the sweeper is about to raise it
        for override in OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(typed):
            varied[override.get_key_element()] = override  # the last one counts
        varied = {key: override for key, override in varied.items() if override.is_sweep_override()}
        if "n_trials" in sweeper:
            return list(varied), int(sweeper.n_trials)
        return list(varied), math.prod(len(list(override.sweep_string_iterator())) for override in varied.values())
    return list(varied), None


def begin(number: int, typed: Sequence[str]) -> None:
    """Remember which run of its sweep this process begins."""
    if started:
        started[-1].running = (number, typed)


def finish(sweep: Path, number: int, typed: Sequence[str], run: Path, below: str | None = None) -> None:
    """Leave a file that says where a finished run is, and print a bound that it is below.

    Args:
        sweep: the folder of the sweep.
        run: the folder of the run.
        below: a sentence on the bounds of fail_under that the run is below.
    """
    if below is not None:
        where = started[-1].called(number, typed) if started else f"run {number + 1}"
        print(f"{where}: {below}", file=sys.stderr, flush=True)
    _record(sweep, FINISHED, number, {"typed": typed, "run": str(run.resolve()), "below": below})
    if started:
        started[-1].running = None


def fail(sweep: Path, number: int, typed: Sequence[str], error: Exception, sentence: str | None) -> None:
    """Print why a run failed, and leave a file that says so.

    Args:
        sweep: the folder of the sweep.
        sentence: what to tell the user; None for what is no mistake of theirs, which is printed with its traceback.
    """
    if sentence is None:
        traceback.print_exception(error)
    reason = sentence or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    where = started[-1].called(number, typed) if started else f"run {number + 1}"
    print(f"error: {where}: {reason}", file=sys.stderr, flush=True)
    _record(sweep, FAILED, number, {"typed": typed, "reason": reason, "expected": sentence is not None})
    if started:
        started[-1].running = None


def _record(sweep: Path, kind: str, number: int, content: Mapping[str, Any]) -> None:
    folder = sweep / kind
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{number:05}.json", json.dumps(content, indent=1) + "\n")


def records(sweep: Path, kind: str) -> list[dict[str, Any]]:
    """Return what the jobs of a sweep left, in their order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((sweep / kind).glob("*.json"))]


def sum_up(sweep: Sweep) -> int:
    """Print the table of a sweep's finished runs, and what failed or was not finished; return the exit code."""
    finished, failed = records(sweep.folder, FINISHED), records(sweep.folder, FAILED)
    if finished:
        _report(sweep.folder)
    if failed:
        alike: dict[str, list[str]] = defaultdict(list)  # by reason
        for job in failed:
            alike[job["reason"]].append(sweep.varied(job["typed"]))
        lines = [f"{', '.join(runs)}: {reason}" for reason, runs in alike.items()]
        print(f"{len(failed)} runs failed; the same command tries them again:", *lines, sep="\n  ", file=sys.stderr)
    left = 0 if sweep.total is None else sweep.total - len(finished) - len(failed)
    if left > 0 and (finished or failed or sweep.running):
        print(f"{left} of {sweep.total} runs are not finished; the same command resumes them.", file=sys.stderr)
    if below := [f"{sweep.varied(job['typed'])}: {job['below']}" for job in finished if job.get("below")]:
        print(f"{len(below)} runs are below a bound:", *below, sep="\n  ", file=sys.stderr)
    if not failed:
        return 1 if below else 0
    return 2 if all(job["expected"] for job in failed) else 1


def _report(folder: Path) -> None:
    """Write the report of a sweep's finished runs into its folder, and print their table."""
    from paft.reporting.sweep import report  # here, because it draws figures, and most mistakes end before there is a run

    print()
    try:
        report([folder], folder)
    except InputError as error:  # e.g. rows without labels, of which nothing is right or wrong
        print(f"No table of this sweep: {error}", flush=True)
