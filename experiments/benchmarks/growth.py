"""Does the cost of a cell stay the same as the matrix grows, and does memory?

    python -m experiments.benchmarks.growth --data DIR [--report experiments/results/growth]

Time per cell on real PIQA with the embedded model, from 10 to 50 prompts and from 100 to 1,000 examples. Memory over a matrix
of a million cells whose answers are simulated: everything runs but the model.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.config.schema import DatasetConfig, LoraConfig, ModelConfig
from paft.data.encode import Encoder
from paft.data.rows import load_test
from paft.data.tasks.base import Example, Task
from paft.evaluation.cells import Cell
from paft.evaluation.likelihood import Likelihood
from paft.evaluation.metrics import Metric
from paft.evaluation.scoring import Scoring, answering_by, score
from paft.evaluation.store import MatrixStore, StoredCell
from paft.model.base import load_base, load_tokenizer
from paft.prompts import PromptPool, load_pool, shipped_pool_path
from paft.reporting.page import table, write, write_json
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.runtime.process import keep_freed_memory

_CPU = torch.device("cpu")
_SIZES = ((10, 100), (50, 100), (10, 1000))
_SIMULATED = ((100, 1000), (1000, 1000))


def dataset() -> DatasetConfig:
    """Return PIQA's config."""
    return compose_training(["dataset=piqa"]).dataset


def pool_of(task: Task, n: int) -> PromptPool:
    """Return n templates: ten shipped ones, numbered on and on, so that their length does not grow."""
    path = shipped_pool_path("piqa", "letter", "shown", "train")
    ten = load_pool(path, task.form("letter", "shown")).templates[:10]
    more = [replace(ten[i % 10], id=f"p{i}", text=f"({i}) {ten[i % 10].text}") for i in range(n)]
    return PromptPool("growth", tuple(more), "letter", "shown")


class Simulated:
    """Answers at random, as Likelihood would, without a model."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(training=False, device=_CPU, eval=lambda: None, train=lambda _: None)

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Answers at random need nothing made ready."""

    def __call__(self, cells: Sequence[Cell], examples: Sequence[Example], prepared: None) -> list[StoredCell]:
        """Return an answer a cell."""
        rows: list[StoredCell] = []
        for example in examples:
            predicted = random.randrange(len(example.choices))
            rows.append({
                "log_probs": [-1.0, -2.0], "predicted": predicted, "correct": predicted == example.gold, "tied": False,
                "output": None, "output_tokens": 0,
            })  # fmt: skip
        return rows


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with piqa/validation.jsonl")
    parser.add_argument("--report", type=Path, default=Path("outputs/growth"))
    arguments = parser.parse_args()
    keep_freed_memory()
    config = dataset()
    task, examples, _ = load_test(config, arguments.data, 1000)
    model = ModelConfig(path=None, lora=LoraConfig(r=8, alpha=16, dropout=0.0, target_modules=["q_proj"]))
    encoder = Encoder(load_tokenizer(model), "letter", 1024)
    base = load_base(model, _CPU)
    score(
        answering_by(base, encoder, pool_of(task, 2), examples[:20], Scoring(Metric("choice"))),
        encoder,
        pool_of(task, 2),
        examples[:20],
        batch_tokens=4096,
    )
    measured = [_measure(base, encoder, pool_of(task, p), examples[:e]) for p, e in _SIZES]
    simulated = [_simulate(encoder, pool_of(task, p), examples[:e]) for p, e in _SIMULATED]
    page = ["# Growth of an evaluation", "", "PIQA, letters, SmolLM2-135M on a CPU.", ""]
    shown = [[f"{row['prompts']}", f"{row['examples']:,}", f"{row['ms a cell']:.1f}"] for row in measured]
    page += table(["prompts", "examples", "ms a cell"], shown)
    page += ["Answers simulated: everything runs but the model. Peak memory is that of the process, libraries included.", ""]
    shown = [[f"{row['cells']:,}", f"{row['peak MiB']:.0f}", f"{row['ms a cell']:.2f}"] for row in simulated]
    page += table(["cells", "peak memory, MiB", "ms a cell"], shown)
    page += ["Made by `python -m experiments.benchmarks.growth --data DIR`. Versions and device: results.json."]
    print("\n".join(page))
    content = {"measured": measured, "simulated": simulated, **provenance(_CPU)}
    write(arguments.report, page)
    write_json(arguments.report, content)


def _measure(base: Any, encoder: Encoder, pool: PromptPool, examples: Sequence[Example]) -> dict[str, Any]:
    answering = answering_by(base, encoder, pool, examples, Scoring(Metric("choice")))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        score(answering, encoder, pool, examples, batch_tokens=4096, store=MatrixStore(Path(scratch), {}))
    cells = len(pool.templates) * len(examples)
    row = {"prompts": len(pool.templates), "examples": len(examples)}
    print(row, flush=True)
    return row | {"ms a cell": 1000 * (time.perf_counter() - started) / cells}


def _simulate(encoder: Encoder, pool: PromptPool, examples: Sequence[Example]) -> dict[str, Any]:
    reset_peak_memory()
    started = time.perf_counter()
    answering = cast(Likelihood, Simulated())
    with tempfile.TemporaryDirectory() as scratch:
        score(answering, encoder, pool, examples, batch_tokens=16384, store=MatrixStore(Path(scratch), {}))
    cells = len(pool.templates) * len(examples)
    row = {
        "cells": cells,
        "peak MiB": peak_memory_bytes(_CPU) / 2**20,
        "ms a cell": 1000 * (time.perf_counter() - started) / cells,
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    run_plain(main)
