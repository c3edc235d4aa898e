"""A training run from config to results: check, plan, load, create the folder, train, save, score, report."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import DDPStrategy
from peft import PeftModel
from transformers import PreTrainedModel

from paft import ranks
from paft.also import measure_also
from paft.callbacks import ProgressBar, Speed
from paft.checked import CheckedRun, check_run
from paft.checkpoints import SaveBest, SaveState, usable_state
from paft.config import TrainConfig, read_metadata
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.load import Inputs, answer_kind
from paft.data.updates import UpdatePlan
from paft.evaluation.robustness import robustness
from paft.evaluation.scoring import answering_by, score
from paft.measuring import Measured, Measuring
from paft.model.adapter import base_of, save_adapter, with_adapter
from paft.model.base import (
    add_lora,
    check_quantization,
    device_of,
    load_base,
    load_config,
    load_tokenizer,
    skeleton,
    window_of,
)
from paft.model.cpu import keep_freed_memory
from paft.model.module import PaftModule
from paft.plan import Plan, make_plan
from paft.prompts import PromptPool
from paft.quiet import quieten
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.reporting.results import describe_pools, save_pools, summarise, write_results
from paft.reporting.table import print_run
from paft.reporting.wandb import log_results, misses, send_results, wandb_run
from paft.runs import RunFolder, disk_full_is_an_input_error, write_atomically
from paft.selection.search import search


@dataclass(frozen=True)
class Run:
    """A run that is ready to start: everything that needs no model is loaded and checked."""

    config: TrainConfig
    folder: RunFolder
    inputs: Inputs
    encoder: Encoder
    plan: Plan
    updates: UpdatePlan | None  # None: nothing is trained


def prepare(config: TrainConfig, checked: CheckedRun | None = None) -> Run:
    """Check the rest of a run and plan it; raises InputError. Writes nothing.

    Args:
        checked: what check_run(config) says, for a caller that asked before it imported this.
    """
    checked = checked or check_run(config)
    inputs, updates = checked.inputs, checked.updates
    check_quantization(config.model, device_of(config.trainer.accelerator))
    architecture = load_config(config.model)
    without_weights = skeleton(config.model, adapter=updates is not None)
    encoder = Encoder(
        load_tokenizer(config.model),
        answer_kind(config.dataset, inputs.examples.task),
        min(config.cutoff, window_of(architecture, config.cutoff)),
        config.model.chat_template,
        config.model.system_prompt,
    )
    encoder.check_cutoff([*inputs.examples.train, *inputs.examples.validation, *inputs.examples.test])
    plan = make_plan(config, inputs, encoder, updates, without_weights)
    return Run(config, checked.folder, inputs, encoder, plan, updates)


def train(run: Run, group: str | None = None) -> dict[str, Any]:
    """Train, save, score and report a prepared run; returns what results.json holds.

    Args:
        group: the sweep that the run belongs to, for W&B.
    """
    config, folder = run.config, run.folder.path
    started = time.perf_counter()
    reset_peak_memory()
    base = load_base(config.model, device_of(config.trainer.accelerator), backward=run.updates is not None)
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),  # created now that the model has shown that it can be used
        wandb_run(config, config.run_name, config.method.name, folder, group) as logger,
    ):
        results, measured = _train_and_score(run, base, logger, started)
        if ranks.rank() == 0:
            write_results(folder, measured, results, run.inputs.test, run.inputs.examples.test, config.method.name)
        if logger is not None:
            log_results(logger, results, folder)
    return results


def _train_and_score(run: Run, base: PreTrainedModel, logger: Logger | None, started: float) -> tuple[dict[str, Any], Measured]:
    config, folder, inputs = run.config, run.folder.path, run.inputs
    if ranks.rank() == 0:
        save_pools(folder / "prompts", inputs.pools)
    trained: dict[str, Any] = {}
    selection = None
    model: Any = base
    if run.updates is not None:
        pool = inputs.train
        assert pool is not None
        if config.method.searches:
            selection = search(config, base, run.encoder, inputs, folder, run.folder.identity)
            pool = replace(pool, templates=(selection.chosen,))
        model = add_lora(base, config.model, config.seed)
        trained = _fit(run, pool, model, base.device, logger)
        if ranks.rank() == 0:
            save_adapter(model, run.encoder.tokenizer, folder / "adapter", config, describe_pools(inputs.pools))
        ranks.barrier()  # what is measured next says of which adapter
    measure = _measuring(run, model)
    measured = measure(folder, inputs.test, inputs.examples.test, config.dataset.metric)
    results = {
        "run": config.run_name,
        **summarise(measured.matrix, config.dataset.threshold),
        "how": measured.how,
        "also": measure_also(config.also, config, inputs, measure, folder),
        "selection": None if selection is None else selection.as_json(),
        "training": trained,
        "plan": run.plan.to_dict(),
        "wall_s": round(time.perf_counter() - started + trained.pop("earlier_wall_s", 0.0), 1),
        "peak_memory_bytes": peak_memory_bytes(base.device),
        "fingerprints": {
            "data": inputs.examples.fingerprints,
            "pools": describe_pools(inputs.pools),
            "base_model": measure.identity["base"],
        },
        **provenance(base.device),
        "dtype": str(base.dtype).removeprefix("torch."),
        "config": config.model_dump(),
    }
    return results, measured


def _measuring(run: Run, model: Any) -> Measuring:
    config, folder = run.config, run.folder
    return Measuring(
        model,
        run.encoder,
        config.model,
        folder.path / "adapter" if run.updates is not None else None,
        folder.identity,
        config.trainer.micro_batch_tokens,
        config.trainer.progress,
    )


def add_measures(run: Run, names: Sequence[str], group: str | None) -> None:
    """Measure more of a finished run and write it into its results.json, and to W&B."""
    config, folder = run.config, run.folder.path
    model: Any = load_base(config.model, device_of(config.trainer.accelerator))
    if run.updates is not None:
        trained = base_of(read_metadata(folder / "adapter"), config.model)
        model = with_adapter(model, folder / "adapter", trained, config.model.path or "the embedded one")
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),
        wandb_run(config, config.run_name, config.method.name, folder, group) as logger,
    ):
        results = json.loads(run.folder.results.read_text())
        found = measure_also(names, config, run.inputs, _measuring(run, model), folder)
        results["also"] = results.get("also", {}) | found
        if ranks.rank() == 0:
            write_atomically(run.folder.results, json.dumps(results, indent=2) + "\n")
        if logger is not None:
            log_results(logger, results, folder)


def _fit(run: Run, pool: PromptPool, model: PeftModel, device: torch.device, logger: Logger | None) -> dict[str, Any]:
    """Train the adapter in place, leaving the weights of the best validation; returns figures of the training."""
    config, folder, inputs = run.config, run.folder.path, run.inputs
    assert run.updates is not None and inputs.validation is not None
    validation_pool = inputs.validation
    total = run.updates.updates_per_epoch * config.T

    def validate(model: PeftModel) -> dict[str, float]:
        examples = inputs.examples.validation[: config.validation.examples]
        budget = config.trainer.micro_batch_tokens
        answering = answering_by(model, run.encoder, validation_pool, examples, config.dataset.metric)
        matrix = score(answering, run.encoder, validation_pool, examples, batch_tokens=budget)
        found = robustness(matrix, None)
        return {"mean": found.mean, "std": found.std, "worst": found.min}

    data = PaftDataModule(
        inputs.examples.train, pool, run.updates, run.encoder, config.trainer.micro_batch_tokens, config.trainer.workers
    )
    module = PaftModule(model, config.optim, total, config.seed, validate)
    speed = Speed()
    best = SaveBest(folder / "checkpoints")
    state = SaveState(
        folder / "checkpoints", run.folder.digest, config.trainer.checkpoint_every, config.trainer.checkpoints_kept
    )
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=ranks.n_ranks(),
        strategy=_Ranks() if ranks.n_ranks() > 1 else "auto",
        use_distributed_sampler=False,  # every rank is told of a whole update, of which it takes its share
        plugins=LightningEnvironment(),  # the ranks are there already; a cluster's job is one of its tasks
        precision=precision_of(model.dtype),
        max_epochs=config.T,
        val_check_interval=config.validation.every,
        check_val_every_n_epoch=None if config.validation.every else 1,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # the data module then reads where the trainer stands
        logger=[CSVLogger(folder, name="log"), *([logger] if logger is not None else [])],
        log_every_n_steps=1,
        callbacks=[
            speed,
            best,
            state,
            *([ProgressBar()] if config.trainer.progress else []),
        ],
        enable_progress_bar=config.trainer.progress,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, data, ckpt_path=ranks.gather(usable_state(state.folder, state.run))[0])
    except SystemExit as left:  # Lightning's answer to KeyboardInterrupt
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise  # submitit has queued the job again
        raise KeyboardInterrupt(*left.__context__.args) from None
    if best.best_model_path:
        module.load_state_dict(best.best())
    model.to(device)
    return {
        "updates": total,
        "tokens": speed.tokens,  # real ones, of all ranks
        "best_validation_mean": None if best.best_model_score is None else float(best.best_model_score),
        "tokens_per_s": round(speed.tokens_per_s, 1),
        "seconds": round(speed.seconds, 1),  # of the updates alone
        "prompts_truncated": speed.truncated,
        "earlier_wall_s": speed.earlier_wall_s,
    }


class _Ranks(DDPStrategy):
    """Ranks whose gradients PaftModule adds up itself: an update's micro-batches need not be as many on each."""

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


