"""lm-evaluation-harness's passes over a scoring workload, at the fastest of its settings: what ours are measured against."""

import gc
import importlib.util
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from experiments.benchmarks.measuring import launches_of, memory, started_trace, synchronise
from experiments.benchmarks.scores import Pass, Workload, with_adapter
from paft.model.base import dtype_of
from paft.model.converted import loadable
from paft.reporting.provenance import reset_peak_memory
from paft.runtime.memory import is_out_of_memory

_model: dict[str, Any] = {}  # of this process: the model, by what it was loaded for


@dataclass(frozen=True)
class Harness:
    """The harness's settings."""

    attention: str
    batch_size: int


def _their_model(work: Workload, adapter: bool, attention: str) -> Any:
    """Load the harness's model as the harness would, once."""
    key = f"{work.model.dtype} {adapter} {attention}"
    if key not in _model:
        _model.clear()
        _free()
        path = loadable(work.model.path, work.model.accept_license)
        kind: Any = AutoModelForCausalLM
        dtype = dtype_of(work.model, work.device)
        base = kind.from_pretrained(path, revision=work.model.revision, dtype=dtype, attn_implementation=attention)
        base = base.to(work.device)
        _model[key] = (with_adapter(base, work.model) if adapter else base).eval()
    return _model[key]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def run_theirs(work: Workload, adapter: bool, harness: Harness, traced: bool = False) -> Pass:
    """Score with the harness."""
    model = _their_model(work, adapter, harness.attention)
    tasks = [_task(template, work) for template in range(len(work.pool.templates))]
    lm = HFLM(
        pretrained=model, tokenizer=work.encoder.tokenizer, batch_size=harness.batch_size, max_length=1024,
        device=str(work.device),
    )  # fmt: skip
    trace = started_trace(work.device, traced)
    started = time.perf_counter()
    results = simple_evaluate(lm, tasks=tasks, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    synchronise(work.device)
    seconds = time.perf_counter() - started
    log_probs = []
    for task in tasks:
        samples = sorted(results["samples"][task["task"]], key=lambda sample: sample["doc_id"])
        log_probs.append([[float(response[0][0]) for response in sample["resps"]] for sample in samples])
    found = scores = np.array(log_probs)
    if work.pool.options == "hidden":
        scores = found / np.array([[len(answer.encode()) for answer in e.choices] for e in work.examples])
    return Pass(seconds, scores.argmax(-1), found, memory(work.device), launches_of(trace))


def _probe_theirs(work: Workload, adapter: bool, harness: Harness) -> float | None:
    """Return the harness's cells per second; None if it runs out of memory."""
    try:
        run_theirs(work.some(1, harness.batch_size), adapter, harness)  # warms up
        return work.n_cells / run_theirs(work, adapter, harness).seconds
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        _free()
        reset_peak_memory()  # the peak is that of the settings that are chosen


def _task(template: int, work: Workload) -> dict[str, Any]:
    """Return a template as a task of the harness, whose boundary between context and answer is ours."""
    docs = []
    for example in work.examples:
        prompt = work.pool.templates[template].render(example.fields)
        context = prompt.rstrip()
        space = prompt[len(context) :] or " "
        choices = [space + answer for answer in work.encoder.answers(example)]
        docs.append({"context": context, "choices": choices, "gold": example.gold})
    return {
        "task": f"template_{template:02}",
        "custom_dataset": lambda **_: DatasetDict({"test": Dataset.from_list(docs)}),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda doc: doc["context"],
        "doc_to_choice": lambda doc: doc["choices"],
        "doc_to_target": lambda doc: doc["gold"],
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }


def probe(process: ProcessPoolExecutor, work: Workload, adapter: bool) -> Harness:
    """Return the attention and the batch size with which the harness is fastest on a part of the workload."""
    on_gpu = work.device.type == "cuda"
    flash = on_gpu and importlib.util.find_spec("flash_attn") is not None
    part = work.some(4, len(work.examples)) if on_gpu else work.some(4, 20)
    speeds: dict[Harness, float] = {}
    for attention in ("sdpa", "flash_attention_2") if flash else ("sdpa",) if on_gpu else ("sdpa", "eager"):
        for batch_size in (32, 64, 128, 256) if on_gpu else (8, 16):
            harness = Harness(attention, batch_size)
            speed = process.submit(_probe_theirs, part, adapter, harness).result()
            print(f"  probe: {harness}: {'out of memory' if speed is None else f'{speed:.1f} cells/s'}", flush=True)
            if speed is None:
                break
            speeds[harness] = speed
    return max(speeds, key=lambda key: speeds[key])
