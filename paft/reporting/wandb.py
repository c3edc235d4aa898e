"""Weights & Biases: online where the machine is logged in, otherwise offline; never a question, never a hang."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from paft.config import EvaluateConfig, TrainConfig
from paft.runs import RunFolder, write_atomically

_INIT_TIMEOUT_S = 30
_LOGGED = "wandb_logged"  # in the folder of a run: its results are in W&B, or in the offline run that lies there


class _Forgiving(WandbLogger):
    """A logger whose failures cost no update of a training run; it names the first one."""

    _failed = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # its service died, a full disk; the CSV has them all
            if not self._failed:
                print(f"W&B misses metrics from update {step} on ({_said(error)}); they are in log/ of the run's folder.")
            self._failed = True


def misses(config: TrainConfig | EvaluateConfig, folder: Path) -> bool:
    """Say whether the results of a finished run still have to be sent: it was killed before, or W&B had failed."""
    return config.logger.name == "wandb" and not (folder / _LOGGED).is_file()


@contextmanager
def wandb_run(
    config: TrainConfig | EvaluateConfig, name: str, job_type: str, folder: Path, group: str | None
) -> Iterator[WandbLogger | None]:
    """Yield the Lightning logger of a W&B run for this run, None if the config names another logger, and finish it after.

    Each run has a W&B run of its own, in a sweep too; one that goes on, goes on online. WANDB_MODE is respected; without
    it the run is online if this machine has a key, else offline.
    """
    if config.logger.name != "wandb":
        yield None
        return
    logger = _start(config, name, job_type, folder, group)
    try:
        yield logger
    except BaseException:
        _finish(logger, 1)
        raise
    _finish(logger, 0)


def _finish(logger: WandbLogger, exit_code: int) -> None:
    try:
        logger.experiment.finish(exit_code=exit_code)
    except Exception as error:
        print(f"W&B could not finish its run ({_said(error)}); `wandb sync` sends what lies in the run's folder.")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def send_results(
    config: TrainConfig | EvaluateConfig, name: str, job_type: str, run_folder: RunFolder, group: str | None
) -> None:
    """Send the results of a finished run, which W&B misses."""
    with run_folder.held(), wandb_run(config, name, job_type, run_folder.path, group) as logger:
        if logger is not None:
            log_results(logger, json.loads(run_folder.results.read_text(encoding="utf-8")), run_folder.path)


def _start(config: TrainConfig | EvaluateConfig, name: str, job_type: str, folder: Path, group: str | None) -> WandbLogger:
    import wandb

    settings = wandb.Settings(init_timeout=_INIT_TIMEOUT_S, silent=True, reinit="create_new")
    arguments: dict[str, Any] = {
        "dir": str(folder),
        "project": config.logger.project,
        "entity": config.logger.entity,
        "name": name,
        "group": group,
        "job_type": job_type,
        "tags": [config.dataset.name, *config.logger.tags],
        "config": config.model_dump(),
        "settings": settings,
    }
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    # Only the server can go on with a run: two offline runs of one id would replace each other at `wandb sync`.
    same: dict[str, Any] = {"id": _id(folder), "resume": "allow"} if mode == "online" else {}
    try:
        experiment = wandb.init(mode=mode, **same, **arguments)
    except Exception as error:  # unreachable, key refused, timed out: the run matters more
        print(f"W&B could not be reached ({_said(error)}); logging offline, `wandb sync` uploads later.")
        experiment = wandb.init(mode="offline", **arguments)
    return _Forgiving(experiment=experiment)


def log_results(logger: WandbLogger, results: dict[str, Any], folder: Path) -> None:
    """Add to the run its summary, pools and adapter and, where rows have labels, the per-prompt table, figure and report.

    Where W&B fails, that is said, and the same command sends them another time.
    """
    try:
        _log(logger, results, folder)
        write_atomically(folder / _LOGGED, "")
    except Exception as error:
        print(
            f"W&B misses the results of {results['run']} ({_said(error)}); they are in {folder}; the same command sends them."
        )


def _log(logger: WandbLogger, results: dict[str, Any], folder: Path) -> None:
    import wandb

    run = logger.experiment
    for group in ("robustness", "uncertainty", "consensus", "con", "also"):
        run.summary.update(_flat(group, results.get(group) or {}))
    for kind in ("prompts", "adapter"):
        if (folder / kind).is_dir():
            artifact = wandb.Artifact(f"{results['run']}-{kind}", kind)
            artifact.add_dir(str(folder / kind))
            run.log_artifact(artifact)
    if results["robustness"] is None:
        return
    with (folder / "per_prompt.csv").open(encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    table = wandb.Table(columns=[*names], data=[[id_, *map(float, numbers)] for id_, *numbers in rows])
    run.log({
        "per_prompt": table,
        "distribution": wandb.Image(str(folder / "distribution.png")),
        "report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False),
    })  # fmt: skip


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, float]:
    """Return nested numbers under names with slashes; what is no number is left out."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}"
        if isinstance(value, dict):
            flat |= _flat(name, value)
        elif isinstance(value, int | float):
            flat[name] = value
    return flat


def _id(folder: Path) -> str:
    """Return the id of the folder's W&B run, which a continued run keeps."""
    from wandb.sdk.lib.runid import generate_id

    path = folder / "wandb_id"
    if not path.is_file():
        write_atomically(path, generate_id())
    return path.read_text(encoding="utf-8")


def logged_in() -> bool:
    """Say whether this machine has a key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