def precision_of(dtype: torch.dtype) -> Literal["bf16-mixed", "32-true"]:
    """Return Lightning's precision for a base model's dtype.

    bf16-mixed computes the fp32 adapter in bf16 and keeps its weights and moments in fp32; bf16-true
    would round those too.
    """
    return "bf16-mixed" if dtype == torch.bfloat16 else "32-true"


def run_training(config: TrainConfig, group: str | None = None, checked: CheckedRun | None = None) -> Run:
    """Prepare a run, print its plan, train it unless it is finished already, and print its table.

    Args:
        checked: what check_run(config) says, for a caller that asked before it imported this.
    """
    quieten()
    keep_freed_memory()
    run = prepare(config, checked)
    print(run.plan.text(run.folder.path), flush=True)
    for split, pool in run.inputs.pools.items():
        for note in pool.notes:
            print(f"  {split} prompts: {note}", flush=True)
    if not run.folder.results.is_file():
        train(run, group)
    else:
        _complete(run, group)
        print(f"Finished already: {run.folder.results}", flush=True)
    if ranks.rank() == 0:
        print_run(config.method.name, json.loads(run.folder.results.read_text()), run.folder.results)
    return run


def _complete(run: Run, group: str | None) -> None:
    """Add to a finished run what it lacks: measures that are asked for now, and W&B's copy."""
    config = run.config
    measured = json.loads(run.folder.results.read_text()).get("also", {})  # runs of earlier versions lack it
    missing = [name for name in config.also if name not in measured]
    if missing:
        add_measures(run, missing, group)
    elif misses(config, run.folder.path):
        send_results(config, config.run_name, config.method.name, run.folder, group)
