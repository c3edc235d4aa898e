"""Starting a checked job on its devices: the one way of the commands and of the Python API."""

from collections.abc import Callable

from paft.config.schema import EvaluateConfig, TrainConfig
from paft.jobs.preflight import CheckedEvaluation, CheckedRun
from paft.reporting.results import Results, read_results
from paft.runtime import ranks
from paft.runtime.console import print_in_any_locale
from paft.runtime.errors import InputError, NotEnoughMemoryError
from paft.runtime.launched import devices_of, find_place
from paft.runtime.memory import out_of_memory_is_an_input_error


def launch_training(config: TrainConfig, checked: CheckedRun, group: str | None = None) -> Results:
    """Train, or resume, or skip a finished run, and return its results.

    Args:
        checked: what check_run(config) returned.
        group: the sweep that the run belongs to, for loggers.

    Raises InputError, also where memory runs out; a run that has computed nothing until then leaves no folder.
    """
    return _launch(_train, config, checked, group)


def launch_evaluation(config: EvaluateConfig, checked: CheckedEvaluation, group: str | None = None) -> Results:
    """Evaluate, or resume, or skip a finished evaluation, and return its results.

    Args:
        checked: what check_evaluation(config) returned.
        group: the sweep that the evaluation belongs to, for loggers.

    Raises InputError, also where memory runs out; an evaluation that has computed nothing until then leaves no folder.
    """
    return _launch(_evaluate, config, checked, group)


def _launch(
    work: Callable[..., None], config: TrainConfig | EvaluateConfig, checked: CheckedRun | CheckedEvaluation, group: str | None
) -> Results:
    # Heavy imports wait until what can be checked without them is known to be right.
    from paft.runtime.launch import run_on

    print_in_any_locale()
    find_place()
    trainer = config.trainer.model_copy(update={"devices": devices_of(config.trainer.devices)})
    config = config.model_copy(update={"trainer": trainer})
    try:
        run_on(trainer.devices, trainer.accelerator, work, config, group, checked)
    except NotEnoughMemoryError:
        if ranks.n_ranks() == 1:
            checked.folder.remove_unless_computed()
        raise
    return read_results(checked.folder.results)


def _train(config: TrainConfig, group: str | None, checked: CheckedRun) -> None:
    from paft.jobs.less_memory import less_for_training
    from paft.jobs.train import run_training

    _check_same(config, checked)
    with out_of_memory_is_an_input_error(lambda: less_for_training(config)):
        run_training(config, group, checked)


def _evaluate(config: EvaluateConfig, group: str | None, checked: CheckedEvaluation) -> None:
    from paft.jobs.evaluate import run_evaluation
    from paft.jobs.less_memory import less_for_evaluation

    _check_same(config, checked)
    with out_of_memory_is_an_input_error(lambda: less_for_evaluation(config)):
        run_evaluation(config, group, checked)


def _check_same(config: TrainConfig | EvaluateConfig, checked: CheckedRun | CheckedEvaluation) -> None:
    """Raise InputError if ranks were given different commands or files, as ranks on several machines can be."""
    first, *others = ranks.gather((checked.folder.digest, config.model_dump()))
    for number, other in enumerate(others, start=1):
        if other != first:
            what = "command" if other[1] != first[1] else "data, prompts or base model"
            raise InputError(f"Rank {number} was given another {what} than rank 0; give all ranks the same.")
