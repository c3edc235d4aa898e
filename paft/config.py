"""What a run is: the typed form of conf/train.yaml and conf/evaluate.yaml. Imports nothing heavy: mistakes show at once."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError

from paft.errors import InputError

# Choices that change where a run writes, or what it shows, but never its numbers.
_NOT_PART_OF_THE_RUN = {"data_root", "output_root", "rerun", "logger", "trainer", "also"}

# What a method does not use: sweeping it repeats no run.
_OF_THE_DRAWS = {"K", "schedule"}
_OF_THE_TRAINING = {"T", "examples_per_update", "optim", "validation", "train_examples", "seed"}
_SEARCHES = ("top_accuracy", "robust", "zopo")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


PositiveInt = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]
NonNegativeInt = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class HubConfig(_Section):
    """A data set on the hub: its id, a pinned revision, and the name of a configuration per part."""

    id: str
    revision: str
    configs: dict[str, str]  # part -> configuration name


class DatasetConfig(_Section):
    """Where rows come from and what is asked about them."""

    name: Literal["story_facts", "hellaswag", "piqa", "winogrande", "race", "race_middle", "race_high", "gsm8k", "jsonl"]
    answer: Literal["letter", "text"]
    options: Literal["shown", "hidden"] = "shown"
    parts: list[str] = []  # subsets reported apart; default: the data set itself
    test_split: str = "test"  # what papers report
    hub: HubConfig | None = None
    path: str | None = None  # dataset=jsonl: the folder with train.jsonl and test.jsonl; evaluate.py: a file of rows, too
    choices: list[str] = []  # dataset=jsonl: the option fields; none: free-form
    gold: str | None = None  # dataset=jsonl: the field with the right answer
    metric: Literal["choice", "last_number", "exact"] = "choice"
    threshold: float | None = None  # accuracy a prompt must reach to count for Top


class LoraConfig(_Section):
    """The adapter (PEFT's names)."""

    r: PositiveInt
    alpha: PositiveInt
    dropout: float = Field(ge=0, lt=1)
    target_modules: list[str] = Field(min_length=1)


class ModelConfig(_Section):
    """The base model and its adapter."""

    path: str | None  # hub id or folder; null: the embedded model
    lora: LoraConfig
    revision: str | None = None
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    quantization: Literal["4bit"] | None = None
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    activation_checkpointing: bool = False
    chat_template: bool = False
    system_prompt: str | None = None
    remote_code: bool = False

    @property
    def label(self) -> str:
        """A short name for folders and tables."""
        return "smollm2-135m" if self.path is None else self.path.rstrip("/").rsplit("/", 1)[-1].lower()


class MethodConfig(_Section):
    """What is trained: paft, one fixed prompt (user, or what a search finds among the training prompts), or nothing (base)."""

    name: Literal["paft", "user", "top_accuracy", "robust", "zopo", "base"]
    prompt: str | None = None  # user: the template; null: the shipped plain prompt of the data set
    budget: PositiveInt | None = None  # of a search: renderings of validation examples that it may score

    @property
    def searches(self) -> bool:
        """Whether the one prompt is looked for among the training prompts."""
        return self.name in _SEARCHES


class OptimConfig(_Section):
    """AdamW with a cosine schedule."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    warmup: float = Field(ge=0, le=1)  # share of the updates
    max_grad_norm: PositiveFloat


class ScheduleConfig(_Section):
    """What K counts."""

    unit: Literal["update", "example", "row"]


class PromptsConfig(_Section):
    """Files to use instead of the shipped pools."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None


class ValidationConfig(_Section):
    """Validation during training, on validation prompts and validation examples."""

    every: PositiveInt | None  # updates between two validations; null: at the end of each epoch
    prompts: PositiveInt
    examples: PositiveInt


class TrainerConfig(_Section):
    """How the machine is used; none of it changes what is learnt, beyond floating-point noise.

    What has a default came later than the first results, which are still read.
    """

    accelerator: Literal["auto", "cpu", "cuda"]
    devices: PositiveInt = 1
    micro_batch_tokens: PositiveInt
    workers: NonNegativeInt
    checkpoint_every: PositiveInt = 50
    checkpoints_kept: PositiveInt = 2
    progress: bool


class LoggerConfig(_Section):
    """The CSV log is always written; wandb comes on top."""

    name: Literal["csv", "wandb"]
    project: str = "paft"
    entity: str | None = None
    tags: list[str] = []


class TrainConfig(_Section):
    """A training run; conf/train.yaml is this page with its comments."""

    dataset: DatasetConfig
    model: ModelConfig
    method: MethodConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    K: PositiveInt
    T: PositiveInt
    seed: NonNegativeInt = Field(lt=2**31)  # dropout is seeded with seed * 2**32 + update, in 64 bits
    schedule: ScheduleConfig
    prompts: PromptsConfig
    train_prompts: PositiveInt | None
    train_examples: PositiveInt | None
    examples_per_update: PositiveInt
    cutoff: PositiveInt
    optim: OptimConfig
    validation: ValidationConfig
    eval_examples: PositiveInt | None
    eval_prompts: PositiveInt | None
    also: list[Literal["generate", "adversarial"]]
    data_root: str | None
    output_root: str = Field(min_length=1)
    rerun: str | None = None

    @property
    def run_name(self) -> str:
        """The run folder's name: what a reader wants to know, and a hash of everything else."""
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]
        parts = [self.dataset.name, self.model.label, self.method.name]
        if self.method.name == "paft":
            parts.append(f"K{self.K}")
        if self.method.name != "base":
            parts += [f"T{self.T}", f"seed{self.seed}"]
        return "-".join([*parts, digest, *(["rerun"] if self.rerun else [])])

    def identity(self) -> dict[str, Any]:
        """Return what makes this run the run it is, in plain types; what its method does not use is left out."""
        method = self.method.name
        unused = set() if method == "paft" else _OF_THE_DRAWS
        if method == "base":
            unused = unused | _OF_THE_TRAINING
        if method in ("user", "base"):
            unused = unused | {"train_prompts"}
        identity = self.model_dump(exclude=_NOT_PART_OF_THE_RUN | unused)
        if not self.method.searches:
            del identity["method"]["budget"]
        _forget_later_settings(identity["model"])
        if method == "paft" and self.schedule.unit == "row":
            del identity["K"]
        unused_pools = {"user": ("train",), "base": ("train", "validation")}.get(method, ())
        for split in unused_pools:
            del identity["prompts"][split]
        return identity


