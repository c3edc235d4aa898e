"""From the YAML files of conf/ and overrides to checked, typed configs."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import ValidationError

from paft.config.adapter import read_metadata
from paft.config.base_model import called, with_gguf_file
from paft.config.hints import HINT, hint, leaves
from paft.config.schema import CHAT_TEMPLATE_DATE, DatasetConfig, EvaluateConfig, ModelConfig, TrainConfig
from paft.config.texts import read_texts
from paft.config.wandb_rules import check_wandb
from paft.runtime.errors import InputError


def _conf() -> str:
    """Return the folder of the YAML files: inside an installed package, else beside it in the repository."""
    package = Path(__file__).resolve().parent.parent
    return str(next((path for path in (package / "conf", package.parent / "conf") if path.is_dir()), package / "conf"))


CONF = _conf()


def check_conf() -> None:
    """Raise InputError if the folder of the YAML files is missing."""
    if not Path(CONF).is_dir():
        raise InputError(f"{CONF}: the folder of configs is missing; install paft again, or put conf/ back.")


def compose_training(overrides: Sequence[str]) -> TrainConfig:
    """Return the training config of conf/train.yaml with overrides; raises InputError that names the key."""
    check_conf()
    with initialize_config_dir(CONF, version_base="1.3"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    check_preset(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed.hydra
    return parse(composed)


def compose_evaluation(overrides: Sequence[str]) -> EvaluateConfig:
    """Return the evaluation config of conf/evaluate.yaml with overrides; raises InputError that names the key."""
    check_conf()
    with initialize_config_dir(CONF, version_base="1.3"):
        return parse_evaluation(compose("evaluate", list(overrides)), overrides)


def check_preset(choices: Mapping[str, Any]) -> None:
    """Refuse a preset beside a recipe or a scale, whose settings are part of what they show; raises InputError.

    Args:
        choices: the files that were chosen, by group.
    """
    for group in ("experiment", "scale"):
        if choices.get("preset") is not None and choices.get(group) is not None:
            raise InputError(
                f"preset={choices['preset']}: {group}={choices[group]} has settings of its own, which results are compared by; "
                "leave one of the two out."
            )


def parse(composed: DictConfig) -> TrainConfig:
    """Build a TrainConfig from a composed config, checked against types and limits.

    Raises InputError that names the key.
    """
    content = _plain(composed)
    for key in ("variant", "variants"):  # of a recipe; the keys that it sets through them are resolved by now
        content.pop(key, None)
    read_texts(content)
    config = from_dict(content)
    check_wandb(config.logger)
    return config


def from_dict(content: Any) -> TrainConfig:
    """Build a TrainConfig from plain types; also reads the config inside a results.json.

    Raises InputError that names the key.
    """
    config = _validated(TrainConfig, content)
    _check(config.dataset, config.model)
    _check_weights(config)
    _check_sampler(config)
    if config.method.searches and config.method.budget is None:
        raise InputError("method.budget has no value; say how many renderings the search may score, e.g. method.budget=1920.")
    if not config.evaluate and not config.method.trains:
        raise InputError(f"evaluate=false: method={config.method.name} has no settings to choose; leave it out.")
    if not config.evaluate and "adversarial" in config.extra_measures:
        raise InputError("extra_measures=[adversarial] scores test prompts, which evaluate=false does not; leave one out.")
    if "generate" in config.extra_measures and config.dataset.options == "hidden":
        raise InputError("extra_measures=[generate]: a model cannot write an option that it was not shown; leave it out.")
    return config


def _check_weights(config: TrainConfig) -> None:
    """Refuse what does not go with training all weights, or with DoRA."""
    model, sharded = config.model, config.trainer.strategy == "fsdp"
    if not config.method.trains:
        return
    if model.lora is None:
        full = "lora@model.lora=none trains all weights"
        if model.quantization is not None:
            raise InputError(f"model.quantization={model.quantization}: {full}, and quantised ones cannot be; leave one out.")
        if sharded:
            raise InputError(f"trainer.strategy=fsdp spreads frozen weights, and {full}; leave one of the two out.")
        if model.dtype == "bf16":
            raise InputError(f"model.dtype=bf16: {full}, and bf16 would round small updates away; leave it out, for fp32.")
    elif sharded and model.lora.use_dora:
        raise InputError("trainer.strategy=fsdp: DoRA needs the whole weights of a layer; use lora@model.lora=paper or rslora.")


def _check_sampler(config: TrainConfig) -> None:
    """Refuse settings of the sampler that contradict each other or the rest of the run."""
    sampler, several = config.sampler, f"sampler.templates_per_update={config.sampler.templates_per_update}"
    if config.method.name != "paft":
        return  # nothing is drawn
    if sampler.templates_per_update > config.examples_per_update:
        raise InputError(
            f"{several} is more than examples_per_update={config.examples_per_update}; lower it: each needs an example."
        )
    if sampler.templates_per_update > 1 and config.schedule.unit != "update":
        raise InputError(
            f"{several} needs schedule.unit=update; with unit={config.schedule.unit} an update has several anyway."
        )
    if sampler.share < 1 and not sampler.mutations:
        raise InputError(f"sampler.share={sampler.share} does nothing without sampler.mutations; name some, or leave it out.")
    if "options_first" in sampler.mutations and "order" not in sampler.mutations:
        raise InputError("sampler.mutations: options_first lets `order` put the options first; name order, too.")
    if len(set(sampler.mutations)) < len(sampler.mutations):
        raise InputError(f"sampler.mutations=[{','.join(sampler.mutations)}]: a kind is named twice; name each once.")


def parse_evaluation(composed: DictConfig, typed: Sequence[str] = ()) -> EvaluateConfig:
    """Build an EvaluateConfig from a composed config, filled in with the settings that its adapter was trained with.

    Args:
        typed: the overrides on the command line; they win over the adapter's settings.

    Raises InputError that names the key, or the adapter's folder.
    """
    content = _plain(composed)
    keys = {override.lstrip("+~").split("=")[0] for override in typed}
    read_texts(content)
    _fill_from_adapter(content, keys)
    config = _validated(EvaluateConfig, content)
    _check(config.dataset, config.model)
    _check_scoring(config)
    _refuse_idle(config, keys)
    check_wandb(config.logger)
    return config


# Settings that are part of what an adapter was trained for, whatever data set and model an evaluation names.
_TRAINED_DATASET = {"answer", "options", "answer_space"}
_BEFORE_IT_WAS_A_SETTING = {"answer_space": True, "chat_template_date": CHAT_TEMPLATE_DATE}  # what earlier versions did
_TRAINED_MODEL = {"chat_template", "chat_template_args", "chat_template_date", "system_prompt", "revision"}


def _fill_from_adapter(content: dict[str, Any], keys: set[str]) -> None:
    """Fill in the settings that the adapter was trained with and the command line does not name.

    Args:
        content: the composed config, changed in place.
        keys: the keys of the overrides on the command line.
    """
    if not isinstance(content["adapter"], str | None):
        raise InputError(f"adapter={content['adapter']}: this is one folder, RUN/adapter; several need -m and commas.")
    about = None if content["adapter"] is None else read_metadata(Path(content["adapter"]))
    for section, mark in (("dataset", "name"), ("model", "lora")):  # conf/*/adapter.yaml leaves them open
        given = content[section]
        if given.get(mark) is not None:
            continue
        if about is None:
            raise InputError(f"{section} has no value; choose one with {section}=..., or give adapter=RUN/adapter.")
        content[section] = about[section] | {key: value for key, value in given.items() if value is not None}
        if section == "model":  # an adapter may come from a stranger: it says neither whose code runs here nor what is accepted
            content[section]["remote_code"] = bool(given.get("remote_code"))
            content[section]["accept_license"] = given.get("accept_license")
    if about is None:
        return
    for section, trained in (("dataset", _TRAINED_DATASET), ("model", _TRAINED_MODEL)):
        typed = {key.split(".")[1] for key in keys if key.startswith(f"{section}.")}  # also by a key of theirs
        for key in trained - typed:
            content[section][key] = about[section].get(key, _BEFORE_IT_WAS_A_SETTING.get(key))
    base, chosen = about["model"]["path"], content["model"]["path"]
    if "model" in keys and chosen != base:
        raise InputError(
            f"adapter={content['adapter']}: it was trained on {called(base, 'the embedded model')}, not on "
            f"{called(chosen, 'the embedded model')}; leave model= out."
        )


def _check_scoring(config: EvaluateConfig) -> None:
    """Refuse a scoring method that the answers of the data set do not allow."""
    if config.scoring == "generate" and config.dataset.options == "hidden":
        raise InputError("scoring=generate: a model cannot write an option that it was not shown; use scoring=likelihood.")
    if config.scoring == "likelihood" and config.dataset.metric != "choice":
        raise InputError(
            f"scoring=likelihood needs choices, and dataset.metric={config.dataset.metric} compares free-form texts; use "
            "scoring=generate."
        )


def _refuse_idle(config: EvaluateConfig, keys: set[str]) -> None:
    """Refuse settings on the command line that have no effect in this evaluation."""
    scoring, rows = f"scoring={config.scored_by}", "output=, which takes all rows"
    idle = {
        "normalise": (config.scored_by == "generate", scoring),
        "max_new_tokens": (config.scored_by == "likelihood", scoring),
        "eval_examples": (config.output is not None, rows),
        "prompts.adversarial": (config.output is not None, rows),
        **{
            f"trainer.{key}": (True, "an evaluation") for key in ("workers", "checkpoint_every", "checkpoints_kept", "profiler")
        },
    }
    for key, (does_nothing, why) in idle.items():
        if does_nothing and key in keys:
            raise InputError(f"{key} does nothing with {why}; leave it out.")


def _plain(composed: DictConfig) -> Any:
    missing = OmegaConf.missing_keys(composed)
    if missing:
        key = sorted(missing)[0]
        raise InputError(f"{key} has no value; give one with {key}=...")
    return OmegaConf.to_container(composed, resolve=True)


Config = TypeVar("Config", TrainConfig, EvaluateConfig)


def _validated(kind: type[Config], content: Any) -> Config:
    try:
        config = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(f"{key} has no value; give one with {key}=...") from None
        if first["type"] == "extra_forbidden":
            probably = hint(key, list(leaves(kind)))
            raise InputError(f"{key}={first['input']}: there is no such setting; {probably or HINT}") from None
        if first["type"] == "model_type":
            inside = next(name for name in leaves(kind) if name.startswith(f"{key}."))
            raise InputError(f"{key}={first['input']}: this is a section; set one of its keys, e.g. {inside}=...") from None
        says = first["msg"].lower().removeprefix("value error, ")
        raise InputError(f"{key.removesuffix('.bool')}={first['input']}: {says}.") from None
    config.dataset.parts = config.dataset.parts or [config.dataset.name]
    config.model.path = with_gguf_file(config.model.path)
    return config


def _check(dataset: DatasetConfig, model: ModelConfig) -> None:
    """Refuse settings of the data set and the model that contradict each other or this machine."""
    if dataset.own_rows and dataset.gold is None:
        raise InputError("dataset.gold has no value; name the field of your rows that holds the right answer.")
    if dataset.options == "hidden" and dataset.answer != "text":
        raise InputError("dataset.options=hidden needs dataset.answer=text: a hidden option has no letter to answer with.")
    hub = dataset.hub
    if hub is not None and dataset.parts == [dataset.name] and dataset.name not in hub.configs:
        raise InputError(f"dataset.name={dataset.name}: choose a data set with dataset=, your own with dataset=jsonl.")
    if hub is not None and (unknown := [part for part in dataset.parts if part not in hub.configs]):
        raise InputError(f"dataset.parts: {dataset.name} has no part {unknown[0]}; it has {', '.join(hub.configs)}.")
    if model.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"model.quantization={model.quantization} needs bitsandbytes; run `pip install bitsandbytes`.")
    for key in ("system_prompt", "chat_template_args"):
        if getattr(model, key) and not model.chat_template:
            raise InputError(f"model.{key} needs model.chat_template=true; without a chat template it would be ignored.")
    if model.chat_template_date != CHAT_TEMPLATE_DATE and not model.chat_template:
        raise InputError(
            "model.chat_template_date needs model.chat_template=true; without a chat template it would be ignored."
        )
    if dataset.answer_space is False and model.chat_template:
        raise InputError(
            "dataset.answer_space does nothing with model.chat_template=true, whose template decides; leave it out."
        )
