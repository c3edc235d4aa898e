"""The checks of a run or an evaluation that need no model: those of its inputs and its folder.

Nothing heavy is imported here, so that a mistake shows at once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paft.config.adapter import PEFT_CONFIG, Adapter, find_adapter, of_another_base, peft_settings
from paft.config.schema import EvaluateConfig, FailUnderConfig, ModelConfig, TrainConfig
from paft.data.inputs import EvaluationInputs, Inputs, load_evaluation_inputs, load_inputs
from paft.data.splits import fingerprint
from paft.data.tasks.base import Task
from paft.data.updates import mutator_of, updates_of
from paft.evaluation.metrics import check_metric
from paft.evaluation.tail import FEWEST_OF_A_TAIL
from paft.jobs.beside import base_run_of, user_run_of
from paft.model.gguf import check_gguf
from paft.model.identity import adapter_digest, base_identity
from paft.prompts import PromptPool
from paft.prompts.mutate import Mutator
from paft.prompts.sampling import families_of
from paft.runtime.errors import InputError
from paft.runtime.files import check_place
from paft.runtime.run_folder import RunFolder, claim
from paft.selection.budget import check_budget

if TYPE_CHECKING:
    from paft.evaluation.served import Found


@dataclass(frozen=True)
class BesideRun:
    """A run that another one is shown beside: the base model's, or that of one fixed prompt, on the same cells."""

    config: TrainConfig
    folder: RunFolder


@dataclass(frozen=True)
class CheckedRun:
    """The inputs of a training run, its folder, and the runs that it is shown beside, by method."""

    inputs: Inputs
    folder: RunFolder
    beside: Mapping[str, BesideRun] = field(default_factory=dict)


def check_run(config: TrainConfig) -> CheckedRun:
    """Load and check the inputs of a run, and claim its folder. Writes nothing; raises InputError."""
    check_place(f"output_root={config.output_root}", Path(config.output_root))
    check_gguf(config.model)
    _check_no_adapter(config.model)
    inputs = load_inputs(config)
    examples = inputs.examples
    check_metric(config.dataset, [*examples.test, *examples.validation])
    if inputs.train is not None:
        if config.method.searches:
            check_budget(config.method, len(inputs.train.templates))
        _check_validation(config, updates_of(config, len(examples.train), inputs.train, examples.task).total)
        if (mutator := mutator_of(config, examples.task)) is not None:
            _check_mutations(config, inputs.train, mutator)
        _check_templates(config, inputs.train)
        _check_families(config, inputs.train, inputs.examples.task)
    _check_tail(config.fail_under, inputs.test)
    folder = _claim(config, inputs, base_identity(config.model))
    return CheckedRun(inputs, folder, _beside(config, inputs, folder))


def _claim(config: TrainConfig, inputs: Inputs, base: str) -> RunFolder:
    """Return the folder of a run with these inputs, of which one that trains nothing uses the test's alone."""
    data, pools = inputs.examples.fingerprints, {split: pool.fingerprint for split, pool in inputs.pools.items()}
    if not config.method.trains:
        data, pools = ({"test": of["test"]} for of in (data, pools))
    identity = {"config": config.identity(), "base": base, "data": data | _shots(inputs), "pools": pools}
    return claim(config.output_root, config.run_name, identity)


def _beside(config: TrainConfig, inputs: Inputs, folder: RunFolder) -> dict[str, BesideRun]:
    """Return the runs that a run is shown beside; raises InputError where one of them could not be made."""
    found = {}
    if config.score_base and config.method.trains and config.evaluate:  # the base model has no settings to choose
        base = base_run_of(config)
        found["base"] = BesideRun(base, _claim(base, inputs, folder.identity["base"]))
    if config.compare_with:
        user = user_run_of(config, inputs)
        found["user"] = BesideRun(user, check_run(user).folder)
    return found


def _check_tail(bounds: FailUnderConfig, pool: PromptPool) -> None:
    """Raise InputError for a bound on the worst tenth of fewer than ten prompts."""
    n = len(pool.templates)
    if bounds.cvar10 is not None and n < FEWEST_OF_A_TAIL:
        raise InputError(
            f"fail_under.cvar10={bounds.cvar10:g}: of {n} test prompts the worst tenth is less than one; use fail_under.worst, "
            "or give ten prompts."
        )


