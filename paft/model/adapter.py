"""Adapters: saving one as a stock PEFT folder, loading it, and merging it into its base model."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from paft.config.adapter import METADATA, WEIGHTS, Adapter, read_metadata
from paft.config.base_model import file_name, is_gguf
from paft.config.schema import ModelConfig
from paft.model.base import keep_fingerprint, load_config, load_weights, skeleton, weights_fingerprint
from paft.model.packed_check import ordinary_ids, relative_error
from paft.runtime.errors import InputError, first_sentence
from paft.runtime.files import readable_by_others
from paft.runtime.memory import is_out_of_memory

EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the embedded model's twin, in full precision


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, about: Mapping[str, Any]) -> None:
    """Write an adapter folder that `PeftModel.from_pretrained` opens: weights, tokenizer, and paft.json.

    Args:
        about: what paft.json says besides the fingerprint of the base weights: run, model, data set, pools.
    """
    path = about["model"]["path"]
    if path is None or is_gguf(path):  # not the folder of this machine's cache, which no other machine has
        for lora in model.peft_config.values():
            lora.base_model_name_or_path = EMBEDDED_ON_HUB if path is None else file_name(path)
    # Without save_embedding_layers=False, PEFT asks the hub about the base model.
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    base = weights_fingerprint(model.get_base_model())["sample"]
    (folder / METADATA).write_text(json.dumps({**about, "base": base}, indent=2) + "\n", encoding="utf-8")
    readable_by_others(folder)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, revision: str | None, about: Mapping[str, Any]
) -> None:
    """Write a model, all of whose weights were trained, as a folder that transformers opens: weights, tokenizer, and paft.json.

    Args:
        revision: of the base model, if it comes from the hub.
        about: what paft.json says: run, model, data set, pools, and the fingerprint of the weights that training began with.
    """
    save_whole(model, folder, revision)
    tokenizer.save_pretrained(folder)
    (folder / METADATA).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    readable_by_others(folder)


def with_adapter(base: PreTrainedModel, folder: Path, trained_on: str | None, name: str) -> PeftModel:
    """Put a saved adapter on its base model.

    Args:
        trained_on: the fingerprint of the base weights that the adapter was trained on; None: unknown, and not checked.
        name: the base model's name, for error messages.

    Raises InputError if the adapter does not belong to the base model or is damaged.
    """
    keep_fingerprint(base)
    try:
        saved = _shapes(folder).keys()
        if trained_on not in (None, weights_fingerprint(base)["sample"]):
            raise InputError(f"adapter={folder}: it was trained on another base model than {name}.")
        model = PeftModel.from_pretrained(base, folder)
        needed, possible = _expected(model)
        complete = needed.keys() <= saved <= possible.keys()
    except InputError:
        raise
    except Exception as error:  # peft, safetensors and torch raise their own error classes
        if is_out_of_memory(error):
            raise
        raise InputError(f"adapter={folder}: it is damaged, or not one of {name} ({type(error).__name__}).") from None
    if not complete:  # PEFT would leave missing weights at their random initialisation
        raise InputError(f"adapter={folder}: its weights are not those of an adapter of {name}.")
    return model


def check_fits(adapter: Adapter, model: ModelConfig) -> None:
    """Raise InputError if an adapter's weights are not those that PEFT puts on a base model; no weights are loaded.

    Their names and shapes are compared with those of the architecture.
    """
    what, name = f"adapter={adapter.name}", model.path or "the embedded one"
    try:
        saved, settings = _shapes(adapter.folder), LoraConfig.from_pretrained(str(adapter.folder))
        settings.init_lora_weights = False  # there are no weights to make it from
        with torch.device("meta"):
            needed, possible = _expected(get_peft_model(skeleton(model, trained=False), settings))  # type: ignore[arg-type]
    except InputError:
        raise
    except Exception as error:  # peft, safetensors and torch raise their own error classes
        raise InputError(f"{what}: it is damaged, or not one of {name} ({type(error).__name__}).") from None
    if lacks := needed.keys() - saved.keys():
        raise InputError(f"{what}: its weights are not those of an adapter of {name} (it lacks {min(lacks)}).")
    if more := saved.keys() - possible.keys():
        raise InputError(f"{what}: its weights are not those of an adapter of {name} (it holds {min(more)}).")
    for key, shape in saved.items():
        if shape != possible[key]:
            raise InputError(
                f"{what}: its {key} is {_by(shape)}, where {name} has {_by(possible[key])}; give the base model that it was "
                "trained on with model.path=..., or, if its vocabulary was enlarged for the adapter, the two merged into one."
            )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an adapter's weights, from the header of their file."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (a file, no mapping)


def _expected(model: PeftModel) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return names and shapes of the weights that an adapter must hold, and of those it may: PEFT saves embeddings, too."""
    needed, possible = (
        {key: tuple(weight.shape) for key, weight in get_peft_model_state_dict(model, save_embedding_layers=also).items()}
        for also in (False, True)
    )
    return needed, possible


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def own_tokenizer(adapter: Adapter, model: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside an adapter.

    Args:
        model: the base model, whose architecture says how to read some tokenizers.

    Raises InputError if it cannot be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            adapter.folder, config=load_config(model), trust_remote_code=model.remote_code
        )
    except InputError:
        raise
    except Exception as error:  # transformers and tokenizers raise many kinds
        raise InputError(
            f"adapter={adapter.name}: the tokenizer beside it cannot be loaded ({type(error).__name__}: "
            f"{first_sentence(error)}); mend it, or take its files away and the base model's is used."
        ) from None
    return tokenizer


