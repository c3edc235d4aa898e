"""paft.json, the metadata of an adapter folder: model, data set and pools that the adapter was trained with."""

import json
from pathlib import Path
from typing import Any

from paft.config.schema import DatasetConfig, ModelConfig
from paft.runtime.errors import InputError

METADATA = "paft.json"


def is_whole_model(folder: Path) -> bool:
    """Return whether a folder is RUN/model: no adapter, but a model all of whose weights were trained."""
    return (folder / METADATA).is_file() and (folder / "config.json").is_file()


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the content of an adapter's paft.json; raises InputError if the folder is no adapter of PAFT."""
    if not all((folder / name).is_file() for name in (METADATA, "adapter_config.json", "adapter_model.safetensors")):
        raise InputError(f"{folder}: this is no adapter of a PAFT run; give the folder RUN/adapter.")
    try:
        about: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        ModelConfig.model_validate(about["model"])
        DatasetConfig.model_validate(about["dataset"])
        about["base"]  # without it the adapter could be put on any model of its shape
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / METADATA}: this file is damaged; train the adapter again.") from None
    return about
