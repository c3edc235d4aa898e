"""Weights & Biases: online where the machine is logged in, otherwise offline; never a question, never a hang."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from paft.config import TrainConfig
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import accuracy_per_prompt
from paft.runs import write_atomically

_INIT_TIMEOUT_S = 30


def start_wandb(config: TrainConfig, folder: Path, group: str | None) -> WandbLogger:
    """Start a W&B run of its own for this training run, or online go on with it, and return its Lightning logger.

    WANDB_MODE is respected; without it the run is online if this machine has a key, else offline.
    """
    import wandb

    settings = wandb.Settings(init_timeout=_INIT_TIMEOUT_S, silent=True, reinit="create_new")
    arguments: dict[str, Any] = {
        "dir": str(folder),
        "project": config.logger.project,
        "entity": config.logger.entity,
        "name": config.run_name,
        "group": group,
        "job_type": config.method.name,
        "tags": list(config.logger.tags),
        "config": config.model_dump(),
        "settings": settings,
    }
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    # Only the server can go on with a run: two offline runs of one id would replace each other at `wandb sync`.
    same: dict[str, Any] = {"id": _id(folder), "resume": "allow"} if mode == "online" else {}
    try:
        experiment = wandb.init(mode=mode, **same, **arguments)
    except Exception as error:  # unreachable, key refused, timed out: the run matters more
        print(f"W&B could not be reached ({type(error).__name__}); logging offline, `wandb sync` uploads later.")
        experiment = wandb.init(mode="offline", **arguments)
    return WandbLogger(experiment=experiment)


def log_results(logger: WandbLogger, matrix: ScoreMatrix, results: dict[str, Any], folder: Path) -> None:
    """Add the robustness summary, the per-prompt table and the figure to the run."""
    import wandb

    run = logger.experiment
    run.summary.update({f"robustness/{key}": value for key, value in results["robustness"].items()})
    rows = [[id_, float(a)] for id_, a in zip(matrix.prompt_ids, accuracy_per_prompt(matrix), strict=True)]
    run.log({
        "per_prompt": wandb.Table(columns=["prompt_id", "accuracy"], data=rows),
        "distribution": wandb.Image(str(folder / "distribution.png")),
    })  # fmt: skip


def finish_wandb(logger: WandbLogger | None, exit_code: int) -> None:
    """Finish the run in whatever way this process leaves it; the next one of a sweep must be a run of its own."""
    if logger is not None:
        logger.experiment.finish(exit_code=exit_code)


def _id(folder: Path) -> str:
    """Return the id of the folder's W&B run, which a continued run keeps."""
    from wandb.sdk.lib.runid import generate_id

    path = folder / "wandb_id"
    if not path.is_file():
        write_atomically(path, generate_id())
    return path.read_text(encoding="utf-8")


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
