"""What was probably meant: near misses among settings and files of conf/, and Hydra's errors as one sentence each.

Imports nothing heavy, so that a wrong name shows at once.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

HINT = "--cfg job shows the keys, --help the groups, and lists of values take --multirun."

# Sections that are chosen by the name of a file in conf/, and how an override chooses one.
GROUPS = {
    name: name
    for name in (
        "dataset", "model", "method", "sampler", "loss", "prompts", "trainer", "logger", "experiment", "scale", "preset",
        "debug",
    )
}  # fmt: skip
GROUPS["model.lora"] = "lora@model.lora"

# What other trainers call the settings.
ALIASES = {
    "learning_rate": "optim.lr",
    "warmup_ratio": "optim.warmup",
    "max_norm": "optim.max_grad_norm",
    "clip_grad_norm": "optim.max_grad_norm",
    "epoch": "T",
    "epochs": "T",
    "n_epochs": "T",
    "num_epochs": "T",
    "max_epochs": "T",
    "num_train_epochs": "T",
    "batch_size": "examples_per_update",
    "train_batch_size": "examples_per_update",
    "per_device_train_batch_size": "examples_per_update",
    "gradient_accumulation_steps": "trainer.micro_batch_tokens",
    "micro_batch_size": "trainer.micro_batch_tokens",
    "max_length": "cutoff",
    "max_seq_length": "cutoff",
    "max_seq_len": "cutoff",
    "cutoff_len": "cutoff",
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
    "lora_target_modules": "model.lora.target_modules",
    "gradient_checkpointing": "model.activation_checkpointing",
    "load_in_4bit": "model.quantization",
    "torch_dtype": "model.dtype",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "precision": "model.dtype",
    "attn_implementation": "model.attention",
    "trust_remote_code": "model.remote_code",
    "system": "model.system_prompt",
    "system_message": "model.system_prompt",
    "gpus": "trainer.devices",
    "n_gpus": "trainer.devices",
    "n_gpu": "trainer.devices",
    "num_gpus": "trainer.devices",
    "num_processes": "trainer.devices",
    "device": "trainer.accelerator",
    "num_workers": "trainer.workers",
    "save_steps": "trainer.checkpoint_every",
    "eval_steps": "validation.every",
    "num_fewshot": "dataset.shots",
    "n_shots": "dataset.shots",
    "few_shot": "dataset.shots",
    "max_train_samples": "train_examples",
    "max_eval_samples": "eval_examples",
    "limit": "eval_examples",
    "random_seed": "seed",
    "output_dir": "output_root",
    "report_to": "logger",
    "wandb_project": "logger.project",
    "data": "dataset",
    "task": "dataset",
    "tasks": "dataset",
    "data_path": "dataset.path",
    "train_file": "dataset.path",
    "adapter_path": "adapter",
    "lora": "lora@model.lora",
}

# Pages of conf/hydra/ that come with a plug-in of Hydra's, and the package that brings it.
PLUGINS = {
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
}


def leaves(config: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config's values."""
    for name, field in config.model_fields.items():
        kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if sections:
            yield from leaves(sections[0], f"{above}{name}.")
        else:
            yield f"{above}{name}"


def meant(key: str, known: Sequence[str]) -> tuple[list[str], bool]:
    """Return the names that a wrong one probably stands for, and whether that is certain: the same leaf, or an alias."""
    *section, leaf = re.split(r"[./@]", key.lower())
    same = [name for name in known if name.rsplit(".", 1)[-1].lower() == leaf]
    if len(same) > 1 and any(name.startswith(f"{'.'.join(section)}.") for name in known):
        return [], False  # its section is there, and has no such key; those of others mean something else
    same = same or [name for name in known if name == ALIASES.get(leaf)]
    if same:
        return same, True
    by_leaf = {name.rsplit(".", 1)[-1].lower(): name for name in reversed(known)}
    return [by_leaf[name] for name in difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.7)], False


def hint(key: str, known: Sequence[str], shown: Callable[[str], str] = str) -> str | None:
    """Return what was probably meant, as the end of a sentence; None if nothing is near.

    Args:
        shown: how a setting is shown.
    """
    names, certain = meant(key, known)
    if not names:
        return None
    words = " or ".join(shown(name) for name in names)
    return f"that is {words}." if certain else f"did you mean {words}?"


def near_file(value: str, files: Sequence[str]) -> str:
    """Return which files of a group there are, the one first that was probably meant, as the end of a sentence."""
    near = difflib.get_close_matches(value, files, n=1, cutoff=0.5)
    begun = [name for name in files if name.startswith(value)] if value else []
    found = [*near, *begun][:1]
    return f"did you mean {found[0]!r}? There are {', '.join(files)}" if found else f"there are {', '.join(files)}"


def key_of(override: str) -> str:
    """Return the key of an override, without the signs that add (+) or delete (~) it."""
    return override.lstrip("+~").partition("=")[0]


