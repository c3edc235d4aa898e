"""Settings that contradict each other, or do nothing: refused in one sentence that names the key, before anything is loaded."""

import importlib.util
import re
from collections.abc import Set
from urllib.parse import urlsplit

from paft.config.schema import (
    CHAT_TEMPLATE_DATE,
    OF_CANDIDATES,
    OF_OTHER_LOSSES,
    DatasetConfig,
    EvaluateConfig,
    FailUnderConfig,
    LossConfig,
    ModelConfig,
    SamplerConfig,
    TrainConfig,
    updates_ahead,
)
from paft.runtime.errors import InputError

_OF_THE_WEIGHTS = (  # settings of a model that is loaded here
    "cutoff", "trainer", "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.micro_batch_tokens",
    "trainer.graphs", "trainer.fused", "model.revision", "model.dtype", "model.quantization", "model.attention",
    "model.activation_checkpointing", "model.chat_template_date", "model.remote_code", "model.accept_license",
    "lora@model.lora", "model.lora.r", "model.lora.alpha", "model.lora.dropout", "model.lora.target_modules",
)  # fmt: skip


def check_training(config: TrainConfig) -> None:
    """Refuse a training run whose settings contradict each other; raises InputError."""
    if config.model.api is not None:
        raise InputError(
            "model.api: a served model cannot be trained here; give its weights with model.path=..., or evaluate it."
        )
    _check(config.dataset, config.model)
    _check_balanced(config.dataset, config.eval_examples)
    _check_weights(config)
    _check_bounds(config.fail_under)
    _check_sampler(config)
    if config.method.searches and config.method.budget is None:
        raise InputError("method.budget has no value; say how many renderings the search may score, e.g. method.budget=1920.")
    if not config.evaluate and not config.method.trains:
        raise InputError(f"evaluate=false: method={config.method.name} has no settings to choose; leave it out.")
    _check_beside(config)
    if not config.evaluate and "adversarial" in config.extra_measures:
        raise InputError("extra_measures=[adversarial] scores test prompts, which evaluate=false does not; leave one out.")
    if "generate" in config.extra_measures and config.dataset.options == "hidden" and config.dataset.labels is None:
        raise InputError("extra_measures=[generate]: a model cannot write an option that it was not shown; leave it out.")


def check_draws(config: TrainConfig) -> None:
    """Refuse settings of the sampler and the loss that do nothing, which earlier versions let pass; raises InputError."""
    _refuse_idle_draws(config)
    _refuse_idle_loss(config)
    _check_lag(config)


def check_evaluation(config: EvaluateConfig, keys: Set[str]) -> None:
    """Refuse an evaluation whose settings contradict each other, or do nothing; raises InputError.

    Args:
        keys: those that were given on the command line.
    """
    _check_served(config)
    _check(config.dataset, config.model)
    if "dataset.balanced" in keys:  # not where the adapter's training had it
        _check_balanced(config.dataset, config.eval_examples)
    _check_scoring(config)
    _check_bounds(config.fail_under)
    _refuse_idle(config, keys)


def _check_beside(config: TrainConfig) -> None:
    """Refuse to score the base model in a run that does nothing else, and to compare a run with itself."""
    if not config.score_base and not config.method.trains:
        raise InputError("score_base=false: method=base does nothing but score the base model; leave one of them out.")
    if config.compare_with and config.method.name in ("user", "base"):
        raise InputError(
            f"compare_with=[user] does nothing with method={config.method.name}; give it to a run that is to be compared with "
            "one fixed prompt, e.g. method=paft."
        )


