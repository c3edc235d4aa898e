"""Scoring speed: our engine against lm-evaluation-harness, side by side in one run on this machine.

    python -m experiments.benchmarks.eval_speed --data DIR [--report experiments/results/eval_speed]

The same model, precision, templates and examples; the harness gets all templates in one `simple_evaluate`, at the
fastest of its settings that a probe finds (batch size, attention). Each side has a process of its own, set up as it sets
itself up; they take turns, round by round, and the ratio is the median over rounds. Without an adapter and with one
(unmerged in the harness, whose own way that is; merged here, its time apart).
Predictions are compared in the benchmark's precision, log-probabilities in fp32. Needs `pip install lm-eval==0.4.13`.
"""

import argparse
import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
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

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.config.schema import LoraConfig, ModelConfig
from paft.data.encode import Encoder
from paft.data.rows import load_examples
from paft.data.tasks.base import Example
from paft.evaluation.cells import Cell, encode, windows
from paft.evaluation.likelihood import Likelihood, Work
from paft.evaluation.merging import merge_within_tolerance
from paft.evaluation.scoring import Scoring, answering_by, score
from paft.model.base import add_lora, load_base, load_tokenizer
from paft.model.converted import smollm2_folder
from paft.prompts import PromptPool, load_pool, shipped_pool_path
from paft.reporting.page import bullets, table, write, write_json
from paft.reporting.provenance import provenance
from paft.runtime.process import keep_freed_memory

BATCH_TOKENS = 4096
PART = 80  # cells of a probe
CPU = torch.device("cpu")
# name -> overrides of conf/train.yaml, templates, examples
WORKLOADS = {
    "PIQA, letters": (["dataset=piqa"], 20, 100),
    "PIQA, texts": (["dataset=piqa", "dataset.answer=text", "dataset.options=hidden"], 20, 100),
    "RACE-middle, letters": (["dataset=race_middle"], 10, 60),
}


@dataclass(frozen=True)
class Workload:
    """Prompts x examples, for both sides."""

    name: str
    pool: PromptPool
    examples: tuple[Example, ...]
    encoder: Encoder

    def some(self, prompts: int, examples: int) -> "Workload":
        """Return a smaller one."""
        return Workload(self.name, self.pool.head(prompts), self.examples[:examples], self.encoder)

    @property
    def n_cells(self) -> int:
        """Renderings."""
        return len(self.pool.templates) * len(self.examples)


def load(name: str, data: str) -> Workload:
    """Load a workload; the examples are the first rows of the test split in the file's order, so that articles come whole."""
    overrides, prompts, n = WORKLOADS[name]
    dataset = compose_training(overrides).dataset
    examples = load_examples(dataset, data, 1, 10**9)
    in_order = sorted(examples.test, key=lambda e: int(e.id.rsplit("-", 1)[1]))[:n]
    task = examples.task
    encoder = Encoder(load_tokenizer(model_config("fp32")), dataset.answer, 1024)

    def pool(split: str) -> PromptPool:
        path = shipped_pool_path(dataset.name, dataset.answer, dataset.options, split)
        return load_pool(path, task.form(dataset.answer, dataset.options))

    train, validation = pool("train"), pool("validation")  # with the options hidden neither has twenty
    both = replace(train, templates=(*train.templates, *validation.templates))
    return Workload(name, both.head(prompts), tuple(in_order), encoder)


def model_config(dtype: Any) -> ModelConfig:
    """Return the embedded model with the usual adapter."""
    return ModelConfig(
        path=None, dtype=dtype, lora=LoraConfig(r=8, alpha=16, dropout=0.05, target_modules=["q_proj", "v_proj"])
    )


def our_model(dtype: str, adapter: bool) -> Any:
    """Load our model; the adapter's weights are random, as large as training makes them."""
    base = load_base(model_config(dtype), CPU)
    return with_adapter(base) if adapter else base


def with_adapter(base: Any) -> Any:
    """Add an adapter of random weights."""
    model = add_lora(base, model_config("fp32"), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.01
    return model


@lru_cache(maxsize=1)
def their_model(dtype: str, adapter: bool, attention: str) -> Any:
    """Load the harness's model as the harness would."""
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    base = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=kind, attn_implementation=attention)
    return (with_adapter(base) if adapter else base).eval()


def run_ours(model: Any, work: Workload) -> tuple[float, np.ndarray, Work]:
    """Score with our engine; returns seconds, predictions (P, E) and what was computed."""
    answering = answering_by(model, work.encoder, work.pool, work.examples, Scoring("choice"))
    started = time.perf_counter()
    matrix = score(answering, work.encoder, work.pool, work.examples, batch_tokens=BATCH_TOKENS)
    assert isinstance(answering, Likelihood)
    return time.perf_counter() - started, matrix.predicted, answering.work