def _shots(inputs: Inputs | EvaluationInputs) -> dict[str, str]:
    """Return the fingerprint of the rows that are shown before each row that is scored; nothing where there are none."""
    return {"shots": fingerprint(inputs.shots)} if inputs.shots else {}


def _check_validation(config: TrainConfig, n_updates: int) -> None:
    """Raise InputError if the run ends before its first validation, or if no validation sees the averaged weights."""
    every = config.validation.every
    if every is not None and every > n_updates:
        raise InputError(
            f"validation.every={every}: the run has {n_updates} updates, so nothing would choose its checkpoint; lower it, or "
            "use null for once an epoch."
        )
    averaged = config.optim.first_averaged(n_updates)
    if every is not None and (last := n_updates // every * every) < averaged <= n_updates:
        raise InputError(
            f"validation.every={every}: the last validation, which chooses what is kept, is at update {last} of {n_updates}, "
            f"and optim.average={config.optim.average:g} averages weights from update {averaged} on, so nothing of the mean "
            f"would be kept; use validation.every={fitting_validation(every, n_updates)}."
        )


def fitting_validation(every: int, n_updates: int) -> int | str:
    """Return how many updates should lie between validations, at most `every`, so that the last update is followed by one."""
    return max((n for n in range(max(2, every // 2), every + 1) if n_updates % n == 0), default="null")


def _check_templates(config: TrainConfig, pool: PromptPool) -> None:
    """Raise InputError if an update or the candidates of a draw are more templates than the pool has, in one layout each."""
    sampler, n = config.sampler, len(pool.templates)
    if config.method.name != "paft":
        return
    several = {"candidates": sampler.candidates if sampler.candidates_are == "templates" else 1}
    if not sampler.mutations:
        several["templates_per_update"] = sampler.templates_per_update
    for key, asked in several.items():
        if asked > n:
            raise InputError(f"sampler.{key}={asked} is more than the training prompts, of which there are {n}; lower it.")


def _check_families(config: TrainConfig, pool: PromptPool, task: Task) -> None:
    """Raise InputError if draws by loss have a single family to draw from."""
    if config.method.name != "paft" or not config.sampler.by_loss:
        return
    if all(len(set(kind)) == 1 for kind in families_of(pool, task.choice_fields)):
        raise InputError(
            f"sampler.temperature draws by the losses of wordings and layouts, and the {len(pool.templates)} training prompts "
            "are all of one; use sampler=uniform."
        )


def _check_mutations(config: TrainConfig, pool: PromptPool, mutator: Mutator) -> None:
    """Raise InputError if no layout of the pool's prompts can be mutated."""
    kinds = f"sampler.mutations=[{','.join(config.sampler.mutations)}]"
    if all(kind.startswith("option_") for kind in mutator.kinds) and not (mutator.choice_fields and pool.options == "shown"):
        raise InputError(f"{kinds} changes options, and the prompts show none; name other kinds, or use sampler=uniform.")
    changeable = [template for template in pool.templates if mutator.can_change(template)]
    if not changeable:
        raise InputError(
            f"{kinds}: no training prompt has parts that could be changed; put each field in a line of its own, or use "
            "sampler=uniform."
        )
    if {*mutator.kinds} <= {"order", "options_first"} and all(map(mutator.keeps_order, changeable)):
        raise InputError(
            f"{kinds}: all training prompts that have parts say where something stands, and so keep their order; name other "
            "kinds, or use sampler=uniform."
        )


@dataclass(frozen=True)
class CheckedEvaluation:
    """The inputs of an evaluation, its name, and its folder."""

    name: str
    method: str  # base: nothing was trained; adapter: PEFT or TRL trained it, how is not known
    trained: dict[str, Any]  # the adapter's metadata; empty for a base model, and for an adapter that PEFT or TRL made
    inputs: EvaluationInputs
    folder: RunFolder
    found: "Found | None" = None  # what a server gives; None: nothing is served, or the evaluation is finished


def check_evaluation(config: EvaluateConfig) -> CheckedEvaluation:
    """Load and check the inputs of an evaluation, claim its folder, and try its server. Writes nothing; raises InputError."""
    adapter = None if config.adapter is None else find_adapter(config.adapter)
    trained = {} if adapter is None else adapter.trained
    check_place(f"output_root={config.output_root}", Path(config.output_root))
    check_gguf(config.model, given=not trained)
    _check_no_adapter(config.model)
    inputs = load_evaluation_inputs(config)
    check_metric(config.dataset, inputs.examples)
    _check_tail(config.fail_under, inputs.pool)
    if adapter is not None and not trained:
        _check_shards(config, adapter)
        inputs = replace(inputs, warnings=(*inputs.warnings, *of_another_base(adapter, config.model)))
    if config.output is not None:
        _check_output(Path(config.output), Path(str(config.dataset.path)), inputs)
    identity = {
        "config": config.identity(),
        "base": base_identity(config.model),
        "adapter": None if adapter is None else adapter_digest(adapter.folder),
        "data": {"test": fingerprint(inputs.examples)} | _shots(inputs),
        "pools": {split: pool.fingerprint for split, pool in inputs.pools.items()},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    method = "base" if adapter is None else str(trained.get("method", "adapter"))
    scored_by = "api" if config.by_what_the_server_gives else config.scored_by
    name = "-".join(["eval", config.dataset.name, config.model.label, method, scored_by, digest])
    folder, found = claim(config.output_root, name, identity), None
    if config.model.api is not None:
        from paft.jobs.served import find_served  # here, because what it imports is of no use to other models

        found = find_served(config, inputs, folder)
    return CheckedEvaluation(name, method, trained, inputs, folder, found)


def _check_no_adapter(model: ModelConfig) -> None:
    """Refuse an adapter, or the run that trained it, in the place of a model."""
    folder = Path(str(model.path))
    for place in (folder, folder / "adapter"):
        if (place / PEFT_CONFIG).is_file() and not (folder / "config.json").is_file():
            raise InputError(
                f"model.path={model.path}: this is {'an adapter' if place == folder else 'a run'}; paft evaluate takes it as "
                f"adapter={place}, and model.path names the base model."
            )


def _check_shards(config: EvaluateConfig, adapter: Adapter) -> None:
    """Refuse an adapter that changes more of a layer than LoRA does, where the base model is spread over ranks."""
    whole = peft_settings(adapter).whole
    if config.trainer.strategy == "fsdp" and whole is not None:
        raise InputError(
            f"trainer.strategy=fsdp: the layers of the base model are in shards, and adapter={adapter.name} needs them whole "
            f"({whole}); leave trainer=fsdp out."
        )


_PREDICTED = frozenset({"prediction", "prediction_text", "prediction_agreement"})


def _check_output(output: Path, rows: Path, inputs: EvaluationInputs) -> None:
    """Refuse a file that predictions cannot go into, as something else is there, and rows that have such fields already."""
    if output.exists() and output.samefile(rows):
        raise InputError(f"output={output}: this is the file of the rows; name another one.")
    if output.is_dir():
        raise InputError(f"output={output}: this is a folder; name a file in it.")
    if not output.parent.is_dir():
        raise InputError(f"output={output}: there is no folder {output.parent}; make it first.")
    if output.suffix not in (".jsonl", ".json"):
        raise InputError(f"output={output}: predictions are JSON, a row a line; name it {output.with_suffix('.jsonl').name}.")
    if output.exists() and output.stat().st_size and not _holds_predictions(output):
        raise InputError(f"output={output}: something else than predictions is there; name another file.")
    for example, row in zip(inputs.examples, inputs.rows or (), strict=True):
        if taken := _PREDICTED & row.keys():
            raise InputError(
                f"{example.where}: the row has a field {min(taken)!r} of its own, which predictions need; rename it."
            )


def _holds_predictions(file: Path) -> bool:
    """Whether a file begins with a row that has a prediction."""
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and {"prediction", "prediction_agreement"} <= first.keys()