def _forget_later_settings(model: dict[str, Any]) -> None:
    """Leave out what earlier versions did not have, where it does nothing: their runs keep their names."""
    for key, nothing in (("quantization", None), ("remote_code", False)):
        if model[key] == nothing:
            del model[key]


class TestPromptsConfig(_Section):
    """Files to use instead of the shipped test pool, and besides it."""

    test: str | None
    adversarial: str | None


class EvaluateConfig(_Section):
    """An evaluation; conf/evaluate.yaml is this page with its comments."""

    adapter: str | None
    dataset: DatasetConfig
    model: ModelConfig
    logger: LoggerConfig
    scoring: Literal["likelihood", "generate"] | None
    normalise: Literal["sum", "token", "byte"] | None
    max_new_tokens: PositiveInt
    cutoff: PositiveInt
    eval_prompts: PositiveInt | None
    eval_examples: PositiveInt | None
    prompts: TestPromptsConfig
    output: str | None
    accelerator: Literal["auto", "cpu", "cuda"]
    devices: PositiveInt
    batch_tokens: PositiveInt
    progress: bool
    data_root: str | None
    output_root: str = Field(min_length=1)

    def identity(self) -> dict[str, Any]:
        """Return what an evaluation's numbers depend on besides adapter, data and prompts, in plain types."""
        used = {"max_new_tokens"} if self.way == "generate" else {"normalise"}
        identity = self.model_dump(include={"dataset", "model", "cutoff", *used}) | {"scoring": self.way}
        del identity["dataset"]["path"], identity["dataset"]["threshold"], identity["model"]["path"]
        _forget_later_settings(identity["model"])
        return identity

    @property
    def way(self) -> Literal["likelihood", "generate"]:
        """How cells are answered."""
        return self.scoring or ("likelihood" if self.dataset.metric == "choice" else "generate")


