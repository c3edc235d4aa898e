"""Scoring every prompt of a pool on every example: a stream of cells, batch by batch, into the score matrix."""

import gc
import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import pyarrow as pa
import torch

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.cells import WINDOW, Cell, batches, encode, windows
from paft.evaluation.generation import MAX_NEW_TOKENS, Generation, Stop, take_several_lines
from paft.evaluation.likelihood import Likelihood, Normalise
from paft.evaluation.matrix import ScoreMatrix, matrix_of, read_matrix
from paft.evaluation.metrics import Metric
from paft.evaluation.store import Grading, MatrixStore, StoredCell, schema_of
from paft.model.base import Model
from paft.model.sharding import is_sharded
from paft.prompts import PromptPool
from paft.runtime import ranks
from paft.runtime.ahead import ahead
from paft.runtime.memory import is_out_of_memory
from paft.runtime.progress import Progress

T = TypeVar("T")
_AHEAD = 4  # batches that are made ready ahead of the model
Answering: TypeAlias = Likelihood | Generation
ScoringMethod = Literal["likelihood", "generate"]


@dataclass(frozen=True)
class Scoring:
    """The settings by which cells are scored.

    metric is choice where examples have choices; otherwise it says how free-form answers are compared. method None means
    likelihood where there are choices, and generate where there are none. normalise None means sum where the prompts show the
    options, because the model has then read their lengths, and byte where the prompts hide them, because a longer option
    would then lose by its length alone. several_lines says whether generated answers may take several lines; None means that
    the right answers of the examples decide.
    """

    metric: Metric
    method: ScoringMethod | None = None
    normalise: Normalise | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    several_lines: bool | None = None


def generates(scoring: Scoring) -> bool:
    """Return whether answers are generated, and not chosen by likelihood."""
    return scoring.metric.name != "choice" or scoring.method == "generate"


def answering_by(
    model: Model, encoder: Encoder, pool: PromptPool, examples: Sequence[Example], scoring: Scoring, graphs: bool = False
) -> Answering:
    """Return the scorer, by likelihood or by generation, that `scoring` asks for.

    Args:
        graphs: replay CUDA graphs where the device and the model allow it.
    """
    if generates(scoring):
        stop = Stop(scoring.max_new_tokens, ends_at_line_break(scoring, examples))
        return Generation(model, encoder, scoring.metric, stop, graphs)
    return Likelihood(model, encoder, scoring.normalise or ("byte" if pool.options == "hidden" else "sum"), graphs)


