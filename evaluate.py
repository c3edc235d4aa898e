"""Measure how robust a model is to its prompt's wording: python evaluate.py adapter=RUN/adapter (conf/evaluate.yaml)."""

import json
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from paft.cli import CONFIG_PATH, run_hydra, run_job
from paft.config import parse_evaluation


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Run one evaluation; in a sweep, one of its jobs."""
    run_job(lambda typed, group: job(composed, typed, group))


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
