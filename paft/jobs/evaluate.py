"""An evaluation, from config to results: check the inputs, load the model, score, report, predict."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paft.config.adapter import find_adapter
from paft.config.schema import EvaluateConfig
from paft.data.encode import Encoder
from paft.data.inputs import EvaluationInputs
from paft.data.render import render
from paft.evaluation.disagreement import answers_of
from paft.evaluation.evaluator import Evaluator, Scored
from paft.evaluation.matrix import read_matrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.predictions import predictions
from paft.evaluation.robustness import robustness
from paft.evaluation.scoring import Scoring
from paft.evaluation.served import Found
from paft.evaluation.served_scoring import ServedEvaluator
from paft.jobs.encoder import make_encoder, own_tokenizer_notes
from paft.jobs.finished import has_results, scored_before
from paft.jobs.planning import print_inputs
from paft.jobs.preflight import CheckedEvaluation, check_evaluation
from paft.jobs.served import asked_of, served_evaluator, served_origin, served_plan
from paft.model.adapter import base_of, check_fits, with_adapter
from paft.model.base import check_quantization, device_of, load_base
from paft.model.fused import fused_kind
from paft.model.gguf import origin
from paft.model.sharding import check_sharding
from paft.reporting.loggers import log_results, misses, run_loggers, send_results
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.reporting.results import BaseModelRecord, ExtraMeasures, Fingerprints, Results, read_results
from paft.reporting.run_files import save_pools, save_run
from paft.reporting.summary import adversarial_prompts, describe_pool, summary_of
from paft.reporting.table import print_run
from paft.reporting.verdict import judged
from paft.runtime import ranks
from paft.runtime.errors import InputError
from paft.runtime.files import disk_full_is_an_input_error, write_atomically
from paft.runtime.process import keep_freed_memory, quieten
from paft.runtime.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to start: everything but the weights is loaded and checked."""

    config: EvaluateConfig
    name: str
    method: str  # base: nothing was trained
    folder: RunFolder
    inputs: EvaluationInputs
    encoder: Encoder | None  # None of a served model, whose server tokenises
    found: Found | None  # what the server of a served model gives
    trained: dict[str, Any]  # the adapter's metadata; empty for a base model, and for an adapter that PEFT or TRL made


def prepare(config: EvaluateConfig, checked: CheckedEvaluation | None = None) -> Evaluation:
    """Check an evaluation and load everything but the weights. Writes nothing; raises InputError.

    Args:
        checked: the result of check_evaluation(config); None: it is called here.
    """
    checked = checked or check_evaluation(config)
    if config.model.api is not None:
        return Evaluation(config, checked.name, checked.method, checked.folder, checked.inputs, None, checked.found, {})
    device = device_of(config.trainer.accelerator)
    check_quantization(config.model, device)
    check_sharding(config.model, config.trainer, device)
    encoder = make_encoder(config, checked.inputs.task, checked.inputs.shots)
    encoder.check(checked.inputs.templates, [*checked.inputs.examples, *checked.inputs.shots])
    _check_tokenizer(config, checked.trained, encoder)
    if config.adapter is not None:
        check_fits(find_adapter(config.adapter), config.model)
    inputs = replace(checked.inputs, notes=(*checked.inputs.notes, *own_tokenizer_notes(config)))
    return Evaluation(config, checked.name, checked.method, checked.folder, inputs, encoder, None, checked.trained)


def _check_tokenizer(config: EvaluateConfig, trained: Mapping[str, Any], encoder: Encoder) -> None:
    """Raise InputError if the tokenizer or the chat template is another one than in training."""
    if trained.get("tokenizer") not in (None, encoder.fingerprint):
        raise InputError(
            f"adapter={config.adapter}: it was trained with another tokenizer or chat template than "
            f"{config.model.path or 'the embedded model'} has now; give the model as it was, with model.path=..."
        )


def evaluate(evaluation: Evaluation, group: str | None = None) -> Results:
    """Run a prepared evaluation: load the model, score, report and predict; return the results.

    Args:
        group: the sweep that the evaluation belongs to, for loggers.
    """
    config, folder = evaluation.config, evaluation.folder.path
    started = time.perf_counter()
    reset_peak_memory()
    model = None if evaluation.encoder is None else _load(evaluation, evaluation.encoder)
    with (
        disk_full_is_an_input_error(folder),
        evaluation.folder.held(),  # only now, so that a model that cannot be used leaves no folder
        run_loggers(config, evaluation.name, "evaluation", folder, group) as loggers,
    ):
        results = _score_and_report(evaluation, model, started)
        log_results(loggers, results, config, folder)
    return results