def _check_bounds(bounds: FailUnderConfig) -> None:
    """Refuse a bound that is written as a fraction."""
    for name, bound in bounds.bounds.items():
        if 0 < bound <= 1:
            raise InputError(
                f"fail_under.{name}={bound:g} is {bound:g} percent; bounds are in percent: fail_under.{name}={100 * bound:g}."
            )


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
    if config.method.name == "paft" and sampler.candidates > 1:
        _check_candidates(config)  # first, because what a loss or pairs ask for goes with one candidate alone
    if config.loss.name != "mean":
        _check_loss(config)
    if config.loss.unlabelled is not None and config.loss.name != "consistent":
        raise InputError("loss.unlabelled gives rows for loss=consistent to compare; use that loss, or leave them out.")
    if config.method.name != "paft":
        return  # nothing is drawn
    if sampler.paired and (sampler.templates_per_update < 2 or config.examples_per_update % sampler.templates_per_update):
        raise InputError(
            f"sampler.paired=true shows each example under all templates of its update: {several} must be 2 or more, and "
            f"divide examples_per_update={config.examples_per_update}."
        )
    if sampler.templates_per_update > config.examples_per_update:
        raise InputError(
            f"{several} is more than examples_per_update={config.examples_per_update}; lower it: each needs an example."
        )
    if sampler.templates_per_update > 1 and config.schedule.unit != "update":
        raise InputError(
            f"{several} needs schedule.unit=update; with unit={config.schedule.unit} an update has several anyway."
        )
    if sampler.candidates_are == "layouts" and (sampler.candidates < 2 or not sampler.mutations):
        raise InputError(
            "sampler.candidates_are=layouts tries several layouts of one prompt: it needs sampler.candidates=2 or more, and "
            "sampler.mutations, which make them; sampler=mutated names all."
        )
    if sampler.by_loss:
        _check_by_loss(config)
    if sampler.share < 1 and not sampler.mutations:
        raise InputError(f"sampler.share={sampler.share} does nothing without sampler.mutations; name some, or leave it out.")
    if "options_first" in sampler.mutations and "order" not in sampler.mutations:
        raise InputError("sampler.mutations: options_first lets `order` put the options first; name order, too.")
    if len(set(sampler.mutations)) < len(sampler.mutations):
        raise InputError(f"sampler.mutations=[{','.join(sampler.mutations)}]: a kind is named twice; name each once.")


def _check_candidates(config: TrainConfig) -> None:
    """Refuse candidates of which no draw takes the worst, or where an update has several templates anyway."""
    several = f"sampler.candidates={config.sampler.candidates}"
    if config.sampler.adversarial == 0:
        raise InputError(f"{several}: at sampler.adversarial=0 no draw takes the worst of them; raise it, or leave them out.")
    if config.schedule.unit != "update":
        raise InputError(f"{several} tries the templates of a draw on an update, and needs schedule.unit=update.")
    on_all = {
        f"loss={config.loss.name}": config.loss.compares,
        "sampler.paired=true": config.sampler.paired,
        f"sampler.templates_per_update={config.sampler.templates_per_update}": config.sampler.templates_per_update > 1,
    }
    if other := next((setting for setting, holds in on_all.items() if holds), None):
        raise InputError(f"{several} trains an update on one template of several, and {other} on all of them; leave one out.")


def _check_by_loss(config: TrainConfig) -> None:
    """Refuse draws by loss beside what says otherwise which templates are drawn, or where losses come too late."""
    sampler, by_loss = config.sampler, "sampler.temperature lets losses say which templates are drawn"
    if config.schedule.unit != "update":
        raise InputError(f"{by_loss}, update by update, and needs schedule.unit=update.")
    if sampler.balanced or sampler.candidates > 1:
        worst = f"sampler.candidates={sampler.candidates} takes the worst of several"
        other = "sampler.balanced deals all alike" if sampler.balanced else worst
        raise InputError(f"{by_loss}, and {other}; leave one out.")
    if sampler.corrected and config.loss.name not in ("mean", "perturbed"):
        raise InputError(f"sampler.corrected=true weighs a mean, and loss={config.loss.name} is none; leave one out.")
    workers = config.trainer.workers or 0  # null: as many as the lag leaves room for
    ahead = updates_ahead(workers)
    if sampler.lag < ahead:
        raise InputError(
            f"sampler.lag={sampler.lag}: {workers} loader workers (trainer.workers) read {ahead} updates ahead, when losses "
            f"are not known yet; use sampler.lag={ahead} or more, or fewer workers."
        )


