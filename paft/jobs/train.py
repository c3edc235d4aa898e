"""A training run, from config to results: check the inputs, plan, load the model, train, save, score, report."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from paft.config.adapter import read_metadata
from paft.config.schema import TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator, Scored
from paft.evaluation.robustness import robustness
from paft.evaluation.scoring import answering_by, generates, score
from paft.jobs.encoder import make_encoder
from paft.jobs.extra_measures import measure_more, scoring_of
from paft.jobs.measures import summary_of
from paft.jobs.planning import advice, make_plan, print_inputs
from paft.jobs.preflight import CheckedRun, check_run
from paft.model.adapter import base_of, save_adapter, save_model, with_adapter
from paft.model.attention import packs_ragged
from paft.model.base import (
    Model,
    check_quantization,
    device_of,
    load_base,
    make_trainable,
    skeleton,
    weights_fingerprint,
    without_adapter,
)
from paft.model.fused import fused_kind
from paft.model.gguf import origin
from paft.model.identity import revision_of
from paft.model.sharding import check_sharding
from paft.prompts import PromptPool
from paft.reporting.model_card import Kind, save_model_card
from paft.reporting.plan import Plan
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.reporting.results import (
    BaseModelRecord,
    ExtraMeasures,
    Fingerprints,
    Results,
    SelectionRecord,
    TrainingRecord,
    describe_pool,
    read_results,
    save_results,
)
from paft.reporting.run_files import save_pools, save_run
from paft.reporting.table import print_run
from paft.reporting.wandb import log_results, misses, send_results, wandb_run
from paft.reporting.warnings import few_templates
from paft.runtime import ranks
from paft.runtime.files import disk_full_is_an_input_error
from paft.runtime.process import keep_freed_memory, quieten, repeat_exactly
from paft.runtime.run_folder import RunFolder
from paft.selection.search import search
from paft.training.fit import Fitted, fit
from paft.training.forecast import ScoringWork
from paft.training.kernels import CHANGED, Kernels, kernels_of, recorded_kernels, with_recorded


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start: everything but the weights is loaded and checked."""

    config: TrainConfig
    folder: RunFolder
    inputs: Inputs
    encoder: Encoder
    plan: Plan
    advice: tuple[str, ...] = ()  # what to type where settings do not fit

    @property
    def trained_folder(self) -> Path:
        """What training leaves: RUN/adapter, or RUN/model where all weights are trained."""
        return self.folder.path / self.trained_kind

    @property
    def trained_kind(self) -> Kind:
        """Whether training leaves an adapter or a whole model."""
        return "adapter" if self.config.model.lora is not None else "model"

    @property
    def warnings(self) -> list[str]:
        """What is known before training that makes the run's numbers mean less."""
        few = few_templates(self.plan.templates_seen) if self.config.method.name == "paft" else []
        return [*self.inputs.warnings, *few]


def prepare(config: TrainConfig, checked: CheckedRun | None = None) -> PreparedRun:
    """Check a run, load everything but the weights, and plan the run. Writes nothing; raises InputError.

    Args:
        checked: the result of check_run(config); None: it is called here.
    """
    checked = checked or check_run(config)
    inputs = checked.inputs
    device = device_of(config.trainer.accelerator)
    check_quantization(config.model, device)
    check_sharding(config.model, config.trainer, device)
    without_weights = skeleton(config.model, trained=config.method.trains)
    encoder = make_encoder(config, inputs.examples.task)
    examples = inputs.examples
    encoder.check(inputs.templates, [*examples.train, *examples.validation, *examples.test])
    plan = make_plan(config, inputs, encoder, without_weights)
    n_weights = sum(parameter.numel() for parameter in without_weights.parameters())
    return PreparedRun(config, checked.folder, inputs, encoder, plan, tuple(advice(config, plan, n_weights)))


def train(run: PreparedRun, group: str | None = None) -> Results:
    """Train a prepared run, save its adapter, score it and report; return the results.

    Args:
        group: the sweep that the run belongs to, for W&B.
    """
    config, folder = run.config, run.folder.path
    started = time.perf_counter()
    reset_peak_memory()
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    recorded = recorded_kernels(folder / "checkpoints", run.folder.digest) if config.method.trains else None
    model, fused = with_recorded(config, device, recorded)
    base = load_base(model, device, config.method.trains, run.encoder.cutoff, fused, sharded)
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),  # only now, so that a model that cannot be used leaves no folder
        wandb_run(config, config.run_name, config.method.name, folder, group) as logger,
    ):
        results, scored = _train_and_score(run, base, logger, started, recorded)
        if ranks.rank() == 0:
            if config.method.trains:
                pool = run.inputs.train
                assert pool is not None
                chosen = None if results.selection is None else results.selection.chosen.id
                template = next(t for t in pool.templates if chosen in (None, t.id))
                save_model_card(run.trained_folder, results, template, pool.answer, run.trained_kind)
            save_run(folder, scored, results, run.inputs.test, run.inputs.examples.test, config.method.name)
        if logger is not None:
            log_results(logger, results, folder)
    return results