def _load(evaluation: Evaluation, encoder: Encoder) -> Any:
    """Return the base model with its adapter, if there is one; raises InputError if they do not belong together."""
    config, adapter = evaluation.config, evaluation.config.adapter
    device, sharded = device_of(config.trainer.accelerator), config.trainer.strategy == "fsdp"
    fused = fused_kind(device, config.trainer.fused)
    base = load_base(config.model, device, cutoff=encoder.cutoff, fused=fused, sharded=sharded)
    if adapter is None:
        return base
    trained_on = base_of(evaluation.trained, config.model)
    return with_adapter(base, find_adapter(adapter).folder, trained_on, config.model.path or "the embedded one")


def _score_and_report(evaluation: Evaluation, model: Any, started: float) -> Results:
    config, folder, inputs = evaluation.config, evaluation.folder.path, evaluation.inputs
    if ranks.rank() == 0:
        save_pools(folder / "prompts", inputs.pools)
    evaluator = _evaluator(evaluation, model)
    several_lines = evaluation.trained.get("several_lines")
    scoring = Scoring(metric_of(config.dataset), config.scoring, config.normalise, config.max_new_tokens, several_lines)
    scored = evaluator.score(folder, inputs.pool, inputs.examples, scoring)
    results = _results(evaluation, evaluator, scored, _extra(evaluation, evaluator, scoring), started)
    if inputs.rows is None:
        results = judged(results, folder, scored.matrix, inputs.pool, evaluation.method)
    else:
        _predict(evaluation, scored.path)
    _save(evaluation, scored, results)
    return results


def _save(evaluation: Evaluation, scored: Scored, results: Results) -> None:
    """Write the files of a finished evaluation, on the first rank."""
    inputs, encoder = evaluation.inputs, evaluation.encoder
    prompt = asked_of(evaluation.config, inputs).prompt if evaluation.config.model.api is not None else render
    if ranks.rank() == 0:
        folder = evaluation.folder.path
        save_run(folder, scored, results, inputs.pool, inputs.examples, evaluation.method, encoder, prompt=prompt)


def _with_threshold(evaluation: Evaluation, results: Results) -> Results:
    """Return finished results with the Top of the threshold that is asked for, written again; nothing is scored again."""
    threshold = evaluation.config.dataset.threshold
    differs = results.robustness is not None and results.threshold != threshold
    if not ranks.gather(differs)[0]:  # the first rank decides for all, because another process may write right now
        return results
    scored = scored_before(evaluation.folder.path, results.scoring.model_dump())
    dataset = results.config["dataset"] | {"threshold": threshold}
    changed = {
        "robustness": robustness(scored.matrix, threshold),
        "parts": {name: robustness(scored.matrix.part(name), threshold) for name in results.parts},
        "threshold": threshold,
        "config": results.config | {"dataset": dataset},
    }
    results = results.model_copy(update=changed)
    with disk_full_is_an_input_error(evaluation.folder.path), evaluation.folder.held():
        _save(evaluation, scored, results)
    return results


def _evaluator(evaluation: Evaluation, model: Any) -> Evaluator | ServedEvaluator:
    """Return what scores a model that is loaded here, or a served one.

    Args:
        model: None of a served model.
    """
    config, identity = evaluation.config, evaluation.folder.identity
    if evaluation.encoder is None:
        return served_evaluator(config, evaluation.inputs, evaluation.found, evaluation.folder)
    adapter = None if config.adapter is None else find_adapter(config.adapter).folder
    return Evaluator(model, evaluation.encoder, config.model, adapter, identity, config.trainer)


