"""The command that repeats a run: the settings in which its config differs from conf/, as overrides."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paft.config.compose import CONF, in_conf, parse, parse_evaluation
from paft.config.schema import DatasetConfig, EvaluateConfig, TrainConfig
from paft.runtime.errors import InputError

_BARE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_./][\w./:-]*", re.I | re.A)  # a text that Hydra reads as it is
_USUAL_METHOD, _USUAL_MODEL = "paft", "smollm2_135m"  # of conf/train.yaml
_LEFT_OUT = ("logger", "rerun")
_IN_DOUBLE_QUOTES = re.compile(r'["$`\\!]')  # what a shell does not leave alone there


def command(config: TrainConfig | EvaluateConfig) -> str | None:
    """Return the command that gives this config, for a shell; None if there is none, e.g. because conf/ has changed.

    Where it logs is left out, and where a run was repeated from.
    """
    for groups in _beginnings(config):
        with suppress(InputError, HydraException, OmegaConfBaseException):
            if (found := _command(config, groups)) is not None:
                return found
    return None


def _command(config: TrainConfig | EvaluateConfig, groups: list[str]) -> str | None:
    """Return the command that begins with these overrides and gives this config; None if there is none."""
    composed = _composed(config, groups)
    usual = _parsed(config, composed, groups)
    config = config.model_copy(update={key: getattr(usual, key) for key in _LEFT_OUT if hasattr(usual, key)})
    tree: Any = OmegaConf.to_container(composed)
    keys = {key for key, _ in _leaves(tree)}
    before = dict(_leaves(usual.model_dump()))
    typed = [*groups]
    for key, value in _leaves(config.model_dump()):
        if key not in before or before[key] != value:
            typed.append(f"{'' if key in keys else '++'}{key}={_shown(value, key)}")
    if _parsed(config, _composed(config, typed), typed) != config:
        return None
    verb = "train" if isinstance(config, TrainConfig) else "evaluate"
    return " ".join(["paft", verb, *map(_for_a_shell, typed)])


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
    if isinstance(value, str | os.PathLike):
        return _quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_name(str(name))}:{literal(item, key)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(item, key) for item in value) + "]"
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of NumPy
        return literal(value.item(), key)
    raise InputError(f"{key}: a setting is a text, a number, a list or a mapping of those, not a {type(value).__name__}.")


def _name(name: str) -> str:
    """Return the name of an entry of a mapping, which Hydra does not read in quotes."""
    return name if _BARE.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """Quote a text: Hydra takes a backslash as it stands, except before a quote; OmegaConf a ${ as the name of a setting."""
    pieces = re.sub(r"(\\*)\$\{", r"\1\1\\${", text).split("'")
    doubled = [piece + "\\" * (len(piece) - len(piece.rstrip("\\"))) for piece in pieces]
    return "'" + "\\'".join(doubled) + "'"


def _shown(value: Any, key: str) -> str:
    """Return a value as `literal` does, without the quotes that it does not need."""
    if isinstance(value, list):
        return "[" + ",".join(_shown(item, key) for item in value) + "]"
    return value if isinstance(value, str) and _BARE.fullmatch(value) else literal(value, key)


def _for_a_shell(argument: str) -> str:
    if "'" in argument and not _IN_DOUBLE_QUOTES.search(argument):
        return f'"{argument}"'  # shlex.quote is right as well, and hard to read
    return shlex.quote(argument)


def _beginnings(config: TrainConfig | EvaluateConfig) -> list[list[str]]:
    """Return the files of conf/ that a config may begin with, as overrides, and what must be said besides.

    An adapter brings its data set and its model if paft trained it; otherwise the data set is to be named.
    """
    dataset = _dataset(config.dataset)
    if isinstance(config, EvaluateConfig) and config.adapter is not None:
        adapter = f"adapter={_shown(config.adapter, 'adapter')}"
        metric = [f"dataset.metric={_shown(config.dataset.metric, 'metric')}"]
        return [[adapter], [adapter, *dataset], [adapter, *metric], [adapter, *dataset, *metric]]
    chosen = [*dataset, *_model(config)]
    if isinstance(config, TrainConfig) and config.method.name != _USUAL_METHOD:
        chosen.append(f"method={config.method.name}")
    return [chosen]


def _dataset(dataset: DatasetConfig) -> list[str]:
    rows = [f"dataset.{key}={_shown(value, key)}" for key in ("path", "gold") if (value := getattr(dataset, key))]
    return [f"dataset={dataset.name}", *(rows if dataset.own_rows else [])]


def _model(config: TrainConfig | EvaluateConfig) -> list[str]:
    if config.model.api is not None:
        return ["model=served", *(f"model.{key}={_shown(getattr(config.model, key), key)}" for key in ("api", "name"))]
    model = _model_file(config.model.path)
    return [f"model={model}"] if isinstance(config, EvaluateConfig) or model != _USUAL_MODEL else []


def _model_file(path: str | None) -> str:
    """Return the name of the first file of conf/model with this path; of none, the default's."""
    for file in sorted((Path(CONF) / "model").glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if path is not None and content.get("path") == path:
            return file.stem
    return _USUAL_MODEL


def _composed(config: TrainConfig | EvaluateConfig, typed: list[str]) -> DictConfig:
    with in_conf():
        return compose("train" if isinstance(config, TrainConfig) else "evaluate", typed)


def _parsed(config: TrainConfig | EvaluateConfig, composed: DictConfig, typed: list[str]) -> TrainConfig | EvaluateConfig:
    return parse(composed) if isinstance(config, TrainConfig) else parse_evaluation(composed, typed)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested settings; an empty section is a value, and so is a mapping of a model's arguments."""
    for name, value in tree.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and value and key != "model.chat_template_args":
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value
