"""What loggers need, told before a run begins: their packages, and what W&B refuses."""

import importlib.util
import os

from paft.config.schema import LoggerConfig
from paft.config.wandb_rules import check_wandb
from paft.runtime.errors import InputError


def check_loggers(logger: LoggerConfig) -> None:
    """Raise InputError for a logger that is not installed, or that W&B would refuse."""
    needs = {"tensorboard": ["tensorboard"], "mlflow": ["mlflow"]}
    if not os.environ.get("MLFLOW_TRACKING_URI"):  # runs are then kept in an SQLite file, which mlflow-skinny alone cannot open
        needs["mlflow"] += ["sqlalchemy", "alembic"]
    for name in logger.names:
        for package in needs.get(name, []):
            if importlib.util.find_spec(package) is None:
                raise InputError(f"logger={name}: {package} is not installed; run `pip install {name}`.")
    check_wandb(logger)
