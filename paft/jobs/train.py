"""A training run, from config to results: check the inputs, plan, load the model, train, save, score, report."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from paft.config.adapter import read_metadata
from paft.config.schema import ModelConfig, TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator, Scored
from paft.evaluation.robustness import robustness
from paft.evaluation.scoring import answering_by, generates, score
from paft.jobs.encoder import make_encoder
from paft.jobs.extra_measures import measure_more, scoring_of
from paft.jobs.measures import CHOSEN_BEFORE, has_results, outdated, scored_before, summary_of
from paft.jobs.planning import advice, layout_advice, make_plan, print_beside, print_inputs
from paft.jobs.preflight import BesideRun, CheckedRun, check_run
from paft.model.adapter import base_of, save_adapter, save_model, with_adapter
from paft.model.attention import packs_ragged
from paft.model.base import (
    Model,
    check_quantization,
    device_of,
    load_base,
    make_trainable,
    skeleton,
    switch_attention,
    weights_fingerprint,
    without_adapter,
)
from paft.model.fused import fused_kind
from paft.model.gguf import origin
from paft.model.identity import revision_of
from paft.model.sharding import check_sharding
from paft.prompts import PromptPool
from paft.reporting.compare import ComparedRun, load
from paft.reporting.drawn import drawn_record
from paft.reporting.logged import acted
from paft.reporting.loggers import log_results, misses, run_loggers, send_results
from paft.reporting.model_card import Kind, save_model_card
from paft.reporting.plan import Plan
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.reporting.renderings import first_trained
from paft.reporting.results import (
    BaseModelRecord,
    ExtraMeasures,
    Fingerprints,
    Results,
    SelectionRecord,
    TrainingRecord,
    describe_pool,
    read_results,
)
from paft.reporting.run_files import save_pools, save_run
from paft.reporting.table import print_run
from paft.reporting.verdict import judged
from paft.reporting.warnings import few_templates
from paft.runtime import ranks
from paft.runtime.errors import InputError
from paft.runtime.files import disk_full_is_an_input_error
from paft.runtime.process import keep_freed_memory, quieten, repeat_exactly
from paft.runtime.run_folder import PATIENCE_S, RunFolder
from paft.selection.search import search
from paft.training.callbacks import PARTS
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
    beside: Mapping[str, BesideRun] = field(default_factory=dict)  # the runs that it is shown beside, by method
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
        chosen = [CHOSEN_BEFORE] if self.config.method.trains and outdated(self.folder.results, self.config.dataset) else []
        return [*self.inputs.warnings, *few, *chosen]


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
    encoder = make_encoder(config, inputs.examples.task, inputs.shots)
    examples = inputs.examples
    shown = [*examples.train, *examples.validation, *examples.test, *examples.unlabelled, *inputs.shots]
    encoder.check(inputs.templates, shown)
    plan = make_plan(config, inputs, encoder, without_weights)
    n_weights = sum(parameter.numel() for parameter in without_weights.parameters())
    advised = (*advice(config, plan, n_weights), *layout_advice(config, inputs))
    return PreparedRun(config, checked.folder, inputs, encoder, plan, checked.beside, advised)


def train(run: PreparedRun, group: str | None = None, waits: bool = False) -> Results | None:
    """Train a prepared run, save what it learnt, score it and report; return the results.

    Before anything is trained, the base model is scored, unless it was, for the run to be shown beside it. That is no part of
    the run's time.

    Args:
        group: the sweep that the run belongs to, for loggers.
        waits: whether to wait for another process that is at work on this run; where that has finished it, None is returned.
    """
    config, folder = run.config, run.folder.path
    started = time.perf_counter()
    reset_peak_memory()
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    recorded = recorded_kernels(folder / "checkpoints", run.folder.digest) if config.method.trains else None
    model, fused = with_recorded(config, device, recorded)
    base = load_base(model, device, config.method.trains, run.encoder.cutoff, fused, sharded)
    asked = time.perf_counter()
    beside = _others(run, lambda: base, model)
    started += time.perf_counter() - asked
    with disk_full_is_an_input_error(folder), run.folder.held(None if waits else PATIENCE_S):
        # Only now, so that a model that cannot be used leaves no folder.
        if waits and _finished(run.folder, config):
            return None
        with run_loggers(config, config.run_name, config.method.name, folder, group) as loggers:
            results, scored = _train_and_score(run, base, loggers, started, recorded)
            results = judged(results, folder, scored.matrix, run.inputs.test, config.method.name, beside)
            _save(run, results, scored)
            log_results(loggers, results, config, folder)
    return results


def _save(run: PreparedRun, results: Results, scored: Scored) -> None:
    """Write the files of a finished run, on the first rank."""
    if ranks.rank() > 0:
        return
    folder, inputs = run.folder.path, run.inputs
    chosen = None if results.selection is None else results.selection.chosen.id
    if inputs.train is not None:
        template = next(template for template in inputs.train.templates if chosen in (None, template.id))
        save_model_card(run.trained_folder, results, template, inputs.train.answer, run.trained_kind)
    trained = first_trained(run.config, inputs, chosen, n=2)
    save_run(folder, scored, results, inputs.test, inputs.examples.test, run.config.method.name, run.encoder, trained)


def _others(run: PreparedRun, base: Callable[[], PreTrainedModel], model: ModelConfig) -> dict[str, ComparedRun]:
    """Return the finished runs that a run is shown beside, by method; the base model is scored if it was not.

    Args:
        base: returns the base model, without an adapter.
        model: how it was loaded.

    Raises InputError if one of the runs is damaged.
    """
    if "base" in run.beside and not _finished(run.beside["base"].folder, run.config):
        _score_base(run.beside["base"].config, base(), model)
    first = {name: load(other.folder.path) for name, other in run.beside.items()} if ranks.rank() == 0 else {}
    return ranks.gather(first)[0]


def _score_base(config: TrainConfig, base: PreTrainedModel, model: ModelConfig) -> None:
    """Score a base model as the run of method=base does, into the folder of that run.

    Of several processes that need it, the first scores it. The others wait, and one of them goes on where the first has died.

    Args:
        config: of the run of method=base.
        base: the base model, which is left with the attention of training, and the peak memory as if nothing had been scored.
        model: how it was loaded.
    """
    started = time.perf_counter()
    run = prepare(config)
    with disk_full_is_an_input_error(run.folder.path), run.folder.held(patience_s=None):
        if _finished(run.folder, config):
            return
        print(f"Scoring the base model: {run.folder.path}", flush=True)
        results, scored = _train_and_score(run, base, [], started, None)
        _save(run, judged(results, run.folder.path, scored.matrix, run.inputs.test, config.method.name), scored)
    switch_attention(base, model, backward=True)
    gc.collect()  # what scoring has recorded (CUDA graphs) makes room for training
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    reset_peak_memory()


def _finished(folder: RunFolder, config: TrainConfig) -> bool:
    """Return whether a run is finished, as the first rank sees it.

    One that is damaged is not, which is said, and one whose texts another version of the metric's function has scored.
    """
    finished = False
    if ranks.rank() == 0 and folder.results.is_file():
        try:
            load(folder.path)
            finished = not outdated(folder.results, config.dataset)
        except InputError as error:
            print(f"BEWARE: {error}", flush=True)
    return ranks.gather(finished)[0]


def _train_and_score(
    run: PreparedRun, base: PreTrainedModel, loggers: Sequence[Logger], started: float, recorded: Kernels | None
) -> tuple[Results, Scored]:
    config, folder, inputs = run.config, run.folder.path, run.inputs
    if ranks.rank() == 0:
        save_pools(folder / "prompts", inputs.pools)
    model: Any = base
    of_base: dict[str, Any] = weights_fingerprint(base)  # before they are trained themselves
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
        fitted = _fit(run, model, pool, loggers, kernels, time.perf_counter() - search_started if selection else 0.0)
        if ranks.rank() == 0:
            _save_weights(run, model, of_base["sample"])
        ranks.barrier()  # scoring reads the saved adapter, on every rank
    evaluator = _evaluator(run, model)
    scored = evaluator.score(folder, inputs.test, inputs.examples.test, scoring_of(config, inputs))
    warnings = run.warnings if fitted is None or not fitted.kernels.changed else [*run.warnings, CHANGED]
    results = Results(
        **dict(summary_of(scored, config.dataset, inputs.test, run.encoder, inputs.examples.test, warnings=warnings)),
        kind="training",
        run=config.run_name,
        extra_measures=measure_more(config.extra_measures, config, inputs, evaluator, folder, ExtraMeasures()),
        training=None if fitted is None else _training_record(fitted, run),
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
    run: PreparedRun, model: Model, pool: PromptPool, loggers: Sequence[Logger], kernels: Kernels, searched_s: float
) -> Fitted:
    """Train the adapter, or all weights, on a pool; the best checkpoint is chosen on validation prompts and examples.

    Args:
        searched_s: seconds that the search for the pool's only prompt took; 0: there was none.
    """
    config, inputs, validation_pool = run.config, run.inputs, run.inputs.validation
    assert validation_pool is not None
    examples, ragged = inputs.examples, packs_ragged(model)
    data = PaftDataModule(examples.train, pool, run.encoder, config, examples.task, ragged, examples.unlabelled)

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
    return fit(model, data, config, run.folder.path, run.folder.digest, validate, loggers, kernels, scoring)


def _training_record(fitted: Fitted, run: PreparedRun) -> TrainingRecord:
    figures, inputs = asdict(fitted), run.inputs
    del figures["earlier_wall_s"]  # the run's wall_s includes it
    taken = fitted.kernels
    kernels = {"attention": taken.attention, "fused": taken.fused, "graphs": figures.pop("graph_shapes")}
    drawn = None
    if run.config.method.name == "paft" and inputs.train is not None:
        drawn = drawn_record(fitted.drawn, PARTS, inputs.train, inputs.examples.task)
    did = acted(run.folder.path, fitted.updates, PARTS)
    return TrainingRecord(**figures | {"kernels": kernels, "drawn": drawn, "acted": did})


def _save_weights(run: PreparedRun, model: Model, base: str | None) -> None:
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
        "dataset": config.dataset.model_dump() | dict(inputs.examples.task.inferred),
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
    """Add extra measures to the results.json of a finished run, and send them to its loggers; return the results.

    Args:
        names: of the measures, as in extra_measures.
        group: the sweep that the run belongs to, for loggers.
    """
    config, folder = run.config, run.folder.path
    adapted = config.method.trains and config.model.lora is not None
    settings = config.model
    if config.method.trains and not adapted:
        settings = settings.model_copy(update={"path": str(run.trained_folder), "revision": None})
    model: Any = _load_to_score(run, settings)
    if adapted:
        trained_on = base_of(read_metadata(folder / "adapter"), config.model)
        model = with_adapter(model, folder / "adapter", trained_on, config.model.path or "the embedded one")
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),
        run_loggers(config, config.run_name, config.method.name, folder, group) as loggers,
    ):
        before = read_results(run.folder.results)
        evaluator = _evaluator(run, model)
        extra = measure_more(names, config, run.inputs, evaluator, folder, before.extra_measures)
        results = before.model_copy(update={"extra_measures": extra})
        _save(run, results, scored_before(folder, before.scoring.model_dump()))
        log_results(loggers, results, config, folder)
    return results


def run_training(
    config: TrainConfig, group: str | None = None, checked: CheckedRun | None = None, waits: bool = False
) -> Results:
    """Prepare a run, print its plan, train it unless it is finished already, and print its table.

    The run of one fixed prompt that it is shown beside is trained first, unless that is finished.

    Args:
        group: the sweep that the run belongs to, for loggers.
        checked: the result of check_run(config); None: it is called here.
        waits: whether to wait for another process that is at work on this run; the base model's, which other runs score, too,
            is waited for in any case.

    Returns the results, also where they were finished already. Raises InputError.
    """
    quieten()
    keep_freed_memory()
    repeat_exactly()
    run = prepare(config, checked)
    print(run.plan.text(run.folder.path, run.advice), flush=True)
    print_beside(config, run.beside)
    print_inputs(config, run.inputs, run.warnings)
    results = None
    if not has_results(run.folder, config.dataset):
        _train_others(run, group)
        results = train(run, group, waits or not config.method.trains)
    if results is None:
        results = _complete(run, group)
        print(f"Finished already: {run.folder.results}", flush=True)
    if ranks.rank() == 0:
        print_run(config.method.name, results, run.folder.results)
    return results


def _train_others(run: PreparedRun, group: str | None) -> None:
    """Train what a run is shown beside, but for the base model, which the run itself scores."""
    for other in run.beside.values():
        if other.config.method.trains and not has_results(other.folder, other.config.dataset):
            run_training(other.config, group, waits=True)
            gc.collect()  # its model is gone before the next one is loaded


def _complete(run: PreparedRun, group: str | None) -> Results:
    """Add to a finished run what it lacks: extra measures and other runs that are asked for now, and its copies in loggers."""
    config = run.config
    results = read_results(run.folder.results)
    missing = [name for name in config.extra_measures if getattr(results.extra_measures, name) is None]
    if missing:
        results = add_measures(run, missing, group)
    if run.beside.keys() - results.beside.keys():
        results = _add_others(run, group)
    if ranks.gather(misses(config, run.folder.path))[0]:  # the first rank may be writing into a logger still
        send_results(config, config.run_name, config.method.name, run.folder, group)
    return results


def _add_others(run: PreparedRun, group: str | None) -> Results:
    """Show a finished run beside other runs, which are made if they were not: its verdict, its page and its copy in W&B."""
    config, folder = run.config, run.folder.path
    _train_others(run, group)
    beside = _others(run, lambda: _load_to_score(run, config.model), config.model)
    with (
        disk_full_is_an_input_error(folder),
        run.folder.held(),
        run_loggers(config, config.run_name, config.method.name, folder, group) as loggers,
    ):
        before = read_results(run.folder.results)
        earlier = {name: load(folder.parent / other.run) for name, other in before.beside.items() if name not in beside}
        scored = scored_before(folder, before.scoring.model_dump())
        beside = dict(sorted((earlier | beside).items()))  # the base model first
        results = judged(before, folder, scored.matrix, run.inputs.test, config.method.name, beside)
        _save(run, results, scored)
        log_results(loggers, results, config, folder)
    return results


def _load_to_score(run: PreparedRun, settings: ModelConfig) -> PreTrainedModel:
    """Load the base model of a finished run, or the whole model that it trained, to score with."""
    config = run.config
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    fused = fused_kind(device, config.trainer.fused)
    return load_base(settings, device, cutoff=run.encoder.cutoff, fused=fused, sharded=sharded)
