"""paft train: fine-tune a model and say how robust it came out (conf/train.yaml is the page to edit)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from paft.cli.hydra_app import is_search, run_hydra, run_job
from paft.config.compose import CONF, check_preset, parse
from paft.config.schema import TrainConfig
from paft.jobs.preflight import CheckedRun, check_run
from paft.runtime.errors import InputError

if TYPE_CHECKING:  # its imports take a second, which help and completion need not wait for
    from paft.reporting.results import Results


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def app(composed: DictConfig) -> float | None:
    """Run one training job; in a sweep, one of its jobs.

    Returns the figure of the validation prompts that `objective` names, which is what Hydra's sweepers (Optuna) optimise; None
    if the job failed.
    """

    def run(typed: Sequence[str], group: str | None) -> "Results":
        check_preset(HydraConfig.get().runtime.choices)
        config = parse(composed)
        if is_search() and not config.method.trains:
            raise InputError(f"method={config.method.name}: nothing is trained, so there is no validation to search by.")
        results = job(config, typed, group)
        from paft.reporting.bounds import check_bounds

        check_bounds(config.fail_under, results)
        return results

    results = run_job(run, OmegaConf.select(composed, "trainer.devices", default=1))
    return None if results is None else results.objective(composed.objective)


def job(config: TrainConfig, typed: Sequence[str] = (), group: str | None = None) -> "Results":
    """Train, and compare with the original where a run is repeated.

    Args:
        typed: the overrides on the command line.
        group: the sweep that the run belongs to.
    """
    if config.rerun is None:
        return _train(config, check_run(config), group)
    from paft.jobs.rerun import check_repeats, check_same_inputs, repeated
    from paft.reporting.results import read_results

    original = read_results(Path(config.rerun))
    config = repeated(config, original, typed)
    checked = check_run(config)
    check_same_inputs(config, checked.inputs, original)
    results = _train(config, checked, group)
    check_repeats(config, results, original)
    return results


def _train(config: TrainConfig, checked: CheckedRun, group: str | None) -> "Results":
    from paft.jobs.launch import launch_training  # here, because its results' type takes a second to import

    return launch_training(config, checked, group)


def main() -> None:
    """Run the command that stands in sys.argv."""
    run_hydra(app, TrainConfig)
