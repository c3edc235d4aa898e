"""What a run was, in words: its title, and what was done with which model, rows and prompts."""

from pathlib import Path
from typing import NamedTuple

from paft.config.command import command
from paft.config.schema import EvaluateConfig, SamplerConfig, TrainConfig
from paft.reporting.model_card import base_name
from paft.reporting.results import PoolRecord, Results, ScoringSettings

_METHODS = {
    "paft": "PAFT",
    "user": "one fixed prompt",
    "top_accuracy": "the one most accurate prompt",
    "robust": "the one most robust prompt",
    "zopo": "the one prompt of a search (ZOPO)",
    "base": "not trained",
}


class Fact(NamedTuple):
    """A line of a page's head: what it is about, and what there is to say; code: a command to copy."""

    name: str
    text: str
    code: bool = False


def config_of(results: Results) -> TrainConfig | EvaluateConfig:
    """Return the config of a run, by its type."""
    kind = TrainConfig if results.kind == "training" else EvaluateConfig
    return kind.model_validate(results.config)


def title_of(results: Results) -> str:
    """Return a title for people: the model, the method, and the rows."""
    config = config_of(results)
    model, rows = base_name(config.model).rsplit("/", 1)[-1], _rows(config)
    if isinstance(config, TrainConfig):
        method = _METHODS[config.method.name]
        return f"{model}, {method}: {rows}" if results.is_base else f"{model}, {method} on {rows}"
    adapted = model if results.is_base else f"{model} with an adapter"
    return f"{adapted}: {'predictions for ' if results.robustness is None else ''}{rows}"


def facts_of(results: Results, n_rows: int, date: str) -> list[Fact]:
    """Return what was done: the model, the method, rows and prompts, the machine, and the command that repeats it.

    Args:
        n_rows: how many rows were scored.
        date: of the run.
    """
    config = config_of(results)
    facts = [Fact("model", _model(config))]
    if isinstance(config, TrainConfig):
        facts += [Fact("method", _method(config)), *_training(config, results)]
    elif results.trained_by is not None:
        facts.append(Fact("adapter", f"trained by the run {results.trained_by}"))
    elif config.adapter is not None:
        facts.append(Fact("adapter", config.adapter))
    facts += [Fact("rows" if results.robustness is None else "tested on", _tested(config, results, n_rows))]
    facts += [Fact("answers", _scoring(results.scoring))]
    facts += [Fact("run", f"{date}; {_machine(results)}")]
    again = command(config)
    if again is None and isinstance(config, TrainConfig):
        again = "paft train rerun=results.json"
    return [*facts, *([Fact("command", again, code=True)] if again else [])]


def _rows(config: TrainConfig | EvaluateConfig) -> str:
    """Return what the rows are called: the data set, or the file or folder of one's own rows."""
    dataset = config.dataset
    return Path(dataset.path).name if dataset.path is not None else dataset.name


def _model(config: TrainConfig | EvaluateConfig) -> str:
    model, lora = config.model, config.model.lora
    parts = [base_name(config.model)]
    if model.revision is not None:
        parts[0] += f" at {model.revision}"
    if model.quantization is not None:
        parts.append(f"quantised to {model.quantization}")
    if isinstance(config, TrainConfig) and config.method.trains:
        adapter = None if lora is None else f"{lora.label} of rank {lora.r} on {' '.join(lora.target_modules)}"
        parts.append(adapter or "all weights trained")
    if model.chat_template:
        system = "" if model.system_prompt is None else " with a system prompt"
        parts.append(f"asked in its chat template{system}")
    return ", ".join(parts)


_LOSSES = {
    "mean": "",
    "tilted": ", tilted loss (temperature {temperature:g})",
    "perturbed": ", perturbed loss (size {size:g})",
    "consistent": ", consistent loss (weight {weight:g}, toward the {toward})",
}


