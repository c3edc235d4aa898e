"""Keyword settings of the Python API as overrides of conf/: optim={"lr": 1e-3}, K=8, model="llama3_8b".

Imports nothing heavy, so that a wrong name shows at once.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from paft.config.compose import CONF
from paft.runtime.errors import InputError

# Sections that are chosen by the name of a file in conf/, and how an override chooses one.
_GROUPS = {name: name for name in ("dataset", "model", "method", "trainer", "logger", "experiment", "scale", "debug")}
_GROUPS["model.lora"] = "lora@model.lora"

# What other trainers call the settings.
_ALIASES = {
    "learning_rate": "optim.lr",
    "warmup_ratio": "optim.warmup",
    "epochs": "T",
    "n_epochs": "T",
    "num_epochs": "T",
    "num_train_epochs": "T",
    "batch_size": "examples_per_update",
    "train_batch_size": "examples_per_update",
    "per_device_train_batch_size": "examples_per_update",
    "max_length": "cutoff",
    "max_seq_length": "cutoff",
    "model_path": "model.path",
    "model_name": "model.path",
    "model_id": "model.path",
    "base_model": "model.path",
    "model_name_or_path": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "lora_r": "model.lora.r",
    "lora_rank": "model.lora.r",
    "rank": "model.lora.r",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "system": "model.system_prompt",
    "output_dir": "output_root",
    "report_to": "logger",
    "label": "gold",
    "labels": "gold",
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
            takes the name of one (model="llama3_8b"), or a mapping in which `name` names it.
        config: the type that says which names there are.
        parameters: other names that the function takes, for hints.

    Raises InputError for a name that does not exist, with the one that was probably meant.
    """
    keys = list(_leaves(config))
    groups: list[str] = []
    values: list[str] = []
    for key, value in _flat(settings, keys):
        if key in _GROUPS and (key in config.model_fields or "." in key or _files(key)):
            groups.append(f"{_GROUPS[key]}={_file(key, value)}")
        elif key in keys:
            values.append(f"++{key}={literal(value, key)}")
        else:
            raise InputError(_unknown(key, keys, parameters))
    return [*groups, *values]


def literal(value: Any, key: str = "value") -> str:
    """Return a Python value in the grammar of Hydra's overrides, which reads it back as it is.

    Raises InputError for a value that is no text, number, truth value, None, path, list or mapping of those.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | PathLike):
        return _quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_quoted(str(name))}:{literal(item, key)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(item, key) for item in value) + "]"
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of NumPy
        return literal(value.item(), key)
    raise InputError(f"{key}: a setting is a text, a number, a list or a mapping of those, not a {type(value).__name__}.")


def _quoted(text: str) -> str:
    """Quote a text: Hydra takes a backslash as it stands, except before a quote; OmegaConf a ${ as the name of a setting."""
    pieces = re.sub(r"(\\*)\$\{", r"\1\1\\${", text).split("'")
    doubled = [piece + "\\" * (len(piece) - len(piece.rstrip("\\"))) for piece in pieces]
    return "'" + "\\'".join(doubled) + "'"


def _flat(settings: Mapping[str, Any], keys: Sequence[str], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested settings; a section's `name` becomes the value of the section."""
    for name, value in settings.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and key not in keys:
            inner = dict(value)
            if key in _GROUPS and "name" in inner:
                yield key, inner.pop("name")
            yield from _flat(inner, keys, f"{key}.")
        else:
            yield key, value


def _leaves(config: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config's values."""
    for name, field in config.model_fields.items():
        kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if sections:
            yield from _leaves(sections[0], f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _files(group: str) -> list[str]:
    """Return the names of the files that conf/ holds for a section."""
    folder = Path(CONF) / group.rsplit(".", 1)[-1]
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in ("adapter", "defaults"))


def _file(group: str, value: Any) -> str:
    """Return the name of a section's file; raises InputError if there is no such file."""
    names = _files(group)
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? There are" if near else "there are"
    path = f"; a hub id or a folder is {group}={{'path': {value!r}}}" if group == "model" and isinstance(value, str) else ""
    raise InputError(f"{group}={value!r}: {hint} {', '.join(names)}{path}.")


def _unknown(key: str, keys: Sequence[str], parameters: Sequence[str]) -> str:
    """Return a sentence about a name that does not exist, with the one that was probably meant."""
    leaf = key.rsplit(".", 1)[-1]
    inside = [name for name in keys if name.startswith(f"{key}.")]
    if inside:
        return f"{key}: this is a section; give a mapping, e.g. {_as_keyword(inside[0])}."
    known = [*keys, *parameters]
    meant = [name for name in known if name.rsplit(".", 1)[-1].lower() == leaf.lower()]
    if not meant and leaf.lower() in _ALIASES:
        meant = [name for name in known if name == _ALIASES[leaf.lower()]]
    if meant:
        return f"{key}: that is {' or '.join(_as_keyword(name) for name in meant)}."
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    near = difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.7)
    hint = f"did you mean {_as_keyword(by_leaf[near[0]])}?" if near else "conf/train.yaml and conf/evaluate.yaml list them."
    return f"{key}: there is no such setting; {hint}"


def _as_keyword(key: str) -> str:
    """Return how a setting is given: optim={'lr': ...} (optim.lr)."""
    first, *rest = key.split(".")
    if not rest:
        return first
    nested = "..."
    for name in reversed(rest):
        nested = f"{{{name!r}: {nested}}}"
    return f"{first}={nested} ({key})"