def _origin(evaluation: Evaluation, evaluator: Evaluator | ServedEvaluator, scored: Scored) -> dict[str, Any]:
    """Return what results say of the weights and of what computed with them, by their keys."""
    if isinstance(evaluator, ServedEvaluator):
        return served_origin(evaluator, scored)
    device, identity = evaluator.model.device, evaluator.identity
    base = BaseModelRecord(**identity["base"], dequantised_from=origin(evaluation.config.model.path))
    dtype = identity["dtype"].removeprefix("torch.")
    return {**provenance(device), "dtype": dtype, "peak_memory_bytes": peak_memory_bytes(device), "base_model": base}


def _extra(evaluation: Evaluation, evaluator: Evaluator | ServedEvaluator, scoring: Scoring) -> ExtraMeasures:
    """Score the adversarial prompts, if the evaluation has any."""
    inputs = evaluation.inputs
    if inputs.adversarial is None:
        return ExtraMeasures()
    folder, pool = evaluation.folder.path, inputs.adversarial
    scored = evaluator.score(folder, pool, inputs.examples, scoring, name="adversarial")
    where = _origin(evaluation, evaluator, scored)
    adversarial = adversarial_prompts(scored.matrix, pool, scored.settings, where["git"], where["device"])
    return ExtraMeasures(adversarial=adversarial)


def _results(
    evaluation: Evaluation, evaluator: Evaluator | ServedEvaluator, scored: Scored, extra: ExtraMeasures, started: float
) -> Results:
    config, inputs = evaluation.config, evaluation.inputs
    where = _origin(evaluation, evaluator, scored)
    labelled = inputs.rows is None
    summary = summary_of(scored, config.dataset, inputs.pool, evaluation.encoder, inputs.examples, labelled, inputs.warnings)
    return Results(
        **dict(summary),
        kind="evaluation",
        run=evaluation.name,
        extra_measures=extra,
        adapter=config.adapter,
        trained_by=evaluation.trained.get("run"),
        test_prompts_seen=inputs.seen,
        test_rows_left_out=inputs.left_out,
        wall_s=round(time.perf_counter() - started, 1),
        fingerprints=Fingerprints(
            data=evaluation.folder.identity["data"],
            pools={split: describe_pool(pool) for split, pool in inputs.pools.items()},
            base_model=where.pop("base_model"),
            adapter=evaluation.folder.identity["adapter"],
        ),
        **where,
        config=config.model_dump(),
    )


def _predict(evaluation: Evaluation, path: Path) -> None:
    """Write the predictions, one line of JSON for each row, into the run's folder and to config.output."""
    config, inputs = evaluation.config, evaluation.inputs
    if ranks.rank() > 0:
        return
    answers = answers_of(read_matrix(path), path, metric_of(config.dataset))
    lines = predictions(answers, inputs.task, inputs.rows or [])
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(evaluation.folder.path / "predictions.jsonl", text)  # another evaluation may overwrite config.output
    write_atomically(Path(str(config.output)), text)


def run_evaluation(config: EvaluateConfig, group: str | None = None, checked: CheckedEvaluation | None = None) -> Results:
    """Prepare an evaluation, print what it will do, run it unless it is finished already, and print its tables.

    Args:
        group: the sweep that the evaluation belongs to, for loggers.
        checked: the result of check_evaluation(config); None: it is called here.

    Returns the results, also where they were finished already. Raises InputError.
    """
    quieten()
    keep_freed_memory()
    evaluation = prepare(config, checked)
    inputs, folder = evaluation.inputs, evaluation.folder
    n_prompts, n_examples = len(inputs.pool.templates), len(inputs.examples)
    print(f"Evaluation {folder.path}")
    print(
        f"  test      {n_examples:,} examples under each of {n_prompts} prompts, {n_examples * n_prompts:,} renderings",
        flush=True,
    )
    if evaluation.found is not None:
        print("\n".join(served_plan(config, inputs, evaluation.found)), flush=True)
    print_inputs(config, inputs, inputs.warnings)
    if has_results(folder, config.dataset):
        results = _with_threshold(evaluation, read_results(folder.results))
        if config.output is not None:
            _predict(evaluation, folder.path / "matrix.parquet")
        if ranks.gather(misses(config, folder.path))[0]:
            send_results(config, evaluation.name, "evaluation", folder, group)
        print(f"Finished already: {folder.results}", flush=True)
    else:
        results = evaluate(evaluation, group)
    if ranks.rank() == 0:
        print_run(evaluation.method, results, folder.results)
    return results
