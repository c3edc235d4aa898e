"""Scoring speed: our engine beside lm-evaluation-harness, in turn on this machine.

    python -m experiments.benchmarks.eval_speed --data DIR [--report experiments/results/eval_speed]
    python -m experiments.benchmarks.eval_speed --data DIR --accelerator cuda --model 135m --examples 250

The same model, precision, templates and examples; the harness gets all templates in one `simple_evaluate`, at the fastest of
its settings that a probe finds (batch size, attention). Each side has processes of its own, set up as it sets itself up; they
take turns, round by round, and the ratio is the median over rounds. On a GPU each side first scores the whole workload once, so
that first use (kernels, graphs) is not counted but said. Without an adapter and with one (unmerged in the harness, whose own
way that is; merged here, its time apart). Predictions are compared in the benchmark's precision, log-probabilities in fp32.
Needs `pip install lm-eval==0.4.13`.
"""

import argparse
import gc
import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from experiments.benchmarks.measuring import Trace, memory, multiply_rate, synchronise
from experiments.benchmarks.models import add_model_arguments, command_of, label_of, linear_layers, overrides_of, weights_of
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_evaluation, compose_training
from paft.config.schema import ModelConfig
from paft.data.encode import Encoder
from paft.data.rows import load_examples
from paft.data.tasks.base import Example
from paft.evaluation.cells import encode, windows
from paft.evaluation.likelihood import Likelihood, TokenCount
from paft.evaluation.merging import merge_within_tolerance
from paft.evaluation.metrics import Metric
from paft.evaluation.scoring import Scoring, answering_by, score
from paft.evaluation.store import MatrixStore, read_cells
from paft.jobs.encoder import make_encoder
from paft.model.base import add_lora, device_of, dtype_of, load_base
from paft.model.converted import loadable
from paft.prompts import PromptPool, find_pool
from paft.reporting.page import bullets, number, table, write, write_json
from paft.reporting.provenance import provenance, reset_peak_memory
from paft.runtime.memory import is_out_of_memory
from paft.runtime.process import keep_freed_memory

MODULE = "experiments.benchmarks.eval_speed"
# name -> overrides of conf/train.yaml, templates, examples
WORKLOADS = {
    "PIQA, letters": (["dataset=piqa"], 20, 100),
    "PIQA, texts": (["dataset=piqa", "dataset.answer=text", "dataset.options=hidden"], 20, 100),
    "RACE-middle, letters": (["dataset=race_middle"], 10, 60),
}


@dataclass(frozen=True)
class Workload:
    """Prompts x examples, for both sides, and the model that scores them."""

    name: str
    pool: PromptPool
    examples: tuple[Example, ...]
    encoder: Encoder
    model: ModelConfig
    device: torch.device
    batch_tokens: int

    def some(self, prompts: int, examples: int) -> "Workload":
        """Return a smaller one."""
        return replace(self, pool=self.pool.head(prompts), examples=self.examples[:examples])

    def in_dtype(self, dtype: Any) -> "Workload":
        """Return it for a model of another precision."""
        return replace(self, model=self.model.model_copy(update={"dtype": dtype}))

    @property
    def n_cells(self) -> int:
        """Renderings."""
        return len(self.pool.templates) * len(self.examples)


def load(name: str, data: str, settings: list[str], n: int | None, batch_tokens: int | None) -> Workload:
    """Load a workload; the examples are the first rows of the test split in the file's order, so that articles come whole.

    Args:
        settings: overrides that choose model and device.
        n: examples; None: as many as WORKLOADS says.
        batch_tokens: of ours; None: as an evaluation has it.
    """
    overrides, prompts, usual = WORKLOADS[name]
    config = compose_training([*overrides, *settings])
    dataset = config.dataset
    examples = load_examples(dataset, data, 1, 10**9)
    in_order = sorted(examples.test, key=lambda e: int(e.id.rsplit("-", 1)[1]))[: n or usual]
    task = examples.task

    def pool(split: str) -> PromptPool:
        return find_pool(None, task.pools, split, task.form(dataset.answer, dataset.options), task.aliases)

    train, validation = pool("train"), pool("validation")  # with the options hidden neither has twenty
    both = replace(train, templates=(*train.templates, *validation.templates))
    if batch_tokens is None:
        batch_tokens = compose_evaluation([*overrides, "model=smollm2_135m"]).trainer.micro_batch_tokens
    device = device_of(config.trainer.accelerator)
    return Workload(name, both.head(prompts), tuple(in_order), make_encoder(config, task), config.model, device, batch_tokens)


