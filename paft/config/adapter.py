"""Adapters before anything is loaded: where their files lie, what made them, and whether they can be put on a base model.

A PAFT run writes paft.json beside PEFT's own files. An adapter that PEFT or TRL made has none. Imports nothing heavy, so that
an adapter that cannot be used shows at once.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paft.config.base_model import file_name, is_gguf
from paft.config.schema import DatasetConfig, LoraConfig, ModelConfig
from paft.runtime.errors import InputError

METADATA = "paft.json"  # model, data set and pools that the adapter was trained with
PEFT_CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
TOKENIZER = (  # the files of one, as transformers saves it
    *_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
_HUB_ID_OR_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_PATIENCE_S = 10  # with the hub
_GIVE = "give RUN/adapter, a folder that PEFT or TRL has saved, or a hub id (ORG/NAME)"
_MERGED = "where PEFT can merge it into its base model (merge_and_unload), give the merged folder with model.path=..."


@dataclass(frozen=True)
class Adapter:
    """An adapter whose files are on this machine.

    name is what adapter= says; that of a hub's adapter ends in its commit. trained is the content of paft.json, and is empty
    for an adapter that PEFT or TRL made.
    """

    name: str
    folder: Path
    trained: dict[str, Any]

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer of its own lies beside it; beside the adapter of a PAFT run lies its base model's."""
        return not self.trained and any((self.folder / name).is_file() for name in _VOCABULARIES)


def find_adapter(name: str) -> Adapter:
    """Return the adapter that adapter= names: a folder, or a hub id (ORG/NAME, ORG/NAME@REVISION), whose files are downloaded.

    Raises InputError if there is no such adapter, its weights are in a pickle, or its paft.json is damaged.
    """
    found = None if Path(name).exists() else _HUB_ID.fullmatch(name)
    folder = Path(name) if found is None else _downloaded(found[1], found[2])
    if found is not None:
        name = f"{found[1]}@{folder.name}"  # a snapshot's folder is called by its commit
    _check_files(name, folder)
    return Adapter(name, folder, read_metadata(folder) if (folder / METADATA).is_file() else {})


@cache
def _downloaded(repository: str, revision: str | None) -> Path:
    """Return the folder of a hub repository's adapter, from the hub, or from its cache if the hub is out of reach."""
    from huggingface_hub import snapshot_download

    try:
        files = [METADATA, PEFT_CONFIG, WEIGHTS, *TOKENIZER]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files, etag_timeout=_PATIENCE_S))
    except Exception as error:  # the hub, the network and the disk, in many forms
        at = "" if revision is None else f", revision {revision}"
        raise InputError(
            f"adapter={repository}: there is no such folder, and the hub gives this machine no adapter of this id{at} "
            f"({type(error).__name__}); where the hub is out of reach, give a folder with the adapter."
        ) from None


def adapter_called(name: str) -> str:
    """Return what to call an adapter on any machine: the hub's by its id and commit, another one by the name of its folder."""
    return name if "@" in name and _HUB_ID.fullmatch(name) else Path(name).name or name


def _check_files(name: str, folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"adapter={name}: this is a file; give the folder that holds it.")
    if not folder.is_dir():
        raise InputError(f"adapter={name}: there is no such folder; {_GIVE}.")
    if not (folder / PEFT_CONFIG).is_file():
        raise InputError(f"adapter={name}: this is no adapter (it holds no {PEFT_CONFIG}); {_GIVE}.")
    if not (folder / WEIGHTS).is_file():
        pickle = (folder / WEIGHTS).with_suffix(".bin").is_file()
        why = "; adapter_model.bin is a pickle, which could run code, so save the adapter again with a current PEFT"
        raise InputError(f"adapter={name}: it holds no {WEIGHTS}{why if pickle else f'; {_GIVE}'}.")


def is_whole_model(folder: Path) -> bool:
    """Return whether a folder is RUN/model: no adapter, but a model all of whose weights were trained."""
    return (folder / METADATA).is_file() and (folder / "config.json").is_file()


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the content of an adapter's paft.json; raises InputError if the folder is no adapter of PAFT."""
    if not all((folder / name).is_file() for name in (METADATA, PEFT_CONFIG, WEIGHTS)):
        raise InputError(f"{folder}: this is no adapter of a PAFT run; give the folder RUN/adapter.")
    try:
        about: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        ModelConfig.model_validate(about["model"])
        DatasetConfig.model_validate(about["dataset"])
        about["base"]  # without it the adapter could be put on any model of its shape
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / METADATA}: this file is damaged; train the adapter again.") from None
    return about


# --- what PEFT or TRL made ------------------------------------------------------------------------------------------------