_TRIED = "a A\n b 12,345.6 naïve Ångström 答案：是"


def differences(own: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase) -> list[str]:
    """Return in what a tokenizer beside an adapter is another one than its base model's; padding is not used here."""
    read: dict[str, Callable[[PreTrainedTokenizerBase], Any]] = {
        "vocabulary": lambda tokenizer: tokenizer.get_vocab(),
        "end-of-text token": lambda tokenizer: tokenizer.eos_token_id,
        "way to split texts": lambda tokenizer: tokenizer(_TRIED).input_ids,
        "chat template": lambda tokenizer: tokenizer.chat_template,
    }
    return [name for name, value in read.items() if value(own) != value(base)]


def base_of(about: Mapping[str, Any], model: ModelConfig) -> str | None:
    """Return the fingerprint of the base weights that an adapter was trained on.

    None if it cannot be compared, because only one of the two base models, in training and now, is quantised, or because PEFT
    or TRL made the adapter.

    Args:
        about: the adapter's metadata, empty where PEFT or TRL made it.
        model: how the base model is loaded now.
    """
    return str(about["base"]) if about and about["model"].get("quantization") == model.quantization else None


def unmerged_settings(adapter: Path, remote_code: bool = False) -> ModelConfig:
    """Return how an adapter's base model is loaded to merge the adapter into it: in fp32, and not quantised.

    Args:
        remote_code: whether code that comes with the base model may be run; the adapter does not decide that.
    """
    here = {"dtype": "fp32", "quantization": None, "remote_code": remote_code, "accept_license": None}
    return ModelConfig.model_validate(read_metadata(adapter)["model"] | here)


def merged(adapter: Path, remote_code: bool = False) -> PreTrainedModel:
    """Return the base model of an adapter, in fp32, with the adapter's weights added in.

    Where the adapter changes one of two tied matrices, the merged model has both, untied.

    Args:
        adapter: the adapter's folder.
        remote_code: whether code that comes with the base model may be run; the adapter does not decide that.

    Raises InputError if `adapter` is no adapter folder, the adapter does not belong to its base model, or the merged model
    would not score as the adapter does.
    """
    about, config = read_metadata(adapter), unmerged_settings(adapter, remote_code)
    base = load_weights(config, torch.device("cpu"))
    adapted = with_adapter(base, adapter, base_of(about, config), config.path or "the embedded one")
    wanted = _logits(adapted, base)
    _untie(adapted)
    whole: PreTrainedModel = adapted.merge_and_unload()  # type: ignore[assignment]
    error = float(relative_error(_logits(whole, base), wanted).max())
    if not error <= _ROUNDING:
        raise InputError(
            f"adapter={adapter}: {type(base).__name__} scores otherwise once the adapter is merged into it (its logits are "
            f"{error:.1%} off), so that nothing was written; use the adapter itself."
        )
    return whole


# Of the logits' size, what adding an adapter to fp32 weights may change; measured 1e-6.
_ROUNDING = 1e-3


@torch.no_grad()
def _logits(model: torch.nn.Module, base: PreTrainedModel) -> Tensor:
    """Return the logits (N, V) of a text of N random tokens."""
    ids = torch.tensor([ordinary_ids(base, 32)])
    logits: Tensor = model.eval()(input_ids=ids, use_cache=False).logits[0]
    return logits


def _untie(model: PeftModel) -> None:
    """Give adapted layers weights of their own where they share them, so that merging does not change the other layer."""
    base = model.get_base_model()
    users = Counter(weight.data_ptr() for _, weight in base.named_parameters(remove_duplicate=False))
    for layer in base.modules():
        if isinstance(layer, LoraLayer) and users[(weight := layer.get_base_layer().weight).data_ptr()] > 1:
            layer.get_base_layer().weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
            for config in (base.config, base.config.get_text_config()):
                config.tie_word_embeddings = False


def save_whole(model: PreTrainedModel, folder: Path, revision: str | None) -> None:
    """Write a model, with the generation config of its base byte for byte.

    Args:
        revision: of the base model, if it comes from the hub.
    """
    name = "generation_config.json"
    own = cached_file(
        str(model.name_or_path),
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    before = model.generation_config
    if own is not None:  # transformers would refuse to write some that it reads
        model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    model.generation_config = before
    if own is not None:
        shutil.copyfile(own, folder / name)