@dataclass(frozen=True)
class Pass:
    """One side's pass over a workload."""

    seconds: float
    predicted: np.ndarray  # (P, E)
    log_probs: np.ndarray | None  # (P, E, C) of each choice; ours only where they are asked for
    memory: dict[str, float]  # GiB, by kind, of the process until now
    launches: int | None = None  # of kernels and graphs, where traced
    work: TokenCount | None = None  # what ours computed


@contextmanager
def fresh_process(huge_pages: bool) -> Iterator[ProcessPoolExecutor]:
    """Start a process for one side, with huge pages for tensors as paft has them, or without, as other programs run."""
    os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(huge_pages))
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        process.submit(_begin, huge_pages).result()
        yield process


def _begin(ours: bool) -> None:
    logging.disable(logging.WARNING)
    if ours:
        keep_freed_memory()  # as evaluate.py does


_model: dict[str, Any] = {}  # of a side's process: its model, by what it was loaded for


def _with_adapter(base: Any, config: ModelConfig) -> Any:
    """Add an adapter of random weights, as large as training makes them."""
    model = add_lora(base, config, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.01).to(parameter)
    return model


def _load_ours(work: Workload, adapter: bool) -> dict[str, Any] | None:
    """Load our model; return whether its adapter was merged, and how long that took."""
    reset_peak_memory()
    _model["ours"] = model = load_base(work.model, work.device, cutoff=work.encoder.cutoff)
    if not adapter:
        return None
    _model["ours"] = model = _with_adapter(model, work.model)
    started = time.perf_counter()
    merged = merge_within_tolerance(model, work.encoder, work.pool, work.examples, work.batch_tokens)
    return {"merged": merged, "seconds": round(time.perf_counter() - started, 2)}


def _run_ours(work: Workload, traced: bool = False) -> Pass:
    """Score with our engine."""
    answering = answering_by(_model["ours"], work.encoder, work.pool, work.examples, Scoring(Metric("choice")), graphs=True)
    assert isinstance(answering, Likelihood)
    trace = _started(work.device, traced)
    started = time.perf_counter()
    matrix = score(answering, work.encoder, work.pool, work.examples, batch_tokens=work.batch_tokens)
    synchronise(work.device)
    seconds = time.perf_counter() - started
    return Pass(seconds, matrix.predicted, None, memory(work.device), _launches(trace), answering.work)


def _our_log_probs(work: Workload) -> np.ndarray:
    """Return the log-probability of each choice (P, E, C) by our engine."""
    answering = answering_by(_model["ours"], work.encoder, work.pool, work.examples, Scoring(Metric("choice")), graphs=True)
    with tempfile.TemporaryDirectory() as folder:
        store = MatrixStore(Path(folder), {})
        score(answering, work.encoder, work.pool, work.examples, batch_tokens=work.batch_tokens, store=store)
        cells = read_cells(store.path, ["prompt", "example", "log_probs"]).to_pylist()
    cells.sort(key=lambda cell: (cell["prompt"], cell["example"]))
    return np.array([cell["log_probs"] for cell in cells]).reshape(len(work.pool.templates), len(work.examples), -1)


def _started(device: torch.device, traced: bool) -> Trace | None:
    trace = Trace(device) if traced else None
    if trace is not None:
        trace.start()
    return trace


def _launches(trace: Trace | None) -> int | None:
    if trace is None:
        return None
    trace.stop()
    return trace.launches


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
        _model[key] = (_with_adapter(base, work.model) if adapter else base).eval()
    return _model[key]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _run_theirs(work: Workload, adapter: bool, harness: Harness, traced: bool = False) -> Pass:
    """Score with the harness."""
    model = _their_model(work, adapter, harness.attention)
    tasks = [_task(template, work) for template in range(len(work.pool.templates))]
    lm = HFLM(
        pretrained=model, tokenizer=work.encoder.tokenizer, batch_size=harness.batch_size, max_length=1024,
        device=str(work.device),
    )  # fmt: skip
    trace = _started(work.device, traced)
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
    return Pass(seconds, scores.argmax(-1), found, memory(work.device), _launches(trace))


def _probe_theirs(work: Workload, adapter: bool, harness: Harness) -> float | None:
    """Return the harness's cells per second; None if it runs out of memory."""
    try:
        _run_theirs(work.some(1, harness.batch_size), adapter, harness)  # warms up
        return work.n_cells / _run_theirs(work, adapter, harness).seconds
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
    from datasets import Dataset, DatasetDict

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


