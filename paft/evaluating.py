"""An evaluation from config to results: check, load, score, report, predict."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paft import ranks
from paft.checked import CheckedEvaluation, check_evaluation
from paft.config import EvaluateConfig
from paft.data.encode import Encoder
from paft.data.load import TestInputs, answer_kind
from paft.evaluation.predictions import predictions
from paft.evaluation.robustness import con
from paft.measuring import Measuring
from paft.model.adapter import base_of, with_adapter
from paft.model.base import check_quantization, device_of, load_base, load_config, load_tokenizer, window_of
from paft.model.cpu import keep_freed_memory
from paft.quiet import quieten
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.reporting.results import describe_pools, save_pools, summarise, write_results
from paft.reporting.table import print_run
from paft.reporting.wandb import log_results, misses, send_results, wandb_run
from paft.runs import RunFolder, disk_full_is_an_input_error, write_atomically


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to start: everything that needs no model is loaded and checked."""

    config: EvaluateConfig
    name: str
    method: str  # base: nothing was trained
    folder: RunFolder
    inputs: TestInputs
    encoder: Encoder
    trained: dict[str, Any]  # the adapter's metadata; empty for a base model


def prepare(config: EvaluateConfig, checked: CheckedEvaluation | None = None) -> Evaluation:
    """Check the rest of an evaluation; raises InputError. Writes nothing.

    Args:
        checked: what check_evaluation(config) says, for a caller that asked before it imported this.
    """
    checked = checked or check_evaluation(config)
    inputs = checked.inputs
    check_quantization(config.model, device_of(config.accelerator))
    architecture = load_config(config.model)
    encoder = Encoder(
        load_tokenizer(config.model),
        answer_kind(config.dataset, inputs.task),
        min(config.cutoff, window_of(architecture, config.cutoff)),
        config.model.chat_template,
        config.model.system_prompt,
    )
    encoder.check_cutoff(inputs.examples)
    return Evaluation(config, checked.name, checked.method, checked.folder, inputs, encoder, checked.trained)


def evaluate(evaluation: Evaluation, group: str | None = None) -> None:
    """Score, report and predict.

    Args:
        group: the sweep that the evaluation belongs to, for W&B.
    """
    config, folder = evaluation.config, evaluation.folder.path
    started = time.perf_counter()
    reset_peak_memory()
    model = _load(evaluation)
    with (
        disk_full_is_an_input_error(folder),
        evaluation.folder.held(),  # created now that the model has shown that it can be used
        wandb_run(config, evaluation.name, "evaluation", folder, group) as logger,
    ):
        results = _score_and_report(evaluation, model, started)
        if logger is not None:
            log_results(logger, results, folder)


def _load(evaluation: Evaluation) -> Any:
    """Load the base model and its adapter; raises InputError if they do not belong together."""
    config, adapter = evaluation.config, evaluation.config.adapter
    base = load_base(config.model, device_of(config.accelerator))
    if adapter is None:
        return base
    return with_adapter(base, Path(adapter), base_of(evaluation.trained, config.model), config.model.path or "the embedded one")


def _score_and_report(evaluation: Evaluation, model: Any, started: float) -> dict[str, Any]:
    config, folder, inputs = evaluation.config, evaluation.folder.path, evaluation.inputs
    dataset = config.dataset
    if ranks.rank() == 0:
        save_pools(folder / "prompts", inputs.pools)
    measure = Measuring(
        model,
        evaluation.encoder,
        config.model,
        None if config.adapter is None else Path(config.adapter),
        evaluation.folder.identity,
        config.batch_tokens,
        config.progress,
    )
    how = (dataset.metric, config.scoring, config.normalise, config.max_new_tokens)
    measured = measure(folder, inputs.pool, inputs.examples, *how)
    adversarial = None
    if inputs.adversarial is not None:
        adversarial = measure(folder, inputs.adversarial, inputs.examples, *how, name="adversarial").matrix
    results = {
        "run": evaluation.name,
        **summarise(measured.matrix, dataset.threshold),
        "con": None if adversarial is None else asdict(con(adversarial)),
        "how": measured.how,
        "adapter": config.adapter,
        "trained": evaluation.trained.get("run"),
        "wall_s": round(time.perf_counter() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(model.device),
        "fingerprints": {
            "data": evaluation.folder.identity["data"],
            "pools": describe_pools(inputs.pools),
            "base_model": measure.identity["base"],
            "adapter": measure.identity["adapter"],
        },
        **provenance(model.device),
        "dtype": measure.identity["dtype"].removeprefix("torch."),
        "config": config.model_dump(),
    }
    if inputs.rows is not None:  # there are no labels: nothing is right or wrong
        _predict(evaluation, measured.path)
        results |= {"robustness": None, "uncertainty": None, "parts": {}, "con": None, "chance": None}
        results["consensus"] = None if results["consensus"] is None else results["consensus"] | {"majority": None}
        if ranks.rank() == 0:
            write_atomically(evaluation.folder.results, json.dumps(results, indent=2) + "\n")
    elif ranks.rank() == 0:
        write_results(folder, measured, results, inputs.pool, inputs.examples, evaluation.method)
    return results


def _predict(evaluation: Evaluation, matrix: Path) -> None:
    """Write a line of JSON for each row: the row and what most prompts predict."""
    config, inputs = evaluation.config, evaluation.inputs
    if ranks.rank() > 0:
        return
    lines = predictions(matrix, inputs.task, inputs.rows or [], config.dataset.metric)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(evaluation.folder.path / "predictions.jsonl", text)  # another adapter may be told to use the same output
    write_atomically(Path(str(config.output)), text)


def run_evaluation(config: EvaluateConfig, group: str | None = None, checked: CheckedEvaluation | None = None) -> Evaluation:
    """Prepare an evaluation, say what it will do, do it unless it is finished already, and print its tables."""
    quieten()
    keep_freed_memory()
    evaluation = prepare(config, checked)
    inputs = evaluation.inputs
    n_prompts, n_examples = len(inputs.pool.templates), len(inputs.examples)
    print(f"Evaluation {evaluation.folder.path}")
    print(
        f"  test      {n_examples:,} examples under each of {n_prompts} prompts, {n_examples * n_prompts:,} renderings",
        flush=True,
    )
    for split, pool in inputs.pools.items():
        for note in pool.notes:
            print(f"  {split} prompts: {note}", flush=True)
    if evaluation.folder.results.is_file():
        if config.output is not None:
            _predict(evaluation, evaluation.folder.path / "matrix.parquet")
        if misses(config, evaluation.folder.path):
            send_results(config, evaluation.name, "evaluation", evaluation.folder, group)
        print(f"Finished already: {evaluation.folder.results}", flush=True)
    else:
        evaluate(evaluation, group)
    if ranks.rank() == 0:
        print_run(evaluation.method, json.loads(evaluation.folder.results.read_text()), evaluation.folder.results)
    return evaluation