def _train_and_score(
    run: PreparedRun, base: PreTrainedModel, logger: Logger | None, started: float, recorded: Kernels | None
) -> tuple[Results, Scored]:
    config, folder, inputs = run.config, run.folder.path, run.inputs
    if ranks.rank() == 0:
        save_pools(folder / "prompts", inputs.pools)
    model: Any = base
    of_base = weights_fingerprint(base)  # before they are trained themselves
    fitted = selection = None
    if inputs.train is not None:
        pool = inputs.train
        search_started = time.perf_counter()
        if config.method.searches:
            selection = search(config, base, run.encoder, inputs, folder, run.folder.identity)
            pool = replace(pool, templates=(selection.chosen,))
        model = make_trainable(base, config.model, config.seed)
        graphs = config.trainer.graphs == "auto" and not config.model.activation_checkpointing
        kernels = kernels_of(model, graphs, recorded)
        fitted = _fit(run, model, pool, logger, kernels, time.perf_counter() - search_started if selection else 0.0)
        if ranks.rank() == 0:
            _save(run, model, of_base["sample"])
        ranks.barrier()  # scoring reads the saved adapter, on every rank
    evaluator = _evaluator(run, model)
    scored = evaluator.score(folder, inputs.test, inputs.examples.test, scoring_of(config, inputs))
    warnings = run.warnings if fitted is None or not fitted.kernels.changed else [*run.warnings, CHANGED]
    results = Results(
        **dict(summary_of(scored, config.dataset, inputs.test, run.encoder, inputs.examples.test, warnings=warnings)),
        kind="training",
        run=config.run_name,
        extra_measures=measure_more(config.extra_measures, config, inputs, evaluator, folder, ExtraMeasures()),
        training=None if fitted is None else _training_record(fitted),
        selection=None if selection is None else SelectionRecord.model_validate(selection.as_json()),
        plan=run.plan,
        test_prompts_seen=inputs.seen,
        test_rows_left_out=inputs.left_out,
        wall_s=round(time.perf_counter() - started + (0.0 if fitted is None else fitted.earlier_wall_s), 1),
        peak_memory_bytes=peak_memory_bytes(base.device),
        fingerprints=Fingerprints(
            data=inputs.examples.fingerprints,
            pools=_pool_records(inputs),
            base_model=BaseModelRecord(**of_base, dequantised_from=origin(config.model.path)),
        ),
        **provenance(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        config=config.model_dump(),
    )
    return results, scored


def _fit(
    run: PreparedRun, model: Model, pool: PromptPool, logger: Logger | None, kernels: Kernels, searched_s: float
) -> Fitted:
    """Train the adapter, or all weights, on a pool; the best checkpoint is chosen on validation prompts and examples.

    Args:
        searched_s: seconds that the search for the pool's only prompt took; 0: there was none.
    """
    config, inputs, validation_pool = run.config, run.inputs, run.inputs.validation
    assert validation_pool is not None
    data = PaftDataModule(inputs.examples.train, pool, run.encoder, config, inputs.examples.task, packs_ragged(model))

    def validate(model: Model) -> dict[str, float]:
        examples = inputs.examples.validation[: config.validation.examples]
        answering = answering_by(model, run.encoder, validation_pool, examples, scoring_of(config, inputs))
        budget = config.trainer.micro_batch_tokens
        summary = robustness(score(answering, run.encoder, validation_pool, examples, batch_tokens=budget), None)
        return {"mean": summary.mean, "std": summary.std, "worst": summary.min}

    scoring = ScoringWork(
        validation_renderings=len(validation_pool.templates) * run.plan.validation_examples,
        test_renderings=run.plan.test_renderings,
        generated=generates(scoring_of(config, inputs)),
        searched_s=searched_s,
    )
    return fit(model, data, config, run.folder.path, run.folder.digest, validate, logger, kernels, scoring)


def _training_record(fitted: Fitted) -> TrainingRecord:
    figures = asdict(fitted)
    del figures["earlier_wall_s"]  # the run's wall_s includes it
    taken = fitted.kernels
    kernels = {"attention": taken.attention, "fused": taken.fused, "graphs": figures.pop("graph_shapes")}
    return TrainingRecord(**figures | {"kernels": kernels})


def _save(run: PreparedRun, model: Model, base: str | None) -> None:
    """Write the trained adapter, or the trained model, into the run's folder.

    Args:
        base: the fingerprint of the weights that training began with.
    """
    if run.config.model.lora is not None:
        save_adapter(model, run.encoder.tokenizer, run.trained_folder, _about(run))
        return
    revision, about = revision_of(run.config.model), _about(run) | {"base": base}
    save_model(without_adapter(model), run.encoder.tokenizer, run.trained_folder, revision, about)


def _about(run: PreparedRun) -> dict[str, Any]:
    """Return the metadata of the run's adapter or model: what an evaluation must do as the training did."""
    config, inputs = run.config, run.inputs
    return {
        "run": config.run_name,
        "method": config.method.name,
        "model": config.model.model_dump() | {"revision": revision_of(config.model)},
        "tokenizer": run.encoder.fingerprint,
        "dataset": config.dataset.model_dump(),
        "several_lines": scoring_of(config, inputs).several_lines,
        "pools": {split: pool.model_dump() for split, pool in _pool_records(inputs).items()},
    }


def _pool_records(inputs: Inputs) -> dict[str, Any]:
    return {split: describe_pool(pool) for split, pool in inputs.pools.items()}


def _evaluator(run: PreparedRun, model: Any) -> Evaluator:
    config, folder = run.config, run.folder
    return Evaluator(
        model,
        run.encoder,
        config.model,
        folder.path / "adapter" if config.method.trains and config.model.lora is not None else None,
        folder.identity,
        config.trainer,
    )


def add_measures(run: PreparedRun, names: Sequence[str], group: str | None) -> Results:
    """Add extra measures to the results.json of a finished run, and send them to W&B; return the results.

    Args:
        names: of the measures, as in extra_measures.
        group: the sweep that the run belongs to, for W&B.
    """
    config, folder = run.config, run.folder.path
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    fused = fused_kind(device, config.trainer.fused)
    adapted = config.method.trains and config.model.lora is not None
    settings = config.model
    if config.method.trains and not adapted:
        settings = settings.model_copy(update={"path": str(run.trained_folder), "revision": None})
    model: Any = load_base(settings, device, cutoff=run.encoder.cutoff, fused=fused, sharded=sharded)
    if adapted:
        trained_on = base_of(read_metadata(folder / "adapter"), config.model)
        model = with_adapter(model, folder / "adapter", trained_on, config.model.path or "the embedded one")
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),
        wandb_run(config, config.run_name, config.method.name, folder, group) as logger,
    ):
        before = read_results(run.folder.results)
        evaluator = _evaluator(run, model)
        extra = measure_more(names, config, run.inputs, evaluator, folder, before.extra_measures)
        results = before.model_copy(update={"extra_measures": extra})
        if ranks.rank() == 0:
            save_results(folder, results)
        if logger is not None:
            log_results(logger, results, folder)
    return results


