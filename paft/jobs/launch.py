"""Starting a checked job on its devices: the one way of the commands and of the Python API."""

from collections.abc import Callable

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.jobs.preflight import CheckedEvaluation, CheckedRun
from paft.reporting.results import Results, read_results
from paft.runtime.console import print_in_any_locale
from paft.runtime.errors import NotEnoughMemoryError
from paft.runtime.memory import out_of_memory_is_an_input_error


def launch_training(config: TrainConfig, checked: CheckedRun, group: str | None = None) -> Results:
    """Train, or resume, or skip a finished run, and return its results.

    Args:
        checked: what check_run(config) returned.
        group: the sweep that the run belongs to, for W&B.

    Raises InputError, also where memory runs out; a run that has computed nothing until then leaves no folder.
    """
    return _launch(_train, config, checked, group)


def launch_evaluation(config: EvaluateConfig, checked: CheckedEvaluation, group: str | None = None) -> Results:
    """Evaluate, or resume, or skip a finished evaluation, and return its results.

    Args:
        checked: what check_evaluation(config) returned.
        group: the sweep that the evaluation belongs to, for W&B.

    Raises InputError, also where memory runs out; an evaluation that has computed nothing until then leaves no folder.
    """
    return _launch(_evaluate, config, checked, group)


def _launch(
    work: Callable[..., None], config: TrainConfig | EvaluateConfig, checked: CheckedRun | CheckedEvaluation, group: str | None
) -> Results:
    # Heavy imports wait until what can be checked without them is known to be right.
    from paft.runtime.launch import run_on

    print_in_any_locale()
    try:
        run_on(config.trainer.devices, config.trainer.accelerator, work, config, group, checked)
    except NotEnoughMemoryError:
        checked.folder.remove_unless_computed()
        raise
    return read_results(checked.folder.results)


def _train(config: TrainConfig, group: str | None, checked: CheckedRun) -> None:
    from paft.jobs.less_memory import less_for_training
    from paft.jobs.train import run_training

    with out_of_memory_is_an_input_error(lambda: less_for_training(config)):
        run_training(config, group, checked)


def _evaluate(config: EvaluateConfig, group: str | None, checked: CheckedEvaluation) -> None:
    from paft.jobs.evaluate import run_evaluation
    from paft.jobs.less_memory import less_for_evaluation

    with out_of_memory_is_an_input_error(lambda: less_for_evaluation(config)):
        run_evaluation(config, group, checked)