def _check_loss(config: TrainConfig) -> None:
    """Refuse a loss that compares the templates of an update where it has none, or fewer than there are ranks."""
    sampler, ranks, name = config.sampler, config.trainer.devices, config.loss.name
    if not config.loss.compares:
        return
    if name == "consistent" and (config.method.name != "paft" or not sampler.paired or sampler.templates_per_update < 2):
        raise InputError(
            "loss=consistent compares an example's answers under several templates: give it with method=paft, "
            "sampler.paired=true and sampler.templates_per_update=2, say."
        )
    if config.method.name != "paft" or sampler.templates_per_update < 2:
        raise InputError(
            "loss=tilted weighs the templates of an update against each other: give it with method=paft and "
            "sampler.templates_per_update=4, say."
        )
    units = config.examples_per_update // sampler.templates_per_update if sampler.paired else sampler.templates_per_update
    if 0 < units < ranks:  # none is refused for what makes it none
        what = "examples of an update, whose renderings stay together" if sampler.paired else "templates of an update"
        several = "sampler.templates_per_update"
        there = "is 1" if units == 1 else f"are {units}"
        raise InputError(
            f"trainer.devices={ranks}: loss={name} deals the {what}, of which there {there}; "
            f"use trainer.devices={units}, or a larger {'examples_per_update' if sampler.paired else several}."
        )


def _refuse_idle_draws(config: TrainConfig) -> None:
    """Refuse a setting of the sampler that does nothing beside the others; an earlier version let it pass."""
    if config.method.name != "paft":
        return  # nothing is drawn, whatever a sweep over methods says
    for key in config.sampler.without_effect:
        value, default = getattr(config.sampler, key), SamplerConfig.model_fields[key].default
        if value != default:
            needed = "sampler.candidates=4, say" if key in OF_CANDIDATES else "sampler.temperature=1, say"
            shown = str(value).lower() if isinstance(value, bool) else value
            raise InputError(f"sampler.{key}={shown} does nothing without {needed}; add that, or leave it out.")


def _refuse_idle_loss(config: TrainConfig) -> None:
    """Refuse a setting of another loss; an earlier version let it pass."""
    if not config.method.trains:
        return  # nothing is lost, whatever a sweep over methods says
    for key in config.loss.without_effect:
        value = getattr(config.loss, key)
        if value != LossConfig.model_fields[key].default:
            needed = next((name for name, others in OF_OTHER_LOSSES.items() if key not in others), "")
            use = "add loss.unlabelled" if key == "unlabelled_per_update" else f"use loss={needed}, say"
            raise InputError(f"loss.{key}={value} does nothing with loss={config.loss.name} as it is; {use}, or leave it out.")


def _check_lag(config: TrainConfig) -> None:
    """Refuse blocks of fewer than two whole draws, in which no prompts can be compared; an earlier version let them pass."""
    sampler, k = config.sampler, config.K
    if config.method.name == "paft" and sampler.by_loss and sampler.templates_per_update == 1 and sampler.lag < 2 * k:
        raise InputError(
            f"sampler.lag={sampler.lag}: prompts are compared within so many updates, which hold fewer than two whole draws at "
            f"K={k}; use sampler.lag={2 * k} or more, or a smaller K."
        )


def _check_served(config: EvaluateConfig) -> None:
    """Refuse settings of a served model that contradict each other; its address is never shown where it may hold a password."""
    model = config.model
    if model.api is None:
        idle = [key for key in ("name", "api_key_env", "price_in", "price_out") if getattr(model, key) is not None]
        if idle:
            raise InputError(f"model.{idle[0]} is for a served model; name its server with model.api=http://HOST:PORT/v1.")
        return
    try:
        address = urlsplit(model.api)
    except ValueError:
        raise InputError("model.api: this is no address of a server; it looks like http://localhost:8000/v1.") from None
    if address.username is not None or address.password is not None or address.query:
        raise InputError(
            "model.api: the address holds a user, a password or a query, which would be written into files; give the address "
            "alone, and the key in an environment variable (model.api_key_env)."
        )
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(f"model.api={model.api}: this is no address of a server; it looks like http://localhost:8000/v1.")
    if not model.name:
        raise InputError("model.name has no value; give the name by which the server knows the model, model.name=...")
    if model.path is not None:
        raise InputError(f"model.api and model.path={model.path} name two models; give one of them.")
    if (model.price_in is None) != (model.price_out is None):
        raise InputError("model.price_in and model.price_out make a cost together; give both, or none.")


def _check_scoring(config: EvaluateConfig) -> None:
    """Refuse a scoring method that the answers of the data set do not allow."""
    if config.scoring == "generate" and config.dataset.options == "hidden" and config.dataset.labels is None:
        raise InputError("scoring=generate: a model cannot write an option that it was not shown; use scoring=likelihood.")
    if config.scoring == "likelihood" and config.dataset.metric != "choice":
        raise InputError(
            f"scoring=likelihood needs choices, and dataset.metric={config.dataset.metric} compares free-form texts; use "
            "scoring=generate."
        )
    if config.output is not None and config.fail_under.bounds:
        raise InputError(
            f"fail_under.{next(iter(config.fail_under.bounds))} does nothing with output=, whose rows need no right answers; "
            "leave one of them out."
        )