def ends_at_line_break(scoring: Scoring, examples: Sequence[Example]) -> bool:
    """Return whether the first line break after a word ends a generated text."""
    if scoring.metric.looks_inside:  # every text may reason over several lines, whatever was trained on
        return False
    several_lines = scoring.several_lines
    return not (take_several_lines(examples, scoring.metric) if several_lines is None else several_lines)


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
    """Score every prompt of the pool on every example; return the score matrix.

    Several ranks take turns at the batches; each rank returns the whole matrix. Of a sharded model, which they can only run
    together, all ranks score all batches. Where the metric is a function of one's own, it scores the texts of a batch once they
    are stored; texts that another version of it has scored are scored anew.

    Args:
        batch_tokens: tokens of a batch; a batch that does not fit into memory is scored in halves.
        store: keeps each batch once it is scored, so that an interrupted evaluation resumes; None: nothing is written.
        window_cells: the most cells of a window; those of two windows are held at a time.

    Raises InputError if a function of one's own makes a mistake.
    """
    grading = grading_of(answering.metric, examples)
    if store is not None and store.finished():
        if grading is not None:
            if ranks.rank() == 0:
                store.grade(grading)
            ranks.barrier()
        return read_matrix(store.path)
    model = answering.model
    was_training = model.training
    model.eval()
    together = is_sharded(model)
    turn = (0, 1) if together else (ranks.rank(), ranks.n_ranks())
    names = CellNames(pool, examples)
    all_rows: list[StoredCell] = []  # of the whole matrix; with a store the rows are in its part files instead
    numbers_by_window: dict[int, list[int]] = {}  # of the batches
    done = resumed = 0  # cells done, cells read from part files
    right = 0.0
    total = len(pool.templates) * len(examples)
    labelled = any(example.answer for example in examples)
    silent = not progress or ranks.rank() > 0
    parts = windows(pool, examples, window_cells)
    coming = _upcoming(encoder, pool, examples, parts, batch_tokens, store, answering.prepare, turn, grading)
    if model.device.type == "cuda":  # on a CPU both would share the same cores
        coming = ahead(coming, _AHEAD)

    def answer(cells: Sequence[Cell]) -> list[StoredCell]:
        prepared: Any = batch.prepared if cells is batch.cells else None  # of a half, nothing is
        prepared = answering.prepare(cells) if prepared is None else prepared
        return answering(cells, [examples[cell.example] for cell in cells], prepared)

    # A rank that halves a batch alone would wait for the others for ever.
    within_memory: Callable[[Sequence[Cell]], list[StoredCell]] = answer if together else WithinMemory(answer)
    bar = Progress("scoring", "renderings", total, silent=silent)
    with torch.no_grad(), closing(coming), bar:
        for batch in coming:
            if batch.number % turn[1] == turn[0]:
                rows = batch.stored
                if together and not all(ranks.gather(rows is not None)):
                    rows = None
                if rows is not None:
                    resumed += len(batch.cells)
                    bar.done_before = resumed  # these do not count for the speed that the bar shows
                else:
                    started = time.perf_counter()
                    rows = [
                        names.of(cell.prompt, cell.example, cell.encoded.truncated) | row
                        for cell, row in zip(batch.cells, within_memory(batch.cells), strict=True)
                    ]
                    if store is not None and (not together or ranks.rank() == 0):
                        store.save_part(batch.number, rows, seconds_by_prompt(rows, time.perf_counter() - started))
                if grading is not None and (store is None or not together or ranks.rank() == 0):
                    grade(rows, grading, store, batch.number)
                all_rows += rows if store is None else []
                done, right = done + len(rows), right + sum(row["correct"] or 0 for row in rows)
                if labelled:
                    bar.note = f"{answering.metric.called} {100 * right / done:.1f}"
            numbers_by_window.setdefault(batch.window, []).append(batch.number)
            bar.update(len(batch.cells))
    model.train(was_training)
    if store is None:
        all_rows = all_rows if together else list(chain.from_iterable(ranks.gather(all_rows)))
        table = pa.Table.from_pylist(all_rows, schema=schema_of(all_rows))
        return matrix_of(table.sort_by([("prompt", "ascending"), ("example", "ascending")]))
    ranks.barrier()
    if ranks.rank() == 0:
        store.finish(list(numbers_by_window.values()), grading)
    ranks.barrier()
    return read_matrix(store.path)


def grading_of(metric: Metric, examples: Sequence[Example]) -> Grading | None:
    """Return what scores texts once they are stored; None where each answer has its score as soon as it is given."""
    function = metric.function
    if function is None:
        return None
    return Grading(function.source, lambda example, text: function(text, examples[example]))


def grade(rows: Sequence[StoredCell], grading: Grading, store: MatrixStore | None, batch: int) -> None:
    """Score the texts of a batch, unless they have their scores already, and store them; raises InputError for a mistake."""
    if all(row["correct"] is not None for row in rows):
        return
    for row in rows:
        row["correct"] = grading.score(row["example"], row["output"])
    if store is not None:
        store.save_scores(batch, rows, grading)


@dataclass(frozen=True)
class _Upcoming:
    """A batch whose turn comes: its cells; and on the rank that scores it, the rows of its part file or what it needs."""

    window: int
    number: int  # among the batches of all windows
    cells: list[Cell]
    stored: list[StoredCell] | None = None
    prepared: Any = None  # what the scorer's `prepare` made of the cells


