"""paft evaluate: measure how robust a model is to its prompt's wording (conf/evaluate.yaml)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from paft.cli.hydra_app import run_hydra, run_job
from paft.config.compose import CONF, parse_evaluation
from paft.config.schema import EvaluateConfig
from paft.jobs.preflight import check_evaluation

if TYPE_CHECKING:  # its imports take a second, which help and completion need not wait for
    from paft.reporting.results import Results


@hydra.main(version_base="1.3", config_path=CONF, config_name="evaluate")
def app(composed: DictConfig) -> float | None:
    """Run one evaluation; in a sweep, one of its jobs.

    Returns the mean accuracy; None for rows without labels, and if the job failed.
    """
    devices = OmegaConf.select(composed, "trainer.devices", default=1)
    results = run_job(lambda typed, group: job(composed, typed, group), devices)
    return None if results is None or results.robustness is None else results.robustness.mean


def job(composed: DictConfig, typed: Sequence[str] = (), group: str | None = None) -> "Results":
    """Evaluate.

    Args:
        typed: the overrides on the command line.
        group: the sweep that the evaluation belongs to.
    """
    config = parse_evaluation(composed, typed)
    checked = check_evaluation(config)
    from paft.jobs.launch import launch_evaluation  # here, because its results' type takes a second to import

    results = launch_evaluation(config, checked, group)
    if config.output is not None:
        print(f"Predictions: {config.output}")
    from paft.reporting.bounds import check_bounds

    check_bounds(config.fail_under, results)
    return results


def main() -> None:
    """Run the command that stands in sys.argv."""
    run_hydra(app, EvaluateConfig)
