"""Measure how robust a model is to its prompt's wording: python evaluate.py adapter=RUN/adapter (conf/evaluate.yaml)."""

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig, OmegaConf

from paft.checked import check_evaluation
from paft.cli import CONFIG_PATH, run_hydra, run_job
from paft.config import parse_evaluation


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Run one evaluation; in a sweep, one of its jobs."""
    run_job(lambda typed, group: job(composed, typed, group), OmegaConf.select(composed, "devices", default=1))


def job(composed: DictConfig, typed: Sequence[str] = (), group: str | None = None) -> None:
    """Evaluate.

    Args:
        typed: the overrides on the command line.
    """
    config = parse_evaluation(composed, typed)
    checked = check_evaluation(config)
    # Heavy imports wait until what can be seen without them is known to be right.
    from paft.evaluating import run_evaluation
    from paft.ranks import run_on

    run_on(config.devices, config.accelerator, run_evaluation, config, group, checked)
    if config.output is not None:
        print(f"Predictions: {config.output}")


if __name__ == "__main__":
    run_hydra(main)
