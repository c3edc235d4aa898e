"""Finding finished runs under folders, with what is left out and why, and keeping what a report is made from."""

import json
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from paft.config.adapter import adapter_called
from paft.config.compose import compose_evaluation, compose_training
from paft.reporting.results import FILE, Results, read_results, save_results
from paft.reporting.runs import FinishedRun
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically
from paft.runtime.run_folder import FAILED, FINISHED

Kind = Literal["training", "evaluation"]

_LEFT_OUT = "left_out.json"  # in a folder of kept runs: what else the folders held when the report was made
_NOT_COMPOSED = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: Hydra's answer to model=null
_PLACES = ("output_root=", "data_root=")
_UNFINISHED = "not finished; the same command resumes it"
_OTHER_KIND = {"training": "an evaluation, no training run", "evaluation": "a training run, no evaluation"}


@dataclass(frozen=True)
class Collected:
    """What the folders hold that a report is asked for."""

    runs: list[FinishedRun]
    left_out: dict[str, str]  # name of a folder that is no finished run of the kind -> why
    failed: list[dict[str, Any]]  # jobs of sweeps: what was typed, and the reason

    @property
    def failures(self) -> list[str]:
        """A line for each job that failed."""
        return [f"{' '.join(job['typed'])}: {job['reason']}" for job in self.failed]


def collect(paths: Sequence[Path], kind: Kind | None = None) -> Collected:
    """Return the finished runs in or under the folders, and what else is there.

    Args:
        paths: folders of runs, folders that hold them, or a sweep's own (outputs/sweeps/TIME).
        kind: of the runs; None takes the training runs, or where there is none the evaluations.

    Raises InputError for a path that is no folder, and where there is no run of the kind at all.
    """
    runs: list[FinishedRun] = []
    left_out: dict[str, str] = {}
    seen = set[Path]()
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: there is no such folder; give folders of runs, or one that holds them.")
        left_out |= _left_out_before(path)["left_out"]
        for folder in sorted(_folders(path) - seen):
            seen.add(folder)
            run = _read(folder)
            if isinstance(run, FinishedRun):
                runs.append(run)
            else:
                left_out[folder.name] = run
    kinds = {run.results.kind for run in runs}
    wanted = kind or ("evaluation" if kinds == {"evaluation"} else "training")
    finished = {run.folder.name for run in runs}
    left_out = {name: why for name, why in left_out.items() if name not in finished}
    left_out |= {run.folder.name: _OTHER_KIND[wanted] for run in runs if run.results.kind != wanted}
    collected = Collected([run for run in runs if run.results.kind == wanted], left_out, _failed(paths, finished))
    if not collected.runs:
        reasons = [*(f"{name}: {why}" for name, why in left_out.items()), *collected.failures]
        why = f" ({'; '.join(reason.rstrip('.') for reason in reasons)})" if reasons else ""
        what = "run" if kind is None else f"{kind} run"
        raise InputError(f"{', '.join(map(str, paths))}: there is no finished {what} here{why}.")
    return collected


def _folders(path: Path) -> set[Path]:
    """Return the folders of runs in or below a folder; those of a sweep are named by the files that its jobs left."""
    own = {mark.parent.resolve() for mark in (*path.glob("run.json"), *path.glob("*/run.json"))}
    named = set[Path]()
    for file in path.glob(f"{FINISHED}/*.json"):
        with suppress(ValueError, KeyError, TypeError):  # a damaged file; its run is found below output_root
            named.add(Path(json.loads(file.read_text(encoding="utf-8"))["run"]))
    return own | {folder for folder in named if folder.is_dir()}


def _read(folder: Path) -> FinishedRun | str:
    """Return a run, or why it is left out."""
    if not (folder / FILE).is_file():
        return _UNFINISHED
    try:
        run = FinishedRun(read_results(folder))
        if run.results.robustness is None:
            return "its rows have no answers, so nothing is right or wrong"
        _ = run.settings, run.measured_by, run.dataset
    except InputError as error:
        return str(error).removeprefix(f"{folder / FILE}: ")
    except (KeyError, TypeError):
        return "its config is damaged; run it again"
    return run