def _refuse_idle(config: EvaluateConfig, keys: Set[str]) -> None:
    """Refuse settings on the command line that have no effect in this evaluation."""
    scoring, rows = f"scoring={config.scored_by}", "output=, which takes all rows"
    served, either = config.model.api is not None, config.by_what_the_server_gives
    idle = {
        "normalise": (config.scored_by == "generate", scoring),
        "max_new_tokens": (config.scored_by == "likelihood" and not either, scoring),
        "eval_examples": (config.output is not None, rows),
        "prompts.adversarial": (config.output is not None, rows),
        **{
            f"trainer.{key}": (True, "an evaluation") for key in ("workers", "checkpoint_every", "checkpoints_kept", "profiler")
        },
        **dict.fromkeys(_OF_THE_WEIGHTS, (served, "model.api, whose server loads and runs the model")),
    }
    for key, (does_nothing, why) in idle.items():
        if does_nothing and key in keys:
            raise InputError(f"{key} does nothing with {why}; leave it out.")


def _check_metric(dataset: DatasetConfig) -> None:
    """Refuse a pattern that no metric reads, that is missing, or that is no regular expression."""
    if dataset.metric != "regex":
        if dataset.pattern is not None:
            raise InputError(
                f"dataset.pattern does nothing with dataset.metric={dataset.metric}; use dataset.metric=regex, or leave it out."
            )
        return
    if dataset.pattern is None:
        raise InputError(
            "dataset.metric=regex needs dataset.pattern, the regular expression that finds the answer in a text, e.g. "
            "'dataset.pattern=\"answer is (\\w+)\"'."
        )
    try:
        re.compile(dataset.pattern)
    except re.error as error:
        raise InputError(
            f"dataset.pattern={dataset.pattern}: this is no regular expression of Python's re ({error}); mend it."
        ) from None


def _check_balanced(dataset: DatasetConfig, most: int | None) -> None:
    """Refuse balanced test examples where all are scored, or where how often an answer is right belongs to the task."""
    if dataset.balanced and (most is None or dataset.own_rows):
        why = "rows of your own are scored as they are" if dataset.own_rows else "eval_examples=null scores all rows"
        raise InputError(f"dataset.balanced=true draws test examples of the built-in data sets, and {why}; leave one out.")


def _check(dataset: DatasetConfig, model: ModelConfig) -> None:
    """Refuse settings of the data set and the model that contradict each other or this machine."""
    if dataset.options == "hidden" and dataset.answer != "text":
        raise InputError("dataset.options=hidden needs dataset.answer=text: a hidden option has no letter to answer with.")
    _check_metric(dataset)
    if dataset.path == "":
        raise InputError("dataset.path has no value; name the folder, the file or the hub id of your rows, dataset.path=...")
    hub = dataset.hub
    if hub is not None and dataset.parts == [dataset.name] and dataset.name not in hub.configs:
        raise InputError(f"dataset.name={dataset.name}: choose a data set with dataset=, your own with dataset=jsonl.")
    if hub is not None and (unknown := [part for part in dataset.parts if part not in hub.configs]):
        raise InputError(f"dataset.parts: {dataset.name} has no part {unknown[0]}; it has {', '.join(hub.configs)}.")
    if model.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"model.quantization={model.quantization} needs bitsandbytes; run `pip install bitsandbytes`.")
    if model.chat_template is None and model.api is None:
        raise InputError("model.chat_template=null leaves it to a server (model.api=); give true or false.")
    for key in ("system_prompt", "chat_template_args"):
        if getattr(model, key) and model.chat_template is False:
            raise InputError(f"model.{key} needs model.chat_template=true; without a chat template it would be ignored.")
    if model.chat_template_date != CHAT_TEMPLATE_DATE and model.chat_template is False:
        raise InputError(
            "model.chat_template_date needs model.chat_template=true; without a chat template it would be ignored."
        )
    if dataset.answer_space is False and model.chat_template:
        raise InputError(
            "dataset.answer_space does nothing with model.chat_template=true, whose template decides; leave it out."
        )
