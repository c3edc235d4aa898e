"""Starting a checked job on its devices: the one way of the commands and of the Python API."""

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.jobs.preflight import CheckedEvaluation, CheckedRun
from paft.reporting.results import Results, read_results


def launch_training(config: TrainConfig, checked: CheckedRun, group: str | None = None) -> Results:
    """Train, or resume, or skip a finished run, and return its results.

    Args:
        checked: what check_run(config) returned.
        group: the sweep that the run belongs to, for W&B.
    """
    # Heavy imports wait until what can be checked without them is known to be right.
    from paft.jobs.train import run_training
    from paft.runtime.launch import run_on

    run_on(config.trainer.devices, config.trainer.accelerator, run_training, config, group, checked)
    return read_results(checked.folder.results)


def launch_evaluation(config: EvaluateConfig, checked: CheckedEvaluation, group: str | None = None) -> Results:
    """Evaluate, or resume, or skip a finished evaluation, and return its results.

    Args:
        checked: what check_evaluation(config) returned.
        group: the sweep that the evaluation belongs to, for W&B.
    """
    # Heavy imports wait until what can be checked without them is known to be right.
    from paft.jobs.evaluate import run_evaluation
    from paft.runtime.launch import run_on

    run_on(config.trainer.devices, config.trainer.accelerator, run_evaluation, config, group, checked)
    return read_results(checked.folder.results)
