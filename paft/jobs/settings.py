"""Keyword settings of the Python API as overrides of conf/: optim={"lr": 1e-3}, K=8, model="llama3_8b".

Imports nothing heavy, so that a wrong name shows at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from paft.config.command import literal
from paft.config.compose import CONF
from paft.config.hints import GROUPS, hint, leaves, near_file
from paft.runtime.errors import InputError

# What else a caller may call the rows and prompts, which are parameters of their own.
_PARAMETERS = {
    "label": "gold",
    "target": "gold",
    "data": "rows",
    "train_data": "rows",
    "train_dataset": "rows",
    "train_rows": "rows",
    "test_data": "test_rows",
    "eval_dataset": "test_rows",
    "eval_rows": "test_rows",
    "templates": "prompts",
    "train_templates": "prompts",
    "test_templates": "test_prompts",
}


def overrides_of(settings: Mapping[str, Any], config: type[BaseModel], parameters: Sequence[str]) -> list[str]:
    """Return keyword settings as the overrides that a command would be given.

    Args:
        settings: names of the config, nested (optim={"lr": 1e-3}) or dotted ("optim.lr"). A section that conf/ has files for
            takes the name of one (model="llama3_8b"), or a mapping in which `name` names it. logger takes a list of them, too.
        config: the type that says which names there are.
        parameters: other names that the function takes, for hints.

    Raises InputError for a name that does not exist, with the one that was probably meant.
    """
    keys = list(leaves(config))
    groups: list[str] = []
    values: list[str] = []
    for key, value in _flat(settings, keys):
        if key in GROUPS and (key in config.model_fields or "." in key or _files(key)):
            groups.append(f"{GROUPS[key]}={_file(key, value)}")
        elif key in keys:
            values.append(f"++{key}={literal(value, key)}")
        else:
            raise InputError(_unknown(key, keys, parameters))
    return [*groups, *values]


def _flat(settings: Mapping[str, Any], keys: Sequence[str], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested settings; a section's `name` becomes the value of the section."""
    for name, value in settings.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and key not in keys:
            inner = dict(value)
            if (
                key in GROUPS and "name" in inner and "api" not in inner
            ):  # of a served model, `name` is the server's name for it
                yield key, inner.pop("name")
            yield from _flat(inner, keys, f"{key}.")
        else:
            yield key, value


def _files(group: str) -> list[str]:
    """Return the names of the files that conf/ holds for a section."""
    folder = Path(CONF) / group.rsplit(".", 1)[-1]
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in ("adapter", "defaults"))


def _file(group: str, value: Any) -> str:
    """Return the name of a section's file; raises InputError if there is no such file."""
    names = _files(group)
    if group == "logger" and isinstance(value, list | tuple):
        return f"[{','.join(_file(group, name) for name in value)}]"
    if isinstance(value, str) and value in names:
        return value
    path = f"; a hub id or a folder is {group}={{'path': {value!r}}}" if group == "model" and isinstance(value, str) else ""
    raise InputError(f"{group}={value!r}: {near_file(str(value), names)}{path}.")


def _unknown(key: str, keys: Sequence[str], parameters: Sequence[str]) -> str:
    """Return a sentence about a name that does not exist, with the one that was probably meant."""
    inside = [name for name in keys if name.startswith(f"{key}.")]
    if inside:
        return f"{key}: this is a section; give a mapping, e.g. {_as_keyword(inside[0])}."
    known = [*keys, *parameters]
    parameter = _PARAMETERS.get(key.rsplit(".", 1)[-1].lower())
    if parameter in parameters and not any(name.rsplit(".", 1)[-1] == key for name in known):
        return f"{key}: that is {parameter}."
    probably = hint(key, known, _as_keyword)
    if probably is not None and probably.startswith("that is"):
        return f"{key}: {probably}"
    return f"{key}: there is no such setting; {probably or 'conf/train.yaml and conf/evaluate.yaml list them.'}"


def _as_keyword(key: str) -> str:
    """Return how a setting is given: optim={'lr': ...} (optim.lr)."""
    first, *rest = key.split(".")
    if not rest:
        return first
    nested = "..."
    for name in reversed(rest):
        nested = f"{{{name!r}: {nested}}}"
    return f"{first}={nested} ({key})"