def in_one_sentence(error: HydraException | OmegaConfBaseException, config: type[BaseModel], conf: Path) -> str:
    """Return an error of Hydra or OmegaConf as one sentence: its first line, and what was probably meant.

    Args:
        config: the type whose settings there are.
        conf: the folder of YAML files.
    """
    line = re.sub(r"^In '[^']+': ", "", str(error).partition("\n")[0])
    first = re.sub(r"\. (?=[A-Z'])", "; ", line).rstrip(".")
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, first)
    if isinstance(error, MissingConfigException):
        if (package := PLUGINS.get(str(error.missing_cfg_file))) is not None:
            return f"{first}; it comes with `pip install {package}`."
        return f"{first}; {_other_files(error, conf)}"
    if found := re.fullmatch(r"Ambiguous value for argument '(.*)'", first, re.DOTALL):
        return f"{first}; several values need -m, a list is put in brackets, and a text in quotes: {quoted(found[1])}."
    if found := re.fullmatch(r"Could not (?:override|append to|delete from config; )\W*'(.+?)'.*", first):
        known = [*leaves(config), *GROUPS.values()]
        key = found[1]
        if key in known:  # but not in the files that are chosen here
            owners = _owners(key, conf)
            if owners:
                return f"{first}; it is a setting of {' or '.join(owners)}."
            if key in GROUPS:
                pool = "; a pool to evaluate on is prompts.test=v2_test, say" * (key == "prompts")
                return f"{first}; its files are for training, paft train{pool}."
            return f"{first}; type ++ before it, ++{key}=..."
        return f"{first}; {hint(key, known) or _of_section(key, known) or HINT}"
    about = getattr(error, "full_key", None)
    return f"{first}; {HINT}" if about is None else f"{about}: {first}; {HINT}"


def _of_section(key: str, known: Sequence[str]) -> str | None:
    """Return the settings that there are beside a key, as the end of a sentence; None if its section is not known."""
    section = key.rpartition(".")[0]
    beside = [name.rpartition(".")[2] for name in known if section and name.rpartition(".")[0] == section]
    return f"the settings of {section} are {', '.join(beside)}." if beside else None


_LISTS = ("dataset.choices", "dataset.labels", "logger.tags")  # of texts that may be anything


def quoted(override: str) -> str:
    """Return an override with its value in double quotes, which Hydra reads as a text, and in single quotes for the shell.

    Of a list of texts, each is quoted.
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") in _LISTS and re.fullmatch(r"\[[^\]'\"]+\]", value):
        texts = (_in_double_quotes(text.strip()) for text in value[1:-1].split(","))
        return shlex.quote(f"{key}=[{','.join(texts)}]")
    return shlex.quote(f"{key}={_in_double_quotes(value)}")


def _in_double_quotes(text: str) -> str:
    """Return a text in double quotes, as Hydra reads it: a backslash counts as one except before a quote."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    escaped += "\\" * (len(escaped) - len(escaped.rstrip("\\")))
    return f'"{escaped}"'


def _unreadable(override: str, first: str) -> str:
    if "=" not in override:
        example = "'model.system_prompt=\"Be brief, please.\"'"
        return f"{override}: Error parsing override '{override}'; type KEY=VALUE, and a value with spaces in quotes: {example}."
    if first.startswith(("Error parsing override", "LexerNoViableAltException")):
        first = "Hydra cannot read this value"
    return f"{override}: {first}; put a text in quotes: {quoted(override)}."


def _other_files(error: MissingConfigException, conf: Path) -> str:
    """Return which files there are in the group whose file is missing."""
    found = re.search(r"Available options in '([^']+)'", str(error))
    group = str(error.missing_cfg_file).rpartition("/")[0] if found is None else found[1]
    wanted = str(error.missing_cfg_file).removeprefix(f"{group}/")
    # Where several files are chosen (logger=[a,b]) Hydra lists none.
    pages = error.options or [page.stem for page in sorted((conf / group).glob("*.yaml"))]
    files = [name for name in pages if name not in ("adapter", "defaults")]
    if not group or not files:
        return HINT
    other = {
        "model": f"; a hub id or a folder is model.path={wanted}",
        "dataset": "; your own rows are dataset.path=FOLDER",
        "prompts": f"; a file of prompts is prompts.train={wanted} or prompts.test={wanted}",
    }.get(group, "")
    return f"{near_file(wanted, files)}{other}."


def _owners(key: str, conf: Path) -> list[str]:
    """Return the choices of a section (logger=wandb) whose file in conf/ has this setting."""
    group, _, name = key.partition(".")
    pages = sorted((conf / group).glob("*.yaml"))
    having = [page.stem for page in pages if re.search(rf"^{re.escape(name)}:", page.read_text(encoding="utf-8"), re.MULTILINE)]
    return [] if "defaults" in having else [f"{group}={stem}" for stem in having if stem != "adapter"]