METADATA = "paft.json"  # of an adapter folder


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what an adapter's paft.json says; raises InputError if the folder is no adapter of ours."""
    if not (folder / METADATA).is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: this is no adapter of a PAFT run; give the folder RUN/adapter.")
    try:
        about: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        ModelConfig.model_validate(about["model"])
        DatasetConfig.model_validate(about["dataset"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / METADATA}: this file is damaged; train the adapter again.") from None
    return about


def parse(composed: DictConfig) -> TrainConfig:
    """Check a composed config against its types and limits.

    Raises InputError that names the key.
    """
    content = _plain(composed)
    for key in ("cell", "cells"):  # of a recipe; the keys that it sets through them are resolved by now
        content.pop(key, None)
    return from_dict(content)


def from_dict(content: Any) -> TrainConfig:
    """Build a TrainConfig from plain types; also reads the config inside a results.json.

    Raises InputError that names the key.
    """
    config = _validated(TrainConfig, content)
    _check(config.dataset, config.model)
    if config.method.searches and config.method.budget is None:
        raise InputError("method.budget has no value; say how many renderings the search may score, e.g. method.budget=1920.")
    if "generate" in config.also and config.dataset.options == "hidden":
        raise InputError("also=[generate]: a model cannot write an option that it was not shown; leave it out.")
    return config


def parse_evaluation(composed: DictConfig, typed: Sequence[str] = ()) -> EvaluateConfig:
    """Check a composed config of an evaluation, with what its adapter knows filled in.

    Args:
        typed: the overrides on the command line; what is typed there wins over what the adapter was trained with.

    Raises InputError that names the key, or the adapter's folder.
    """
    content = _plain(composed)
    if not isinstance(content["adapter"], str | None):
        raise InputError(f"adapter={content['adapter']}: this is one folder, RUN/adapter; several need -m and commas.")
    about = None if content["adapter"] is None else read_metadata(Path(content["adapter"]))
    for section, mark in (("dataset", "name"), ("model", "lora")):  # what conf/*/adapter.yaml leaves open
        given = content[section]
        if given.get(mark) is not None:
            continue
        if about is None:
            raise InputError(f"{section} has no value; choose one with {section}=..., or give adapter=RUN/adapter.")
        content[section] = about[section] | {key: value for key, value in given.items() if value is not None}
        if section == "model":  # an adapter may come from a stranger, and does not say whose code is run here
            content[section]["remote_code"] = bool(given.get("remote_code"))
    keys = {override.lstrip("+~").split("=")[0] for override in typed}
    if about is not None:
        for key in {"answer", "options"} - {key.removeprefix("dataset.") for key in keys}:
            content["dataset"][key] = about["dataset"][key]
        typed_of_model = {key.removeprefix("model.") for key in keys}
        for key in {"chat_template", "system_prompt", "revision"} - typed_of_model:  # part of what was trained
            content["model"][key] = about["model"][key]
        base, chosen = about["model"]["path"], content["model"]["path"]
        if "model" in keys and chosen != base:
            raise InputError(
                f"adapter={content['adapter']}: it was trained on {base or 'the embedded model'}, not on "
                f"{chosen or 'the embedded model'}; leave model= out."
            )
    config = _validated(EvaluateConfig, content)
    _check(config.dataset, config.model)
    if config.scoring == "generate" and config.dataset.options == "hidden":
        raise InputError("scoring=generate: a model cannot write an option that it was not shown; use scoring=likelihood.")
    unused = {
        "normalise": config.way == "generate",
        "max_new_tokens": config.way == "likelihood",
        "eval_examples": config.output is not None,
        "prompts.adversarial": config.output is not None,
    }
    if idle := next((key for key, without in unused.items() if without and key in keys), None):
        why = f"scoring={config.way}" if idle in ("normalise", "max_new_tokens") else "output=, which takes all rows"
        raise InputError(f"{idle} does nothing with {why}; leave it out.")
    if config.scoring == "likelihood" and config.dataset.metric != "choice":
        raise InputError(
            f"scoring=likelihood needs choices, and dataset.metric={config.dataset.metric} compares free-form texts; use "
            "scoring=generate."
        )
    return config


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
        raise InputError(f"{key}={first['input']}: {first['msg'].lower()}.") from None
    config.dataset.parts = config.dataset.parts or [config.dataset.name]
    return config


def _check(dataset: DatasetConfig, model: ModelConfig) -> None:
    """Refuse settings that do not go together."""
    if dataset.name == "jsonl" and dataset.gold is None:
        raise InputError("dataset.gold has no value; name the field of your rows that holds the right answer.")
    if dataset.options == "hidden" and dataset.answer != "text":
        raise InputError("dataset.options=hidden needs dataset.answer=text: a hidden option has no letter to answer with.")
    hub = dataset.hub
    if hub is None and dataset.name not in ("story_facts", "jsonl"):
        raise InputError(f"dataset.name={dataset.name}: choose a data set with dataset=, your own with dataset=jsonl.")
    if hub is not None and (unknown := [part for part in dataset.parts if part not in hub.configs]):
        raise InputError(f"dataset.parts: {dataset.name} has no part {unknown[0]}; it has {', '.join(hub.configs)}.")
    if model.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"model.quantization={model.quantization} needs bitsandbytes; run `pip install -e '.[qlora]'`.")
    if model.system_prompt is not None and not model.chat_template:
        raise InputError("model.system_prompt needs model.chat_template=true; without a chat template it would be ignored.")