def run_training(config: TrainConfig, group: str | None = None, checked: CheckedRun | None = None) -> Results:
    """Prepare a run, print its plan, train it unless it is finished already, and print its table.

    Args:
        group: the sweep that the run belongs to, for W&B.
        checked: the result of check_run(config); None: it is called here.

    Returns the results, also where they were finished already. Raises InputError.
    """
    quieten()
    keep_freed_memory()
    repeat_exactly()
    run = prepare(config, checked)
    print(run.plan.text(run.folder.path, run.advice), flush=True)
    print_inputs(config, run.inputs, run.warnings)
    if not run.folder.results.is_file():
        results = train(run, group)
    else:
        results = _complete(run, group)
        print(f"Finished already: {run.folder.results}", flush=True)
    if ranks.rank() == 0:
        print_run(config.method.name, results, run.folder.results)
    return results


def _complete(run: PreparedRun, group: str | None) -> Results:
    """Add to a finished run what it lacks: extra measures that are asked for now, and its copy in W&B."""
    config = run.config
    results = read_results(run.folder.results)
    missing = [name for name in config.extra_measures if getattr(results.extra_measures, name) is None]
    if missing:
        return add_measures(run, missing, group)
    if misses(config, run.folder.path):
        send_results(config, config.run_name, config.method.name, run.folder, group)
    return results