def _method(config: TrainConfig) -> str:
    if config.method.name == "base":
        return "nothing was trained"
    epochs = "1 epoch" if config.T == 1 else f"{config.T} epochs"
    training = f"{epochs} (T={config.T}), learning rate {config.optim.lr:g}, seed {config.seed}"
    if config.optim.average:
        training += f", weights averaged over the last {100 * config.optim.average:g}% of the updates"
    loss = _LOSSES[config.loss.name].format(**vars(config.loss))
    if config.method.name != "paft":
        return f"trained under {_METHODS[config.method.name]}{loss}: {training}"
    unit = config.schedule.unit
    drawn = "for each row, once" if unit == "row" else f"every {config.K} {unit}s (K={config.K})"
    if config.K == 1 and unit != "row":
        drawn = f"for every {unit} (K=1)"
    more = f", sampler {' '.join(config.sampler.label)}" if config.sampler.label else ""
    if config.sampler.by_loss:
        more += f" ({_temperature(config.sampler)})"
    return f"PAFT, a prompt template drawn anew {drawn}{more}{loss}: {training}"


def _temperature(sampler: SamplerConfig) -> str:
    end = sampler.temperature_end
    moves = "" if end in (None, sampler.temperature) else f" to {end:g}"
    return f"temperature {sampler.temperature:g}{moves}{', corrected' if sampler.corrected else ''}"


def _training(config: TrainConfig, results: Results) -> list[Fact]:
    """Say what was trained on, and how long it took."""
    plan, pools, training = results.plan, results.fingerprints.pools, results.training
    if plan is None or training is None or "train" not in pools:
        return []
    pool = _pool(pools["train"], config.prompts.train, "train", config)
    if config.method.searches:
        prompts = f"one prompt, found among the {plan.templates} of {pool}"
    elif config.method.name == "user":
        prompts = "one prompt"
    else:
        prompts = f"{results.templates_shown} of the {plan.templates} prompts of {pool}"
    rows = f"{plan.train_examples:,} rows of {_source(config)} under {prompts}"
    if config.loss.unlabelled is not None:
        rows += f", and rows of {config.loss.unlabelled} without their answers"
    facts = [Fact("trained on", f"{rows}; {training.updates:,} updates, {training.tokens:,} tokens, {_time(training.seconds)}")]
    if results.selection is not None:
        facts.append(Fact("prompt", results.selection.chosen.text, code=True))
    elif config.method.name == "user" and config.method.prompt is not None:
        facts.append(Fact("prompt", config.method.prompt, code=True))
    return facts


def _tested(config: TrainConfig | EvaluateConfig, results: Results, n_rows: int) -> str:
    split, source = "test", config.prompts.test
    if isinstance(config, TrainConfig) and not config.evaluate:
        split, source = "validation", config.prompts.validation
    record = results.fingerprints.pools["test"]
    unseen = ", none of them trained on" if results.unseen and not results.is_base else ""
    prompts = "1 prompt" if record.prompts == 1 else f"{record.prompts:,} prompts"
    return f"{n_rows:,} rows of {_source(config)} under {prompts} of {_pool(record, source, split, config)}{unseen}"


def _source(config: TrainConfig | EvaluateConfig) -> str:
    """Return where the rows come from: a path, a hub id, or the generated data set."""
    dataset = config.dataset
    if dataset.path is not None:
        return dataset.path
    return dataset.name if dataset.hub is None else f"{dataset.name} ({dataset.hub.id})"


def _pool(record: PoolRecord, given: str | None, split: str, config: TrainConfig | EvaluateConfig) -> str:
    """Return what a pool is called: the file that was given, or the name of a shipped pool."""
    if given is not None and (Path(given).suffix or Path(given).exists()):
        return given
    if isinstance(config, EvaluateConfig) and config.adapter is not None and config.dataset.own_rows:
        return f"the adapter's run ({record.name})"
    return f"the shipped pool {given or split}"


def _scoring(scoring: ScoringSettings) -> str:
    if scoring.scoring == "generate":
        return f"written by the model, at most {scoring.max_new_tokens} tokens"
    over = {"sum": "summed over tokens", "token": "per token", "byte": "per byte"}[scoring.normalise or "sum"]
    return f"the choice of the highest likelihood, {over}"


def _machine(results: Results) -> str:
    ranks = f", {results.device.ranks} processes" if results.device.ranks > 1 else ""
    memory = f"{results.peak_memory_bytes / 2**30:.1f} GiB"
    return f"{results.device}{ranks}, {results.dtype}, {_time(results.wall_s)} in all, at most {memory} of memory"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