# Settings of PEFT's LoraConfig that change no score, or that PEFT computes here as where the adapter was trained.
_CHANGES_NOTHING = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "task_type", "eva_config", "ensure_weight_tying",
}  # fmt: skip
_COMPUTED = {
    "alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_bias", "modules_to_save", "r", "rank_pattern", "target_modules", "trainable_token_indices", "use_dora",
    "use_rslora",
}  # fmt: skip
_NEEDS_WHOLE_LAYERS = ("use_dora", "bias", "modules_to_save", "trainable_token_indices")
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal")  # the others change the base weights before training


@dataclass(frozen=True)
class PeftSettings:
    """What the adapter_config.json of a LoRA adapter says.

    base is its base model, with revision; lora its shape; whole the setting for which layers of the base model must be whole,
    which they are not in shards: None for plain LoRA.
    """

    base: str | None
    revision: str | None
    lora: LoraConfig
    whole: str | None


def peft_settings(adapter: Adapter) -> PeftSettings:
    """Return what PEFT's own file says of an adapter.

    Raises InputError for a damaged file, and for an adapter that cannot be scored as it was trained: of another kind than LoRA
    (prompts, IA3, ...), of another task than CAUSAL_LM, one that belongs to changed base weights (PiSSA, ...), or with a
    setting that is not known here.
    """
    what, path = f"adapter={adapter.name}", adapter.folder / PEFT_CONFIG
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        kind = str(content["peft_type"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: this file is damaged; save the adapter again.") from None
    if kind != "LORA":
        raise InputError(f"{what}: it is of the kind {kind}, and only LoRA (DoRA, rsLoRA) is put on a model here; {_MERGED}")
    if (task := content.get("task_type")) not in (None, "CAUSAL_LM"):
        raise InputError(f"{what}: it was trained for the task {task}; give an adapter of a causal language model (CAUSAL_LM).")
    if (init := content.get("init_lora_weights")) not in _PLAIN_INITS:
        raise InputError(
            f"{what}: it belongs to base weights that were changed before training (init_lora_weights={init}); {_MERGED}, or "
            "save it again as plain LoRA (path_initial_model_for_weight_conversion)."
        )
    unknown = [key for key, value in content.items() if value and key not in _CHANGES_NOTHING | _COMPUTED]
    if unknown:
        raise InputError(f"{what}: its {PEFT_CONFIG} sets {min(unknown)}, which is not computed here; {_MERGED}")
    targets = content.get("target_modules")
    shape = {"r": content.get("r"), "alpha": content.get("lora_alpha"), "dropout": content.get("lora_dropout", 0.0)}
    try:
        lora = LoraConfig.model_validate(shape | {"target_modules": [targets] if isinstance(targets, str) else targets})
    except ValidationError:
        raise InputError(f"{path}: this file is damaged; save the adapter again.") from None
    base, revision = (str(content[key]) if content.get(key) else None for key in ("base_model_name_or_path", "revision"))
    whole = (key for key in _NEEDS_WHOLE_LAYERS if content.get(key) not in (None, False, "none", [], {}))
    return PeftSettings(base, revision, lora, next(whole, None))


def base_of_adapter(adapter: Adapter) -> dict[str, str | None]:
    """Return model.path and model.revision of the base model that an adapter of PEFT or TRL names.

    Raises InputError if it names none, or one that lay in a folder of another machine.
    """
    settings = peft_settings(adapter)
    if settings.base is None:
        raise InputError(f"adapter={adapter.name}: its {PEFT_CONFIG} names no base model; give it with model.path=...")
    if Path(settings.base).exists() or (_HUB_ID_OR_NAME.fullmatch(settings.base) and not is_gguf(settings.base)):
        return {"path": settings.base, "revision": settings.revision}
    embedded = "model=smollm2_135m, the embedded model, or with " if name_of(settings.base) == name_of(None) else ""
    where = f"its base model, {settings.base}, is not on this machine"
    raise InputError(f"adapter={adapter.name}: {where}; give it with {embedded}model.path=...")


def name_of(base: str | None) -> str:
    """Return the name of a base model without its place, by which copies of it are known; None is the embedded model."""
    return "smollm2-135m-instruct" if base is None else file_name(base.replace("\\", "/")).lower()


def of_another_base(adapter: Adapter, model: ModelConfig) -> list[str]:
    """Say that an adapter of PEFT or TRL is put on another base model than it names; shapes cannot tell such models apart."""
    base = peft_settings(adapter).base
    if base is None or name_of(base) == name_of(model.path):
        return []
    return [
        f"The adapter names {base} as its base model and is put on {model.path or 'the embedded model'}: their shapes agree, "
        "and nothing says whether their weights do; on a wrong base model an adapter answers badly."
    ]
