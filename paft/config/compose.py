"""From the YAML files of conf/ and overrides to checked, typed configs."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import ValidationError

from paft.config.adapter import Adapter, base_of_adapter, find_adapter, peft_settings
from paft.config.base_model import called, with_gguf_file
from paft.config.contradictions import check_draws, check_evaluation, check_training
from paft.config.hints import HINT, hint, key_of, leaves
from paft.config.loggers import check_loggers
from paft.config.schema import (
    CHAT_TEMPLATE_DATE,
    EvaluateConfig,
    TrainConfig,
    is_function,
)
from paft.config.texts import read_texts
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


def in_conf() -> AbstractContextManager[Any]:
    """Return a context in which Hydra composes from conf/: that of the command which goes on, if there is one, or a new one."""
    return nullcontext() if GlobalHydra.instance().is_initialized() else initialize_config_dir(CONF, version_base="1.3")


def compose_training(overrides: Sequence[str]) -> TrainConfig:
    """Return the training config of conf/train.yaml with overrides; raises InputError that names the key."""
    check_conf()
    with initialize_config_dir(CONF, version_base="1.3"):
        composed = compose("train", with_implied(overrides, paths=True), return_hydra_config=True)
    check_preset(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed.hydra
    return parse(composed)


def compose_evaluation(overrides: Sequence[str]) -> EvaluateConfig:
    """Return the evaluation config of conf/evaluate.yaml with overrides; raises InputError that names the key."""
    check_conf()
    with initialize_config_dir(CONF, version_base="1.3"):
        typed = with_implied(overrides)
        return parse_evaluation(compose("evaluate", typed), typed)


# The file of a group that is meant where only a key of it is typed.
_IMPLIED = {"dataset.path": "dataset=jsonl", "model.api": "model=served", "model.path": "model=any"}


def with_implied(typed: Sequence[str], paths: bool = False) -> list[str]:
    """Return what is typed, with the file of conf/ that model.api= implies, and that the paths of rows and of a model imply.

    The settings of those files then hold, and not those of the data set and the model that conf/train.yaml has by default.

    Args:
        typed: overrides, among which options of the command line may stand.
        paths: whether paths imply a file: for a training run. In an evaluation an adapter may have more to say (`_fill_in`).
    """
    keys = [key_of(override) for override in typed]
    added = list(typed)
    for key, chosen in _IMPLIED.items():
        group = key.partition(".")[0]
        if (
            key in keys
            and not any(each.lstrip("+~").startswith(f"{group}=") for each in added)
            and (paths or key == "model.api")
        ):
            place = added.index(typed[keys.index(key)])  # beside it, because argparse takes overrides in one piece
            added.insert(place + 1, chosen)
    return added


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
    check_draws(config)
    check_loggers(config.logger)
    return config


def from_dict(content: Any) -> TrainConfig:
    """Build a TrainConfig from plain types; also reads the config inside a results.json.

    Raises InputError that names the key.
    """
    config = _validated(TrainConfig, content)
    check_training(config)
    return config


def parse_evaluation(composed: DictConfig, typed: Sequence[str] = ()) -> EvaluateConfig:
    """Build an EvaluateConfig from a composed config, filled in with the settings that its adapter was trained with.

    Args:
        typed: the overrides on the command line; they win over the adapter's settings.

    Raises InputError that names the key, or the adapter's folder.
    """
    content = _plain(composed)
    keys = {key_of(override) for override in typed}
    read_texts(content)
    _fill_in(content, keys)
    config = _validated(EvaluateConfig, content)
    check_evaluation(config, keys)
    if config.model.api is not None:
        config.model.api = config.model.api.rstrip("/")
    check_loggers(config.logger)
    return config


# Settings that are part of what an adapter was trained for, whatever data set and model an evaluation names.
_TRAINED_DATASET = {"answer", "options", "answer_space", "shots"}
_BEFORE_IT_WAS_A_SETTING = {"answer_space": True, "shots": 0, "chat_template_date": CHAT_TEMPLATE_DATE}
_TRAINED_MODEL = {"chat_template", "chat_template_args", "chat_template_date", "system_prompt", "revision"}


def _fill_in(content: dict[str, Any], keys: set[str]) -> None:
    """Fill in what conf/dataset/adapter.yaml and conf/model/adapter.yaml leave open and the command line does not name.

    It is what the adapter was trained with. A base model, and an adapter of PEFT or TRL, which says nothing of it, get the
    settings of conf/dataset/jsonl.yaml for rows that dataset.path names, and those of conf/model/any.yaml for their model.

    Args:
        content: the composed config, changed in place.
        keys: the keys of the overrides on the command line.
    """
    name = content["adapter"]
    if not isinstance(name, str | None):
        raise InputError(f"adapter={name}: this is one folder, RUN/adapter; several need -m and commas.")
    if name is not None and content["model"].get("api") is not None:
        raise InputError(
            f"adapter={name}: an adapter needs the weights, which a server does not give; serve the merged model "
            "(paft merge), or leave model.api= out."
        )
    adapter = None if name is None else find_adapter(name)
    about = {} if adapter is None else adapter.trained
    lora = None if adapter is None or about else peft_settings(adapter).lora.model_dump()
    page = content["model"]
    is_open = {"dataset": content["dataset"].get("name") is None, "model": "model" not in keys or "lora" not in page}
    for section in (section for section in is_open if is_open[section]):
        typed = {key.split(".")[1] for key in keys if key.startswith(f"{section}.")} - {"path"}
        given = {key: value for key, value in content[section].items() if value is not None or key in typed}
        settings = about.get(section) or _defaults(section, given, adapter)
        if "lora" in given:  # single keys of it
            given["lora"] = settings["lora"] | given["lora"]
        content[section] = settings | given
        if section == "dataset" and about:
            _keep_metric(content, given, about[section])
    if adapter is None:
        return
    content["adapter"] = adapter.name
    # An adapter may come from a stranger: it says neither whose code runs here nor what is accepted.
    content["model"]["remote_code"] = bool(page.get("remote_code"))
    content["model"]["accept_license"] = page.get("accept_license")
    if lora is not None:
        content["model"]["lora"] = lora
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


def _keep_metric(content: dict[str, Any], given: dict[str, Any], trained: dict[str, Any]) -> None:
    """Leave the adapter's pattern out where another metric is asked for, and refuse to run a function that only it names."""
    metric = given.get("metric")
    if metric is None and is_function(trained.get("metric", "choice")):
        raise InputError(  # an adapter may come from a stranger
            f"adapter={content['adapter']}: it was trained with a function as its metric, which runs only if you type it: "
            f"dataset.metric={trained['metric']}."
        )
    if metric not in (None, "regex") and given.get("pattern") is None:
        content["dataset"]["pattern"] = None


def _defaults(section: str, given: Mapping[str, Any], adapter: Adapter | None) -> dict[str, Any]:
    """Return the settings of a section of which no file is chosen, and about which no adapter says anything.

    Args:
        given: the settings that are typed.

    Raises InputError if the path of the rows or of the model is not among them, nor that of the model known from the adapter.
    """
    path: dict[str, Any] = {}
    if given.get("path") is None:
        if adapter is None:
            own = "name your own rows with dataset.path=..." if section == "dataset" else "name any other with model.path=..."
            raise InputError(f"{section} has no value; choose one with {section}=..., {own}, or give adapter=RUN/adapter.")
        if section == "dataset":
            raise InputError(
                f"adapter={adapter.name}: nothing says what it was trained on, so dataset has no value; choose one with "
                "dataset=..., or name your own rows with dataset.path=..."
            )
        path = base_of_adapter(adapter)
    with in_conf():
        settings: Any = OmegaConf.to_container(compose("evaluate", [_IMPLIED[f"{section}.path"]])[section])
    return settings | path


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
