"""Measure how robust a model is to its prompt's wording: python evaluate.py adapter=RUN/adapter (conf/evaluate.yaml)."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from paft.cli import CONFIG_PATH, run_hydra, run_plain
from paft.config import parse_evaluation
from paft.errors import InputError


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Run one evaluation; in a sweep, one of its jobs."""
    typed = list(HydraConfig.get().overrides.task)
    sweep = HydraConfig.get().sweep.dir if HydraConfig.get().mode == RunMode.MULTIRUN else None
    if sweep is None:
        run_plain(lambda: job(composed, typed))  # here, since Hydra would add a line of its own
        return
    try:
        job(composed, typed, group=Path(sweep).name)
    except InputError as error:  # the sweep goes on; Hydra raises this again at its end
        print(f"error: {error}", file=sys.stderr)
        raise


def job(composed: DictConfig, typed: Sequence[str] = (), group: str | None = None) -> None:
    """Evaluate and print the tables.

    Args:
        typed: the overrides on the command line.
    """
    config = parse_evaluation(composed, typed)
    # Heavy imports wait until the config is known to be right.
    from paft.evaluating import run_evaluation
    from paft.reporting.table import print_run

    evaluation = run_evaluation(config, group)
    results = json.loads(evaluation.folder.results.read_text())
    print_run(evaluation.method, results, evaluation.folder.results)
    if config.output is not None:
        print(f"Predictions: {config.output}")


if __name__ == "__main__":
    run_hydra(main)
