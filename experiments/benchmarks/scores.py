"""Scoring workloads, and our engine's passes over them: one side of eval_speed."""

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
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.measuring import launches_of, memory, started_trace, synchronise
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
from paft.model.base import add_lora, device_of, load_base
from paft.prompts import PromptPool, find_pool
from paft.reporting.provenance import reset_peak_memory
from paft.runtime.process import keep_freed_memory

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


def with_adapter(base: Any, config: ModelConfig) -> Any:
    """Add an adapter of random weights, as large as training makes them."""
    model = add_lora(base, config, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.01).to(parameter)
    return model


_model: dict[str, Any] = {}  # of this process: our model


def load_ours(work: Workload, adapter: bool) -> dict[str, Any] | None:
    """Load our model; return whether its adapter was merged, and how long that took."""
    reset_peak_memory()
    _model["ours"] = model = load_base(work.model, work.device, cutoff=work.encoder.cutoff)
    if not adapter:
        return None
    _model["ours"] = model = with_adapter(model, work.model)
    started = time.perf_counter()
    merged = merge_within_tolerance(model, work.encoder, work.pool, work.examples, work.batch_tokens)
    return {"merged": merged, "seconds": round(time.perf_counter() - started, 2)}


def run_ours(work: Workload, traced: bool = False) -> Pass:
    """Score with our engine."""
    answering = answering_by(_model["ours"], work.encoder, work.pool, work.examples, Scoring(Metric("choice")), graphs=True)
    assert isinstance(answering, Likelihood)
    trace = started_trace(work.device, traced)
    started = time.perf_counter()
    matrix = score(answering, work.encoder, work.pool, work.examples, batch_tokens=work.batch_tokens)
    synchronise(work.device)
    seconds = time.perf_counter() - started
    return Pass(seconds, matrix.predicted, None, memory(work.device), launches_of(trace), answering.work)


def our_log_probs(work: Workload) -> np.ndarray:
    """Return the log-probability of each choice (P, E, C) by our engine."""
    answering = answering_by(_model["ours"], work.encoder, work.pool, work.examples, Scoring(Metric("choice")), graphs=True)
    with tempfile.TemporaryDirectory() as folder:
        store = MatrixStore(Path(folder), {})
        score(answering, work.encoder, work.pool, work.examples, batch_tokens=work.batch_tokens, store=store)
        cells = read_cells(store.path, ["prompt", "example", "log_probs"]).to_pylist()
    cells.sort(key=lambda cell: (cell["prompt"], cell["example"]))
    return np.array([cell["log_probs"] for cell in cells]).reshape(len(work.pool.templates), len(work.examples), -1)