@dataclass(frozen=True)
class Harness:
    """The harness with its model, in a process of its own."""

    process: ProcessPoolExecutor
    dtype: str
    adapter: bool
    attention: str

    def __call__(self, work: Workload, batch_size: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Score; returns seconds, predictions (P, E) and the log-probability of each choice (P, E, C)."""
        return self.process.submit(_run_theirs, self.dtype, self.adapter, self.attention, work, batch_size).result()


def _run_theirs(
    dtype: str, adapter: bool, attention: str, work: Workload, batch_size: int
) -> tuple[float, np.ndarray, np.ndarray]:
    logging.disable(logging.WARNING)
    model = their_model(dtype, adapter, attention)
    tasks = [_task(template, work) for template in range(len(work.pool.templates))]
    lm = HFLM(pretrained=model, tokenizer=work.encoder.tokenizer, batch_size=batch_size, max_length=1024, device="cpu")
    started = time.perf_counter()
    results = simple_evaluate(lm, tasks=tasks, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    seconds = time.perf_counter() - started
    log_probs = []
    for task in tasks:
        samples = sorted(results["samples"][task["task"]], key=lambda sample: sample["doc_id"])
        log_probs.append([[float(response[0][0]) for response in sample["resps"]] for sample in samples])
    found = scores = np.array(log_probs)
    if work.pool.options == "hidden":
        scores = found / np.array([[len(answer.encode()) for answer in e.choices] for e in work.examples])
    return seconds, scores.argmax(-1), found


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


def probe(process: ProcessPoolExecutor, work: Workload, dtype: str, adapter: bool) -> tuple[Harness, int]:
    """Return the attention and the batch size with which the harness is fastest on a part of the workload."""
    part = work.some(4, 20)
    speeds = {}
    for attention in ("sdpa", "eager"):
        harness = Harness(process, dtype, adapter, attention)
        harness(part.some(1, 8), 8)
        for batch_size in (8, 16):
            speeds[attention, batch_size] = part.n_cells / harness(part, batch_size)[0]
    for (attention, batch_size), speed in speeds.items():
        print(f"  probe: batch size {batch_size}, {attention}: {speed:.1f} cells/s", flush=True)
    attention, batch_size = max(speeds, key=lambda key: speeds[key])
    return Harness(process, dtype, adapter, attention), batch_size


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


def multiply_rate(dtype: torch.dtype) -> float:
    """Measure the machine's matrix multiplication, in FLOP/s, at the shapes of the model's layers."""
    best = 0.0
    for rows, inner, columns in ((2048, 576, 1536), (2048, 1536, 576), (4096, 1024, 4096)):
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(10):
                a @ b
            best = max(best, 20 * rows * inner * columns / (time.perf_counter() - started))
    return best


def measure(process: ProcessPoolExecutor, work: Workload, dtype: str, adapter: bool, rounds: int) -> dict[str, Any]:
    """Run both sides in turn."""
    print(f"{work.name}, {'with' if adapter else 'without'} adapter", flush=True)
    work = work.some(len(work.pool.templates) // 2, len(work.examples)) if adapter else work  # half says as much
    harness, batch_size = probe(process, work, dtype, adapter)
    ours = our_model(dtype, adapter)
    merging = None
    if adapter:
        started = time.perf_counter()
        merged = merge_within_tolerance(ours, work.encoder, work.pool, work.examples, BATCH_TOKENS)
        merging = {"merged": merged, "seconds": round(time.perf_counter() - started, 2)}
    part = work.some(4, 20)
    run_ours(ours, part)
    alike = harness(part, batch_size)[1] == harness(part, 1)[1]
    our_s, their_s, agree = [], [], []
    for _ in range(rounds):
        seconds, our_predictions, done = run_ours(ours, work)
        our_s.append(seconds)
        seconds, their_predictions, _ = harness(work, batch_size)
        their_s.append(seconds)
        agree.append(float((our_predictions == their_predictions).mean()))
        print(f"  ours {our_s[-1]:.1f} s, theirs {their_s[-1]:.1f} s, same predictions {100 * agree[-1]:.2f}%", flush=True)
    parameters = sum(p.numel() for name, p in ours.named_parameters() if "embed_tokens" not in name and "lora_" not in name)
    floor = floor_tokens(work)
    return {
        "workload": work.name,
        "adapter": adapter,
        "cells": work.n_cells,
        "harness batch size": batch_size,
        "harness attention": harness.attention,
        "our seconds": our_s,
        "their seconds": their_s,
        "ratio": median(t / o for o, t in zip(our_s, their_s, strict=True)),
        "our tokens/s": done.unshared / median(our_s),
        "same predictions": min(agree),
        "harness with itself at batch size 1": float(alike.mean()),
        "computed over floor": (done.tokens - done.filler) / floor,
        "filler": done.filler / done.tokens,
        "without sharing": done.unshared / floor,
        "share of multiply rate": 2 * parameters * done.tokens / median(our_s) / multiply_rate(next(ours.parameters()).dtype),
        "merging": merging,
    }


def exactness(process: ProcessPoolExecutor, work: Workload, prompts: int, examples: int) -> dict[str, Any]:
    """Compare log-probabilities in fp32 on a part of the workload."""
    from paft.evaluation.likelihood import choice_log_probs, prepare

    part = work.some(prompts, examples)
    model = our_model("fp32", adapter=False)
    cells = [c for window in windows(part.pool, part.examples) for c in encode(part.encoder, part.pool, part.examples, window)]
    with torch.no_grad():
        ours = (
            torch.stack([found for some in _parts(cells) for found in choice_log_probs(model, prepare(some))]).double().numpy()
        )
    theirs = Harness(process, "fp32", False, "eager")(part, 8)[2].reshape(ours.shape)
    difference = np.abs(ours - theirs)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    return {
        "workload": work.name,
        "largest difference": float(difference.max()),
        "same predictions": float(same),
        "cells": part.n_cells,
    }


def _parts(cells: list[Cell]) -> list[list[Cell]]:
    """Split cells, in their order."""
    return [cells[i : i + 32] for i in range(0, len(cells), 32)]


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    parser.add_argument("--rounds", type=int, default=3, help="0: no timing, only whether predictions are the same in fp32")
    parser.add_argument(
        "--exact", type=int, nargs=2, default=(4, 12), metavar="N", help="prompts and examples compared in fp32"
    )
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--only", choices=tuple(WORKLOADS), nargs="+", default=tuple(WORKLOADS))
    parser.add_argument("--adapter", choices=("both", "with", "without"), default="both")
    parser.add_argument("--report", type=Path, default=Path("outputs/eval_speed"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    kinds = {"both": (False, True), "with": (True,), "without": (False,)}[arguments.adapter]
    works = [load(name, arguments.data) for name in arguments.only]
    os.environ["THP_MEM_ALLOC_ENABLE"] = (
        "0"  # for the harness's process, as its users have it; ours has read it (paft/__init__.py)
    )
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        exact = [exactness(process, work, *arguments.exact) for work in works]
        for found in exact:
            print(found, flush=True)
        timed = [(work, adapter) for work in works for adapter in kinds] if arguments.rounds else []
        rows = [measure(process, work, arguments.dtype, adapter, arguments.rounds) for work, adapter in timed]
    page = page_of(rows, exact, arguments.dtype)
    print("\n".join(page))
    content = {"rows": rows, "exactness": exact, "dtype": arguments.dtype, "batch_tokens": BATCH_TOKENS, **provenance(CPU)}
    write(arguments.report, page)
    write_json(arguments.report, content)


def page_of(rows: list[dict[str, Any]], exact: list[dict[str, Any]], dtype: str) -> list[str]:
    """Lay the measurements out."""
    lines = ["# Scoring beside lm-evaluation-harness 0.4.13", ""]
    if rows:
        lines += [
            f"SmolLM2-135M, {dtype}, {torch.get_num_threads()} CPU threads; seconds are medians over the rounds, the ratio is",
            "the median of the rounds' ratios.",
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
            "*rate* is the share of the machine's measured matrix-multiply rate that the model's layers reach; *floor* counts",
            "the distinct prefixes of the stream, the tokens that any engine must compute.",
            "",
        ]
    return [
        *lines,
        f"Made by `python -m experiments.benchmarks.eval_speed --data DIR{'' if rows else ' --rounds 0 --exact 8 40'}`.",
        "Versions, device, rounds: results.json.",
    ]


_HEADINGS = [
    "workload", "adapter", "cells", "ours, s", "harness, s", "ratio", "same predictions", "computed/floor", "filler", "rate"
]  # fmt: skip


def _row(row: dict[str, Any]) -> list[str]:
    ours, theirs = median(row["our seconds"]), median(row["their seconds"])
    figures = [row["workload"], "yes" if row["adapter"] else "no", f"{row['cells']:,}", f"{ours:.1f}", f"{theirs:.1f}"]
    figures += [f"**{row['ratio']:.2f}**", f"{100 * row['same predictions']:.2f}%", f"{row['computed over floor']:.3f}"]
    return [*figures, f"{100 * row['filler']:.1f}%", f"{100 * row['share of multiply rate']:.0f}%"]


def _note(row: dict[str, Any]) -> str:
    note = (
        f"{row['workload']}, {'with' if row['adapter'] else 'without'} adapter: the harness at batch size "
        f"{row['harness batch size']}, {row['harness attention']}; at batch size 1 it agrees with itself on "
        f"{100 * row['harness with itself at batch size 1']:.1f}% of {PART} cells. "
        f"Ours: {row['our tokens/s']:,.0f} tokens/s as if nothing were shared"
    )
    if (merging := row["merging"]) is not None:
        note += f"; adapter {'merged' if merging['merged'] else 'not merged'} in {merging['seconds']} s, which is not counted"
    return f"{note}."


if __name__ == "__main__":
    run_plain(main)
