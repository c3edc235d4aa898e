"""What W&B refuses, told before a run begins, by the validators of the installed wandb."""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paft.config.schema import LoggerConfig
from paft.runtime.errors import InputError


def check_wandb(logger: LoggerConfig) -> None:
    """Raise InputError for names, tags or WANDB_ variables that W&B will not take; does nothing without logger=wandb."""
    if not logger.wandb:
        return
    try:
        Path.home()
    except RuntimeError:
        raise InputError(
            "logger=wandb: W&B needs a home folder and this user has none; give it one with HOME=FOLDER."
        ) from None
    _refuse(f"logger.project={logger.project}", "name another project", project=logger.project)
    if logger.entity is not None:  # it has no validator of its own; it is the other half of the address entity/project
        _refuse(f"logger.entity={logger.entity}", "name a user or a team", project=logger.entity)
    _refuse(f"logger.tags={logger.tags}", "shorten or leave out the tag", run_tags=logger.tags)
    _refuse("the WANDB_ variables of the environment", "mend or unset them")


def _refuse(what: str, way_out: str, **settings: Any) -> None:
    """Give wandb settings, or without any the environment's; raises InputError for what it refuses."""
    import wandb

    try:
        checked = wandb.Settings(**settings)
        if not settings:
            checked.update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
    except (wandb.errors.UsageError, ValueError) as error:
        reason = str(error)
    else:
        return
    raise InputError(f"{what}: W&B refuses this ({reason.rstrip('.').replace('. ', '; ')}); {way_out}.")
