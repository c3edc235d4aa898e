"""Adapters: saving one as a stock PEFT folder, loading it, and merging it into its base model."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic import BaseModel
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from paft.config.adapter import METADATA, read_metadata
from paft.config.schema import ModelConfig, TrainConfig
from paft.model.base import load_base, load_tokenizer, weights_fingerprint
from paft.runtime.errors import InputError
from paft.runtime.files import disk_full_is_an_input_error
from paft.runtime.memory import is_out_of_memory

EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the embedded model's twin, in full precision


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, config: TrainConfig, pools: Mapping[str, BaseModel]
) -> None:
    """Write an adapter folder that `PeftModel.from_pretrained` opens: weights, tokenizer, and paft.json.

    Args:
        pools: what paft.json records of the run's pools, by split.
    """
    if config.model.path is None:  # not the folder of this machine's cache, which nobody else has
        for lora in model.peft_config.values():
            lora.base_model_name_or_path = EMBEDDED_ON_HUB
    # Without save_embedding_layers=False, PEFT asks the hub about the base model.
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    about = {
        "run": config.run_name,
        "method": config.method.name,
        "model": config.model.model_dump(),
        "base": weights_fingerprint(model.get_base_model())["sample"],
        "dataset": config.dataset.model_dump(),
        "pools": {split: pool.model_dump() for split, pool in pools.items()},
    }
    (folder / METADATA).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    _readable_by_others(folder)


def with_adapter(base: PreTrainedModel, folder: Path, trained_on: str | None, name: str) -> PeftModel:
    """Put a saved adapter on its base model.

    Args:
        trained_on: the fingerprint of the base weights that the adapter was trained on; None: unknown, and not checked.
        name: the base model's name, for error messages.

    Raises InputError if the adapter does not belong to the base model or is damaged.
    """
    if trained_on not in (None, weights_fingerprint(base)["sample"]):
        raise InputError(f"adapter={folder}: it was trained on another base model than {name}.")
    try:
        model = PeftModel.from_pretrained(base, folder)
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            complete = set(file.keys()) == set(get_peft_model_state_dict(model, save_embedding_layers=False))
    except Exception as error:  # peft, safetensors and torch raise their own error classes
        if is_out_of_memory(error):
            raise
        raise InputError(f"adapter={folder}: it is damaged, or not one of {name} ({type(error).__name__}).") from None
    if not complete:  # PEFT would leave missing weights at their random initialisation
        raise InputError(f"adapter={folder}: its weights are not those of an adapter of {name}.")
    return model


def base_of(about: Mapping[str, Any], model: ModelConfig) -> str | None:
    """Return the fingerprint of the base weights that an adapter was trained on.

    None if it cannot be compared, because only one of the two base models, in training and now, is quantised, or if an earlier
    version did not record it.

    Args:
        about: the adapter's metadata.
        model: how the base model is loaded now.
    """
    return about.get("base") if about["model"].get("quantization") == model.quantization else None


def merge(adapter: Path, out: Path, remote_code: bool = False) -> None:
    """Merge an adapter into its base model, in fp32, and write the model and its tokenizer.

    Args:
        adapter: the adapter's folder.
        out: the new folder to write.
        remote_code: whether code that comes with the base model may be run; the adapter does not decide that.

    Raises InputError if `adapter` is no adapter folder, or the adapter does not belong to its base model.
    """
    about = read_metadata(adapter)
    config = ModelConfig.model_validate(about["model"] | {"dtype": "fp32", "quantization": None, "remote_code": remote_code})
    base = load_base(config, torch.device("cpu"))
    adapted = with_adapter(base, adapter, base_of(about, config), config.path or "the embedded one")
    merged: PreTrainedModel = adapted.merge_and_unload()  # type: ignore[assignment]
    merged.set_attn_implementation("sdpa")  # config.json must not name an attention that only PAFT registers
    scratch = out.with_name(f".{out.name}.tmp")
    try:
        with disk_full_is_an_input_error(out):
            merged.save_pretrained(scratch)
            load_tokenizer(config).save_pretrained(scratch)
            _readable_by_others(scratch)
            scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _readable_by_others(folder: Path) -> None:
    """Let colleagues and serving accounts read the files, because safetensors makes them readable by their owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
