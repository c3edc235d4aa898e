"""Scoring every test prompt on every test example: one stream of cells, batch by batch, into the score matrix."""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Literal, TypeAlias, TypeVar

import pyarrow as pa
import torch
from tqdm import tqdm

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.answers import Metric
from paft.evaluation.cells import WINDOW, Cell, batches, encode, windows
from paft.evaluation.generation import MAX_NEW_TOKENS, Generation, stop_rule
from paft.evaluation.likelihood import Likelihood, Model, Normalise
from paft.evaluation.matrix import ScoreMatrix, matrix_of, read_matrix
from paft.evaluation.store import SCHEMA, MatrixStore, Row
from paft.prompts import PromptPool
from paft.runtime import ranks

T = TypeVar("T")
Answering: TypeAlias = Likelihood | Generation
ScoringMethod = Literal["likelihood", "generate"]


@dataclass(frozen=True)
class Scoring:
    """How cells are scored.

    metric says how free-form answers are compared (choice where there are choices). method None takes likelihood where there
    are choices and generation where not. normalise None takes sum where the prompts show the options, since the model has
    read their lengths, and byte where they are hidden and a longer option would lose by its length alone.
    """

    metric: Metric
    method: ScoringMethod | None = None
    normalise: Normalise | None = None
    max_new_tokens: int = MAX_NEW_TOKENS


def answering_by(model: Model, encoder: Encoder, pool: PromptPool, examples: Sequence[Example], scoring: Scoring) -> Answering:
    """Return what answers cells as `scoring` says."""
    if scoring.metric != "choice" or scoring.method == "generate":
        return Generation(model, encoder, scoring.metric, stop_rule(examples, scoring.metric, scoring.max_new_tokens))
    return Likelihood(model, encoder, scoring.normalise or ("byte" if pool.options == "hidden" else "sum"))


def score(
    answering: Answering,
    encoder: Encoder,
    pool: PromptPool,
    examples: Sequence[Example],
    *,
    batch_tokens: int,
    progress: bool = False,
    store: MatrixStore | None = None,
    window_cells: int = WINDOW,
) -> ScoreMatrix:
    """Score every prompt of the pool on every example.

    Args:
        batch_tokens: of a batch; smaller ones are tried where they do not fit into memory.
        store: keeps each batch as it is scored, and gives back those of an evaluation that was cut off.
        window_cells: cells that are encoded at a time.

    Several ranks score the batches in turn, and all return the whole matrix.
    """
    if store is not None and store.finished():
        return read_matrix(store.path)
    model = answering.model
    was_training = model.training
    model.eval()
    within = WithinMemory(lambda batch: answering(batch, [examples[cell.example] for cell in batch]))
    names = _CellNames(pool, examples)
    rows: list[Row] = []  # of the whole matrix, where nothing else keeps them
    parts: list[range] = []  # numbers of each window's batches
    done = right = number = resumed = 0
    total = len(pool.templates) * len(examples)
    labelled = any(example.answer for example in examples)
    silent = not progress or ranks.rank() > 0
    with torch.no_grad(), tqdm(total=total, desc="scoring", unit="cell", disable=silent, smoothing=0.02) as bar:
        for window in windows(pool, examples, window_cells):
            first = number
            for batch in batches(list(encode(encoder, pool, examples, window)), batch_tokens):
                if number % ranks.n_ranks() == ranks.rank():
                    found = None if store is None else store.load_part(number)
                    if found is not None and _holds_exactly(found, batch):
                        resumed += len(batch)
                        bar.initial = resumed  # not of this process's speed
                    else:
                        started = time.perf_counter()
                        found = [names.of(cell) | row for cell, row in zip(batch, within(batch), strict=True)]
                        if store is not None:
                            store.save_part(number, found, _seconds_by_prompt(found, time.perf_counter() - started))
                    rows += found if store is None else []
                    done, right = done + len(found), right + sum(row["correct"] for row in found)
                    if labelled:
                        bar.set_postfix_str(f"accuracy {100 * right / done:.1f}", refresh=False)
                number += 1
                bar.update(len(batch))
            parts.append(range(first, number))
    model.train(was_training)
    if store is None:
        rows = list(chain.from_iterable(ranks.gather(rows)))
        table = pa.Table.from_pylist(rows, schema=SCHEMA).sort_by([("prompt", "ascending"), ("example", "ascending")])
        return matrix_of(table)
    ranks.barrier()
    if ranks.rank() == 0:
        store.finish(parts)
    ranks.barrier()
    return read_matrix(store.path)


def _holds_exactly(rows: Sequence[Row], cells: Sequence[Cell]) -> bool:
    """Say whether a part file holds these cells: code that plans its batches differently may have written it."""
    return [(row["prompt"], row["example"]) for row in rows] == [(cell.prompt, cell.example) for cell in cells]


class _CellNames:
    """What a cell is called, whatever it is answered with."""

    def __init__(self, pool: PromptPool, examples: Sequence[Example]) -> None:
        self.prompts = [{"prompt_id": t.id, "prompt_digest": _digest(t.text)} for t in pool.templates]
        self.examples = [
            {
                "example_id": e.id,
                "example_digest": _digest([dict(e.fields), e.gold, e.answer]),
                "group": e.group,
                "part": e.part,
                "n_choices": len(e.choices),
                "gold": e.gold,
            }
            for e in examples
        ]

    def of(self, cell: Cell) -> Row:
        """Return the columns that name a cell."""
        place = {"prompt": cell.prompt, "example": cell.example, "truncated": cell.encoded.truncated}
        return place | self.prompts[cell.prompt] | self.examples[cell.example]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _seconds_by_prompt(rows: Sequence[Row], seconds: float) -> dict[str, float]:
    """Return what each prompt's cells took of a batch, in proportion to their number."""
    ids = [row["prompt_id"] for row in rows]
    return {id_: round(seconds * ids.count(id_) / len(ids), 4) for id_ in dict.fromkeys(ids)}


class WithinMemory(Generic[T]):
    """Answers a batch, in halves where it does not fit into memory, and remembers what did not.

    Args:
        answer: returns one value per cell.
    """

    def __init__(self, answer: Callable[[Sequence[Cell]], Sequence[T]]) -> None:
        self.answer = answer
        self.too_many: float = float("inf")  # tokens

    def __call__(self, cells: Sequence[Cell]) -> list[T]:
        """Return a value per cell; raises what `answer` raises where a single cell does not fit."""
        tokens = sum(cell.n_tokens for cell in cells)
        if tokens < self.too_many or len(cells) == 1:
            try:
                return list(self.answer(cells))
            except (RuntimeError, MemoryError) as error:
                if len(cells) == 1 or not _out_of_memory(error):
                    raise
            self.too_many = tokens
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        half = len(cells) // 2
        return self(cells[:half]) + self(cells[half:])


def _out_of_memory(error: Exception) -> bool:
    """A CPU's allocator, and cuBLAS, have no exception of their own for it."""
    words = ("not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
