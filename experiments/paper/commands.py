"""The commands that make runs, told from the configs of the runs: which scale, and what was typed besides."""

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from experiments.paper.collect import Cell
from paft.config.compose import CONF, from_dict, parse
from paft.config.schema import TrainConfig
from paft.runtime.errors import InputError

# What a recipe sets, and what changes no number.
_OF_A_RECIPE = {"method.name", "method.prompt", "K", "T", "seed", "schedule.unit", "train_prompts", "prompts.train", "also"}
_OF_A_MACHINE = {"data_root", "output_root", "rerun"}


def settings(cell: Cell) -> list[str]:
    """Return the overrides that give a run's data set, model and sizes: the scale that leaves the fewest others."""
    config = from_dict(cell.config)
    name = config.dataset.name
    found = []
    for scale in (None, *sorted(path.stem for path in (Path(CONF) / "scale").glob("*.yaml"))):
        typed = [f"dataset={name}", *([] if scale is None else [f"scale={scale}"])]
        if (composed := _compose(*typed)) is not None:
            found.append([*typed[::-1], *_others(config, composed, _dealt(cell))])
    return min(found, key=len, default=[f"dataset={name}"])


def scale_of(cell: Cell) -> str | None:
    """Return the scale of a run; None where its model or its sizes are those of none."""
    _, *others = typed = settings(cell)
    own = [override for override in others if not override.startswith("dataset")]
    return typed[0].removeprefix("scale=") if typed[0].startswith("scale=") and not own else None


def commands(recipe: str, cells: Iterable[Cell]) -> list[str]:
    """Return the command for each data set among the cells."""
    of_datasets: dict[str, Cell] = {}
    for cell in cells:  # a run that was searched for knows the most of what was typed
        if cell.dataset not in of_datasets or cell.results["selection"] is not None:
            of_datasets[cell.dataset] = cell
    return [shlex.join(["python", "train.py", "-m", *_recipe(recipe, cell), *settings(cell)]) for cell in of_datasets.values()]


def _recipe(recipe: str, cell: Cell) -> list[str]:
    if not _dealt(cell):
        return [f"experiment={recipe}"]
    return [
        "experiment=random_split",
        *({"table3": ["extra_measures=[generate]"], "table4": ["extra_measures=[adversarial]"]}.get(recipe, [])),
    ]


def _dealt(cell: Cell) -> bool:
    """Say whether its test prompts are those of the recipe random_split."""
    return cell.prompts == ", random_split"


@cache
def _compose(*typed: str) -> TrainConfig | None:
    """Return the config that overrides stand for; None if they need others besides (dataset=jsonl)."""
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            return parse(compose("train", list(typed)))
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
    before, after = (_flat(one.model_dump(exclude=without)) for one in (composed, config))
    return [f"{key}={_written(value)}" for key, value in after.items() if value != before.get(key) and key not in left_out]


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