def floor_tokens(work: Workload) -> int:
    """Count the distinct prefixes of the stream: the tokens that any engine must compute."""
    rows: list[list[int]] = []
    for window in windows(work.pool, work.examples):
        for cell in encode(work.encoder, work.pool, work.examples, window):
            rows += [[*cell.encoded.context, *continuation[:-1]] for continuation in cell.encoded.continuations]
    rows.sort()
    total = len(rows[0])
    for before, row in pairwise(rows):
        shared = next((i for i, (a, b) in enumerate(zip(before, row, strict=False)) if a != b), min(len(before), len(row)))
        total += len(row) - shared
    return total


def measure(work: Workload, adapter: bool, rounds: int) -> dict[str, Any]:
    """Run both sides in turn, each in a fresh process."""
    print(f"{work.name}, {'with' if adapter else 'without'} adapter", flush=True)
    work = work.some(len(work.pool.templates) // 2, len(work.examples)) if adapter else work  # half says as much
    with fresh_process(huge_pages=True) as ours, fresh_process(huge_pages=False) as theirs:
        return _measure(ours, theirs, work, adapter, rounds)


def _measure(
    ours: ProcessPoolExecutor, theirs: ProcessPoolExecutor, work: Workload, adapter: bool, rounds: int
) -> dict[str, Any]:
    def our_pass(some: Workload, traced: bool = False) -> Pass:
        return ours.submit(_run_ours, some, traced).result()

    def their_pass(some: Workload, with_: Harness, traced: bool = False) -> Pass:
        return theirs.submit(_run_theirs, some, adapter, with_, traced).result()

    harness = probe(theirs, work, adapter)
    merging = ours.submit(_load_ours, work, adapter).result()
    part = work.some(4, 20)
    alike = their_pass(part, harness).predicted == their_pass(part, replace(harness, batch_size=1)).predicted
    first = {"ours": our_pass(work), "theirs": their_pass(work, harness)} if work.device.type == "cuda" else {}
    our_pass(part)
    passes = []
    for _ in range(rounds):
        passes.append((our_pass(work), their_pass(work, harness)))
        o, t = passes[-1]
        same = float((o.predicted == t.predicted).mean())
        print(f"  ours {o.seconds:.1f} s, theirs {t.seconds:.1f} s, same predictions {100 * same:.2f}%", flush=True)
    our_s, their_s = [o.seconds for o, _ in passes], [t.seconds for _, t in passes]
    last, their_last = passes[-1]
    launches = [our_pass(part, traced=True).launches, their_pass(part, harness, traced=True).launches]
    done, floor, layers = last.work, floor_tokens(work), linear_layers(work.model)
    assert done is not None
    dtype = dtype_of(work.model, work.device)
    rate = ours.submit(multiply_rate, layers, work.batch_tokens, work.device, dtype).result()
    return {
        "workload": work.name,
        "adapter": adapter,
        "cells": work.n_cells,
        "batch tokens": work.batch_tokens,
        "harness batch size": harness.batch_size,
        "harness attention": harness.attention,
        "our seconds": our_s,
        "their seconds": their_s,
        "first pass, seconds": {side: each.seconds for side, each in first.items()},
        "ratio": median(t / o for o, t in zip(our_s, their_s, strict=True)),
        "our tokens/s": done.unshared / median(our_s),
        "same predictions": min(float((o.predicted == t.predicted).mean()) for o, t in passes),
        "harness with itself at batch size 1": float(alike.mean()),
        "part": part.n_cells,
        "computed over floor": (done.tokens - done.filler) / floor,
        "filler": done.filler / done.tokens,
        "without sharing": done.unshared / floor,
        "multiply rate": rate,
        "share of multiply rate": 2 * weights_of(layers) * done.tokens / median(our_s) / rate,
        "launches per cell": [None if n is None else n / part.n_cells for n in launches],
        "peak memory": [last.memory, their_last.memory],
        "merging": merging,
    }


def exactness(work: Workload, prompts: int, examples: int) -> dict[str, Any]:
    """Compare log-probabilities in fp32 on a part of the workload."""
    part = work.some(prompts, examples).in_dtype("fp32")
    harness = Harness("eager" if work.device.type == "cpu" else "sdpa", 8)
    with fresh_process(huge_pages=True) as process:
        process.submit(_load_ours, part, False).result()
        ours = process.submit(_our_log_probs, part).result()
    with fresh_process(huge_pages=False) as process:
        theirs = process.submit(_run_theirs, part, False, harness).result().log_probs
    assert theirs is not None
    difference = np.abs(ours - theirs)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    return {
        "workload": work.name,
        "largest difference": float(difference.max()),
        "same predictions": float(same),
        "cells": part.n_cells,
    }


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    add_model_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3, help="0: no timing, only whether predictions are the same in fp32")
    parser.add_argument(
        "--exact", type=int, nargs=2, default=(4, 12), metavar="N", help="prompts and examples compared in fp32"
    )
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--examples", type=int, help="of each workload; default: 100 of PIQA, 60 of RACE")
    parser.add_argument("--batch-tokens", type=int, help="of ours; default: as conf/evaluate.yaml has it")
    parser.add_argument("--only", choices=tuple(WORKLOADS), nargs="+", default=tuple(WORKLOADS))
    parser.add_argument("--adapter", choices=("both", "with", "without"), default="both")
    parser.add_argument("--report", type=Path, default=Path("outputs/eval_speed"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    device = device_of(arguments.accelerator)
    settings = [*overrides_of(arguments), f"model.dtype={arguments.dtype}"]
    kinds = {"both": (False, True), "with": (True,), "without": (False,)}[arguments.adapter]
    works = [load(name, arguments.data, settings, arguments.examples, arguments.batch_tokens) for name in arguments.only]
    exact = [exactness(work, *arguments.exact) for work in works]
    for found in exact:
        print(found, flush=True)
    timed = [(work, adapter) for work in works for adapter in kinds] if arguments.rounds else []
    rows = [measure(work, adapter, arguments.rounds) for work, adapter in timed]
    model = label_of(arguments.model, works[0].model)
    content = {"model": model, "dtype": arguments.dtype, "rows": rows, "exactness": exact, **provenance(device)}
    page = page_of(content, command_of(MODULE))
    print("\n".join(page))
    write(arguments.report, page)
    write_json(arguments.report, content)


def page_of(content: dict[str, Any], command: str) -> list[str]:
    """Lay the measurements out."""
    rows, exact, device = content["rows"], content["exactness"], content["device"]
    where = device.name if device.type == "cuda" else f"{device.threads} CPU threads"
    lines = [f"# Scoring beside lm-evaluation-harness 0.4.13, {content['model']}", ""]
    if rows:
        lines += [
            f"{content['dtype']}, {where}; seconds are medians over the rounds, the ratio is the median of the rounds' ratios.",
            "",
            *table(_HEADINGS, map(_row, rows)),
        ]
    notes = [
        *map(_note, rows),
        *(
            f"{e['workload']} in fp32, {e['cells']} cells: log-probabilities differ by at most {e['largest difference']:.1e}, "
            f"{100 * e['same predictions']:.1f}% of the predictions are the same."
            for e in exact
        ),
    ]
    lines += bullets(notes)
    if rows:
        lines += [
            "*rate* is the share of the matrix-multiply rate, measured on the model's own linear layers, that they reach;",
            "*floor* counts the distinct prefixes of the stream, the tokens that any engine must compute.",
            "",
        ]
    return [*lines, f"Made by `{command}`. Versions, device, rounds: results.json."]


_HEADINGS = [
    "workload", "adapter", "cells", "ours, s", "harness, s", "ratio", "same predictions", "computed/floor", "filler", "rate",
    "launches a cell, ours", "harness", "GPU memory reserved, GiB, ours", "harness",
]  # fmt: skip


def _row(row: dict[str, Any]) -> list[Any]:
    ours, theirs = median(row["our seconds"]), median(row["their seconds"])
    figures = [row["workload"], "yes" if row["adapter"] else "no", f"{row['cells']:,}", f"{ours:.1f}", f"{theirs:.1f}"]
    figures += [f"**{row['ratio']:.2f}**", f"{100 * row['same predictions']:.2f}%", f"{row['computed over floor']:.3f}"]
    figures += [f"{100 * row['filler']:.1f}%", f"{100 * row['share of multiply rate']:.0f}%"]
    reserved = [peak["peak_memory_gib"] if "peak_allocated_gib" in peak else None for peak in row["peak memory"]]
    return [*figures, *(number(n, ".1f") for n in (*row["launches per cell"], *reserved))]


def _note(row: dict[str, Any]) -> str:
    note = (
        f"{row['workload']}, {'with' if row['adapter'] else 'without'} adapter: the harness at batch size "
        f"{row['harness batch size']}, {row['harness attention']}; at batch size 1 it agrees with itself on "
        f"{100 * row['harness with itself at batch size 1']:.1f}% of {row['part']} cells. "
        f"Ours, in batches of at most {row['batch tokens']:,} tokens: {row['our tokens/s']:,.0f} tokens/s as if nothing were "
        "shared"
    )
    if first := row["first pass, seconds"]:
        note += f"; the first pass took {first['ours']:.1f} s, the harness's {first['theirs']:.1f}"
    if (merging := row["merging"]) is not None:
        note += f"; adapter {'merged' if merging['merged'] else 'not merged'} in {merging['seconds']} s, which is not counted"
    return f"{note}."


if __name__ == "__main__":
    run_plain(main)