def _upcoming(
    encoder: Encoder,
    pool: PromptPool,
    examples: Sequence[Example],
    parts: Sequence[tuple[range, range]],
    batch_tokens: int,
    store: MatrixStore | None,
    prepare: Callable[[Sequence[Cell]], Any],
    turn: tuple[int, int],
    grading: Grading | None = None,
) -> Generator[_Upcoming]:
    """Yield all batches of the windows `parts` in their order.

    A window is encoded while the batches of the one before it are yielded, some cells with each, so that the batches keep
    coming where one window ends and the next one begins.

    Args:
        turn: this rank and how many ranks there are; they take turns at the batches.
        grading: what scores texts once they are stored.
    """
    number = 0
    streams = [encode(encoder, pool, examples, part) for part in parts]
    cells = list(streams[0])
    for window, following in enumerate([*streams[1:], iter(())]):
        cut = batches(cells, batch_tokens)
        of_next: list[Cell] = []
        n_each = -(-len(cells) // len(cut))
        for batch in cut:
            stored = prepared = None
            if number % turn[1] == turn[0]:
                rows = None if store is None else store.load_part(number, grading)
                stored = rows if rows is not None and _holds_exactly(rows, batch) else None
                prepared = prepare(batch) if stored is None else None
            yield _Upcoming(window, number, batch, stored, prepared)
            number += 1
            of_next += islice(following, n_each)
        cells = [*of_next, *following]


def _holds_exactly(rows: Sequence[StoredCell], cells: Sequence[Cell]) -> bool:
    """Return whether the rows of a part file are those of these cells; code that cuts batches otherwise may have written it."""
    return [(row["prompt"], row["example"]) for row in rows] == [(cell.prompt, cell.example) for cell in cells]


class CellNames:
    """The columns that identify a cell: its prompt and its example, by index, id and digest."""

    def __init__(self, pool: PromptPool, examples: Sequence[Example]) -> None:
        self.prompts = [{"prompt_id": t.id, "prompt_digest": _digest(t.text)} for t in pool.templates]
        self.examples = [
            {
                "example_id": e.id,
                "example_digest": _digest([dict(e.fields), e.gold, e.answer, *([e.others] if e.others else [])]),
                "group": e.group,
                "part": e.part,
                "n_choices": len(e.choices),
                "gold": e.gold,
            }
            for e in examples
        ]

    def of(self, prompt: int, example: int, truncated: bool = False) -> StoredCell:
        """Return the identifying columns of a cell, and whether it was truncated."""
        indices = {"prompt": prompt, "example": example, "truncated": truncated}
        return indices | self.prompts[prompt] | self.examples[example]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def seconds_by_prompt(rows: Sequence[StoredCell], seconds: float) -> dict[str, float]:
    """Split the time of a batch among its prompts, in proportion to the number of their cells; by prompt id."""
    ids = [row["prompt_id"] for row in rows]
    return {id_: round(seconds * ids.count(id_) / len(ids), 4) for id_ in dict.fromkeys(ids)}


class WithinMemory(Generic[T]):
    """Answers a batch, in halves if it does not fit into memory.

    The smallest number of tokens that did not fit is remembered; later batches of as many are halved at once.

    Args:
        answer: returns one value per cell.
    """

    def __init__(self, answer: Callable[[Sequence[Cell]], Sequence[T]]) -> None:
        self.answer = answer
        self.too_many: float = float("inf")  # tokens; a batch of as many does not fit

    def __call__(self, cells: Sequence[Cell]) -> list[T]:
        """Return one value per cell.

        Raises what `answer` raises; its out-of-memory error only where a single cell does not fit.
        """
        tokens = sum(cell.n_tokens for cell in cells)
        if tokens < self.too_many or len(cells) == 1:
            try:
                return list(self.answer(cells))
            except Exception as error:
                if len(cells) == 1 or not is_out_of_memory(error):
                    raise
            self.too_many = tokens
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        half = len(cells) // 2
        return self(cells[:half]) + self(cells[half:])
