"""The commands that make runs, worked out from their configs: which scale, and what was typed besides."""

import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hydra.errors import HydraException

from paft.config.compose import CONF, compose_training, from_dict
from paft.config.schema import TrainConfig
from paft.reporting.runs import FinishedRun, typed
from paft.runtime.errors import InputError
from paft.runtime.mappings import flat

# What a recipe sets, and what changes no number.
_OF_A_RECIPE = {"method.name", "method.prompt", "K", "T", "seed", "schedule.unit", "train_prompts", "prompts.train"}
_OF_A_MACHINE = {"data_root", "output_root", "rerun", "extra_measures"}
_MEASURES = {"table3": ["extra_measures=[generate]"], "table4": ["extra_measures=[adversarial]"]}


def commands(recipe: str, runs: Iterable[FinishedRun]) -> list[str]:
    """Return the command for each data set of the runs."""
    datasets: dict[str, FinishedRun] = {}
    for run in runs:  # a run that was searched for knows the most of what was typed
        if run.dataset not in datasets or run.results.selection is not None:
            datasets[run.dataset] = run
    return [shlex.join(["python", "train.py", "-m", *_recipe(recipe, run), *_settings(run)]) for run in datasets.values()]


def scale_of(run: FinishedRun) -> str | None:
    """Return the scale of a run; None where its model or its sizes are those of none."""
    first, *others = _settings(run)
    own = [override for override in others if not override.startswith("dataset")]
    return first.removeprefix("scale=") if first.startswith("scale=") and not own else None


def _recipe(recipe: str, run: FinishedRun) -> list[str]:
    return ["experiment=random_split", *_MEASURES.get(recipe, [])] if _dealt(run) else [f"experiment={recipe}"]


def _dealt(run: FinishedRun) -> bool:
    """Say whether its test prompts are those of the recipe random_split."""
    return run.test_prompts == ", random_split"


def _settings(run: FinishedRun) -> list[str]:
    """Return the overrides that give a run's data set, model and sizes: those of the scale that leaves the fewest others."""
    config = from_dict(run.config)
    name = config.dataset.name
    choices = []
    for scale in (None, *sorted(path.stem for path in (Path(CONF) / "scale").glob("*.yaml"))):
        given = [*([] if scale is None else [f"scale={scale}"]), f"dataset={name}"]
        if (composed := _compose(*given)) is not None:
            choices.append([*given, *_others(config, composed, _dealt(run))])
    return min(choices, key=len, default=[f"dataset={name}"])


@cache
def _compose(*given: str) -> TrainConfig | None:
    """Return the config that overrides stand for; None if they need others besides (dataset=jsonl)."""
    try:
        return compose_training(given)
    except (InputError, HydraException):
        return None


def _others(config: TrainConfig, composed: TrainConfig, dealt: bool) -> list[str]:
    """Return the overrides that lead from one config to another.

    Args:
        dealt: whether the recipe random_split sets the prompts.
    """
    without = {"trainer", "logger", *(["prompts"] if dealt else [])}
    left_out = _OF_A_RECIPE | _OF_A_MACHINE | (set() if config.method.searches else {"method.budget"})
    left_out -= {"prompts.train"} if config.prompts.test is not None else set()  # which then belongs to those for test
    before, after = (flat(one.model_dump(exclude=without)) for one in (composed, config))
    return [f"{key}={typed(value)}" for key, value in after.items() if value != before.get(key) and key not in left_out]
