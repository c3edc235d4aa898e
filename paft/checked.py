"""What can be known of a run or an evaluation without its model: inputs, updates, folder.

Imports nothing heavy: what is wrong with them shows at once.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paft.config import EvaluateConfig, TrainConfig, read_metadata
from paft.data.load import Inputs, TestInputs, load_inputs, load_test_inputs
from paft.data.rows import fingerprint
from paft.data.updates import UpdatePlan
from paft.errors import InputError
from paft.model.identity import adapter_digest, base_identity
from paft.prompts import PromptPool, Schedule
from paft.runs import RunFolder, claim
from paft.selection.budget import check_budget


@dataclass(frozen=True)
class CheckedRun:
    """What a training run reads and does, and where it goes."""

    inputs: Inputs
    updates: UpdatePlan | None  # None: nothing is trained
    folder: RunFolder


def check_run(config: TrainConfig) -> CheckedRun:
    """Load and check what a run reads, and find its folder; raises InputError. Writes nothing."""
    inputs = load_inputs(config)
    examples = inputs.examples
    updates = None if inputs.train is None else _updates(config, inputs.train, len(examples.train))
    identity = {
        "config": config.identity(),
        "base": base_identity(config.model),
        "data": examples.fingerprints if updates is not None else {"test": examples.fingerprints["test"]},
        "pools": {split: pool.fingerprint for split, pool in inputs.pools.items()},
    }
    return CheckedRun(inputs, updates, claim(config.output_root, config.run_name, identity))


def _updates(config: TrainConfig, pool: PromptPool, n_examples: int) -> UpdatePlan:
    if config.method.searches:
        check_budget(config.method, len(pool.templates))
    n_templates = 1 if config.method.searches else len(pool.templates)
    schedule = Schedule(n_templates, config.K, config.seed, config.schedule.unit)
    updates = UpdatePlan(n_examples, config.examples_per_update, config.T, schedule)
    total, every = updates.updates_per_epoch * config.T, config.validation.every
    if every is not None and every > total:
        raise InputError(
            f"validation.every={every}: the run has {total} updates, so nothing would choose its checkpoint; lower it, or "
            "use null for once an epoch."
        )
    return updates


@dataclass(frozen=True)
class CheckedEvaluation:
    """What an evaluation reads, what it is called, and where it goes."""

    name: str
    method: str  # base: nothing was trained
    trained: dict[str, Any]  # the adapter's metadata; empty for a base model
    inputs: TestInputs
    folder: RunFolder


def check_evaluation(config: EvaluateConfig) -> CheckedEvaluation:
    """Load and check what an evaluation reads, and find its folder; raises InputError. Writes nothing."""
    trained = {} if config.adapter is None else read_metadata(Path(config.adapter))
    inputs = load_test_inputs(config)
    if config.output is not None:
        _check_output(Path(config.output), Path(str(config.dataset.path)))
    identity = {
        "config": config.identity(),
        "base": base_identity(config.model) if config.adapter is None else None,  # an adapter knows its base model
        "adapter": None if config.adapter is None else adapter_digest(Path(config.adapter)),
        "data": {"test": fingerprint(inputs.examples)},
        "pools": {split: pool.fingerprint for split, pool in inputs.pools.items()},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    method = "base" if config.adapter is None else str(trained.get("method", "adapter"))  # earlier versions do not say
    name = "-".join(["eval", config.dataset.name, config.model.label, method, config.way, digest])
    return CheckedEvaluation(name, method, trained, inputs, claim(config.output_root, name, identity))


def _check_output(output: Path, rows: Path) -> None:
    if output.exists() and output.samefile(rows):
        raise InputError(f"output={output}: this is the file of the rows; name another one.")
    if output.is_dir():
        raise InputError(f"output={output}: this is a folder; name a file in it.")
    if not output.parent.is_dir():
        raise InputError(f"output={output}: there is no folder {output.parent}; make it first.")