def _failed(paths: Sequence[Path], finished: Collection[str]) -> list[dict[str, Any]]:
    """Return the record of each training job that failed in a sweep of these folders and was not finished since.

    Args:
        finished: names of runs.
    """
    failed: dict[str, dict[str, Any]] = {}
    for path in paths:
        files = [*path.glob(f"sweeps/*/{FAILED}/*.json"), *path.glob(f"{FAILED}/*.json")]
        of_sweeps = (_record(file, path) for file in sorted(files))
        for record in (*_left_out_before(path)["failed"], *of_sweeps):  # a later sweep replaces what an earlier one says
            name = _run_name(record["typed"])
            if name is not None and name not in finished:
                failed[name] = record
    return list(failed.values())


def _record(file: Path, root: Path) -> dict[str, Any]:
    """Return what a sweep wrote of a job that failed, but for places of this machine."""
    try:
        job = json.loads(file.read_text(encoding="utf-8"))
        typed, reason = [str(word) for word in job["typed"]], str(job["reason"])
    except (ValueError, KeyError, TypeError):
        return {"typed": [str(file.relative_to(root))], "reason": "this record of a failed job is damaged"}
    return {"typed": [word for word in typed if not word.startswith(_PLACES)], "reason": reason}


def _run_name(typed: Sequence[str]) -> str | None:
    """Return the training run that overrides stand for; what was typed, if they stand for none; None for an evaluation."""
    as_typed = " ".join(typed)
    try:
        return compose_training(typed).run_name
    except InputError:
        return as_typed
    except _NOT_COMPOSED:
        return None if _is_evaluation(typed) else as_typed


def _is_evaluation(typed: Sequence[str]) -> bool:
    try:
        compose_evaluation(typed)
    except InputError:  # its keys are those of an evaluation
        return True
    except _NOT_COMPOSED:
        return False
    return True


def _left_out_before(path: Path) -> dict[str, Any]:
    """Return what the report left out whose runs were kept here; raises InputError for a damaged file."""
    file = path / _LEFT_OUT
    if not file.is_file():
        return {"left_out": {}, "failed": []}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        left_out = {str(name): str(why) for name, why in content["left_out"].items()}
        failed = [{"typed": list(map(str, job["typed"])), "reason": str(job["reason"])} for job in content["failed"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: this file is damaged; delete it, or make the report with --keep again.") from None
    return {"left_out": left_out, "failed": failed}


def keep_runs(collected: Collected, out: Path) -> None:
    """Copy what a report is made from to out/runs, its prompt pools, each once, to out/pools.

    Where the runs lay on the machine that made them, adapters, logs and figures stay behind. Paths that were typed for rows,
    prompts or a model come along, and so do the names of what the report left out.
    """
    runs, pools = out / "runs", out / "pools"
    pools.mkdir(parents=True, exist_ok=True)
    for run in collected.runs:
        folder = runs / run.folder.name
        for split, fingerprint in run.pools.items():
            source, pool = run.pool_file(split), pools / f"{fingerprint}.yaml"
            if source.is_file() and not pool.is_file():
                shutil.copyfile(source, pool)
        if folder.resolve() == run.folder:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in (run.folder / "run.json", *run.folder.glob("*.parquet")):
            shutil.copyfile(file, folder / file.name)
        save_results(folder, without_places(run.results))
    runs.mkdir(parents=True, exist_ok=True)
    content = {"left_out": collected.left_out, "failed": collected.failed}
    write_atomically(runs / _LEFT_OUT, json.dumps(content, indent=1) + "\n")


def without_places(results: Results) -> Results:
    """Return results as they are kept, without where they, their data and their adapter lay on the machine that made them."""
    adapter = results.adapter and (results.trained_by or adapter_called(results.adapter))
    here = {"data_root": None, "output_root": "outputs", "rerun": None, "adapter": adapter, "output": None}
    config = results.config | {key: value for key, value in here.items() if key in results.config}
    return results.model_copy(update={"config": config, "adapter": adapter})
