"""One training run: check the inputs, plan, train, score, and write the files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from paft.config.schema import TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.inputs import Inputs
from paft.evaluation.evaluator import Evaluator, Scored
from paft.evaluation.robustness import robustness
from paft.evaluation.scoring import answering_by, generates, score
from paft.jobs.encoder import make_encoder
from paft.jobs.extra_measures import measure_more, scoring_of
from paft.jobs.finished import CHOSEN_BEFORE, outdated
from paft.jobs.planning import advice, idle_sampler, layout_advice, make_plan
from paft.jobs.preflight import BesideRun, CheckedRun, check_run
from paft.model.adapter import save_adapter, save_model
from paft.model.attention import packs_ragged
from paft.model.base import Model, check_quantization, device_of, make_trainable, skeleton, weights_fingerprint, without_adapter
from paft.model.gguf import origin
from paft.model.identity import revision_of
from paft.model.sharding import check_sharding
from paft.prompts import PromptPool
from paft.reporting.drawn import drawn_record
from paft.reporting.logged import acted
from paft.reporting.model_card import Kind, save_model_card
from paft.reporting.plan import Plan
from paft.reporting.provenance import peak_memory_bytes, provenance
from paft.reporting.renderings import first_trained
from paft.reporting.results import BaseModelRecord, ExtraMeasures, Fingerprints, Results, SelectionRecord, TrainingRecord
from paft.reporting.run_files import save_pools, save_run
from paft.reporting.summary import describe_pool, summary_of
from paft.reporting.warnings import few_templates
from paft.runtime import ranks
from paft.runtime.run_folder import RunFolder
from paft.selection.search import search
from paft.training.callbacks import PARTS
from paft.training.fit import Fitted, fit
from paft.training.forecast import ScoringWork
from paft.training.kernels import CHANGED, Kernels, kernels_of


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
        few = few_templates(self.plan.templates_seen, self.config.K) if self.config.method.name == "paft" else []
        chosen = [CHOSEN_BEFORE] if self.config.method.trains and outdated(self.folder.results, self.config.dataset) else []
        return [*self.inputs.warnings, *few, *idle_sampler(self.config, self.inputs), *chosen]


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


def train_and_score(
    run: PreparedRun, base: PreTrainedModel, loggers: Sequence[Logger], started: float, recorded: Kernels | None
) -> tuple[Results, Scored]:
    """Train a run on its loaded base model, save what it learnt, score it; return the results and the scored test prompts.

    Args:
        loggers: get the figures of training.
        started: when the run began, by time.perf_counter.
        recorded: the kernels of an earlier part of the run, which is resumed; None: there is none.
    """
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
        searched_s = time.perf_counter() - search_started if selection else 0.0
        fitted = _fit(run, model, pool, loggers, kernels, searched_s, started)
        if ranks.rank() == 0:
            _save_weights(run, model, of_base["sample"])
        ranks.barrier()  # scoring reads the saved adapter, on every rank
    evaluator = evaluator_of(run, model)
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
    run: PreparedRun,
    model: Model,
    pool: PromptPool,
    loggers: Sequence[Logger],
    kernels: Kernels,
    searched_s: float,
    started: float,
) -> Fitted:
    """Train the adapter, or all weights, on a pool; the best checkpoint is chosen on validation prompts and examples.

    Args:
        searched_s: seconds that the search for the pool's only prompt took; 0: there was none.
        started: when this process began the run, by time.perf_counter.
    """
    config, inputs, validation_pool = run.config, run.inputs, run.inputs.validation
    assert validation_pool is not None
    examples, ragged = inputs.examples, packs_ragged(model)
    data = PaftDataModule(examples.train, pool, run.encoder, config, examples.task, ragged, examples.unlabelled)

    def validate(model: Model) -> dict[str, float]:
        rows = inputs.examples.validation[: config.validation.examples]
        answering = answering_by(model, run.encoder, validation_pool, rows, scoring_of(config, inputs))
        budget = config.trainer.micro_batch_tokens
        summary = robustness(score(answering, run.encoder, validation_pool, rows, batch_tokens=budget), None)
        return {"mean": summary.mean, "std": summary.std, "worst": summary.min}

    scoring = ScoringWork(
        validation_renderings=len(validation_pool.templates) * run.plan.validation_examples,
        test_renderings=run.plan.test_renderings,
        generated=generates(scoring_of(config, inputs)),
        searched_s=searched_s,
    )
    return fit(model, data, config, run.folder.path, run.folder.digest, validate, loggers, kernels, scoring, started)


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


def evaluator_of(run: PreparedRun, model: Any) -> Evaluator:
    """Return what scores a run's model on prompts and rows as the run's settings say."""
    config, folder = run.config, run.folder
    return Evaluator(
        model,
        run.encoder,
        config.model,
        folder.path / "adapter" if config.method.trains and config.model.lora is not None else None,
        folder.identity,
        config.trainer,
    )


def save_files(run: PreparedRun, results: Results, scored: Scored) -> None:
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
