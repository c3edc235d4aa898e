"""Scoring a served model: cells are asked for in parallel, and the score matrix is filled as that of a local model.

An answer may have been paid for: those of a second become a part file, so that a killed evaluation asks for those of a second
again at most. Where a server dies, what it has answered is kept.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paft.config.schema import ModelConfig
from paft.data.splits import fingerprint
from paft.data.tasks.base import Example
from paft.evaluation.cells import WINDOW, windows
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix, read_matrix
from paft.evaluation.scoring import CellNames, Scoring, ends_at_line_break, grade, grading_of, seconds_by_prompt
from paft.evaluation.served import Asked, Asking, Found, Protocol, ask, find, read_asking, run
from paft.evaluation.store import Grading, MatrixStore, StoredCell, read_cells
from paft.model.served import NotGivenError, RefusedError, ServedModel
from paft.prompts import PromptPool
from paft.runtime.api import UnavailableError
from paft.runtime.errors import InputError
from paft.runtime.progress import Progress

SAMPLE = 16  # cells that are asked for twice
_FLUSH_S = 1.0
_KEPT = "what was answered is kept, and the same command resumes."


@dataclass(frozen=True)
class Repeated:
    """A sample of cells that were asked for twice: how many, how many were answered otherwise, and by how much.

    largest_difference is that of an answer's log-probability; None where texts were generated.
    """

    cells: int
    changed: int
    largest_difference: float | None


class ServedEvaluator:
    """Scores a served model on pools of prompts, into files, all cells of a matrix by one way of scoring.

    Args:
        found: what the server was found to give.
        asked: what cells are asked for.
        identity: what the scores depend on besides, in plain types.
        folder: of the run.
        progress: whether to show a progress bar.
    """

    def __init__(
        self, model: ModelConfig, found: Found, asked: Asked, identity: Mapping[str, Any], folder: Path, progress: bool
    ) -> None:
        self.model, self.found, self.asked, self.progress = model, found, asked, progress
        self.identity = {**identity, "api": model.api, "name": model.name, "entry": found.entry}
        self.asking = read_asking(folder)
        self.asking.usage.add(found.usage)
        self.first: tuple[Protocol, Repeated] | None = None  # how the first pool was scored, and what came of asking twice

    def score(
        self, folder: Path, pool: PromptPool, examples: Sequence[Example], scoring: Scoring, name: str = "matrix"
    ) -> Scored:
        """Score every prompt of a pool on every example into `folder`/NAME.parquet.

        A matrix of the same model, prompts, examples and settings is read if it is finished, and resumed if it is not. Where a
        way of scoring turns out not to work for a cell, the whole matrix is scored by the next one that the server gives.

        Raises InputError if the server fails; what it has answered is kept.
        """
        self.asked = replace(self.asked, at_line_break=ends_at_line_break(scoring, examples))
        while True:
            protocol = self.found.protocol
            settings = self._settings(protocol)
            content = {"pool": pool.fingerprint, "examples": fingerprint(examples), "protocol": str(protocol)}
            store = MatrixStore(folder, {**self.identity, **settings, **content}, name)
            settings["metric"] = scoring.metric.as_json()  # no part of what the texts depend on
            try:
                matrix = run(self._score(store, pool, examples))
                break
            except NotGivenError as error:
                self._give_up(folder, str(error), pool, examples)
        if self.first is None:
            self.first = protocol, run(self._repeat(store.path, pool, examples))
        self.asking.save(folder)
        return Scored(matrix, store.path, store.seconds(), settings)

    def _settings(self, protocol: Protocol) -> dict[str, Any]:
        """Return how cells are scored, in the words of paft.evaluation.evaluator."""
        same = {"scoring": protocol.scoring, "merged": False, "prompts_with_split_letters": 0}
        if protocol.way == "generate":
            return {**same, "max_new_tokens": self.asked.max_new_tokens, "stop_at_line_break": self.asked.at_line_break}
        return {**same, "normalise": "sum" if protocol.way == "first_token" else self.asked.normalise}

    def _give_up(self, folder: Path, why: str, pool: PromptPool, examples: Sequence[Example]) -> None:
        """Take the next way of scoring that the server gives; raises InputError if there is none."""
        before = str(self.found.protocol)
        self.asking.given_up[before] = why
        self.asking.save(folder)
        self.found = find(self.model, self.asked, pool, examples, self.asking.given_up)
        self.asking.usage.add(self.found.usage)
        print(f"  Not every cell can be scored by {before}: {why}; all are scored by {self.found.protocol}.", flush=True)

    async def _score(self, store: MatrixStore, pool: PromptPool, examples: Sequence[Example]) -> ScoreMatrix:
        metric = self.asked.metric
        grading = grading_of(metric, examples)
        if store.finished():
            if grading is not None:
                store.grade(grading)
            return read_matrix(store.path)
        parts: list[range] = []  # the numbers of each window's part files
        names, right = CellNames(pool, examples), 0.0
        labelled = any(example.answer for example in examples)
        bar = Progress("scoring", "renderings", len(pool.templates) * len(examples), silent=not self.progress)

        def count(rows: Sequence[StoredCell]) -> None:
            nonlocal right
            right += sum(row["correct"] or 0 for row in rows)
            if labelled and grading is None and bar.done + len(rows):
                bar.note = f"{metric.called} {100 * right / (bar.done + len(rows)):.1f}"
            bar.update(len(rows))

        async with ServedModel(self.model, self.asking.usage, self.found.answers_as) as served:
            with bar:
                for number, (prompts, rows) in enumerate(windows(pool, examples)):
                    answers = _Answers(store, number * WINDOW, names, self.asking, grading)
                    bar.done_before += len(answers.kept)
                    count(answers.kept)
                    missing = iter([(p, e) for p in prompts for e in rows if (p, e) not in answers.known])
                    await self._window(served, pool, examples, missing, answers, count)
                    parts.append(range(number * WINDOW, answers.next))
        store.finish(parts, grading)
        return read_matrix(store.path)

    async def _window(
        self,
        served: ServedModel,
        pool: PromptPool,
        examples: Sequence[Example],
        missing: Iterator[tuple[int, int]],
        answers: "_Answers",
        count: Callable[[Sequence[StoredCell]], None],
    ) -> None:
        """Ask for the cells of a window that are missing.

        After a failure nothing more is asked, and the answers that are on their way are waited for, because they may be paid.

        Raises NotGivenError if the way of scoring does not work for a cell, and InputError if the server fails.
        """
        failures: list[Exception] = []

        async def work() -> None:
            for prompt, example in missing:
                if failures:
                    return
                template, row = pool.templates[prompt], examples[example]
                try:
                    answer = await ask(served, self.found.protocol, self.asked, template, row)
                except NotGivenError as error:
                    failures.append(error)
                    return
                except RefusedError as error:
                    where = f"{row.where or row.id}, under the prompt {template.id!r}"
                    failures.append(
                        InputError(f"{where}: {error}; shorten them, or have the server take longer texts; {_KEPT}")
                    )
                    return
                except UnavailableError as error:
                    failures.append(InputError(f"model.api: {error}; {_KEPT}"))
                    return
                count([answer])
                try:
                    answers.add(prompt, example, answer)
                except InputError as error:  # of a function that is the metric
                    failures.append(error)

        try:
            await asyncio.gather(*(work() for _ in range(self.model.api_requests)))
        finally:
            answers.flush()
        if failures:
            raise failures[0]

    async def _repeat(self, path: Path, pool: PromptPool, examples: Sequence[Example]) -> Repeated:
        """Ask for a sample of cells once more, spread over the matrix, and compare with what is stored."""
        n_cells = len(pool.templates) * len(examples)
        places = sorted({int(place) for place in np.linspace(0, n_cells - 1, min(SAMPLE, n_cells))})
        cells = [divmod(place, len(examples)) for place in places]
        columns = ["prompt", "example", "predicted", "output", "log_probs"]
        wanted = [("prompt", "in", [p for p, _ in cells]), ("example", "in", [e for _, e in cells])]
        stored = {(row["prompt"], row["example"]): row for row in read_cells(path, columns, wanted).to_pylist()}
        async with ServedModel(self.model, self.asking.usage, self.found.answers_as) as served:
            try:
                again = await asyncio.gather(
                    *(ask(served, self.found.protocol, self.asked, pool.templates[p], examples[e]) for p, e in cells)
                )
            except (UnavailableError, RefusedError) as error:
                raise InputError(
                    f"model.api: {error}; all cells are answered and kept, and the same command resumes."
                ) from None
        changed, differences = 0, [0.0]
        for cell, row in zip(cells, again, strict=True):
            before = stored[cell]
            changed += (row["predicted"], row["output"]) != (before["predicted"], before["output"])
            pairs = zip(row["log_probs"], before["log_probs"], strict=True)
            differences += [abs(one - other) for one, other in pairs if np.isfinite([one, other]).all()]
        generated = self.found.protocol.way == "generate"
        return Repeated(len(cells), changed, None if generated else float(max(differences)))


class _Answers:
    """The answers of a window: those that earlier processes kept, and those that come, which are kept a second at a time.

    known are the cells (prompt, example) of those that were kept. next is the number of the next part file. Where the metric is
    a function of one's own, it scores texts once they are kept.

    Args:
        grading: what scores texts once they are kept; None: each has its score at once.

    Raises InputError if a function of one's own makes a mistake; the texts are kept.
    """

    def __init__(
        self, store: MatrixStore, first: int, names: CellNames, asking: Asking, grading: Grading | None = None
    ) -> None:
        self._store, self._names, self._asking, self._grading, self.next = store, names, asking, grading, first
        self.kept, self.known = list[StoredCell](), set[tuple[int, int]]()
        self._rows: list[StoredCell] = []
        self._since = time.monotonic()
        while (rows := store.load_part(self.next, grading)) is not None:
            cells = {(row["prompt"], row["example"]) for row in rows}
            if cells & self.known:
                break  # a part file in front of it was damaged, and its cells were asked for again
            self._grade(self.next, rows)
            self.kept += rows
            self.known |= cells
            self.next += 1

    def add(self, prompt: int, example: int, row: StoredCell) -> None:
        """Take the answer of a cell."""
        self._rows.append(self._names.of(prompt, example) | row)
        if time.monotonic() - self._since > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Keep the answers that have come."""
        now = time.monotonic()
        rows, seconds = self._rows, now - self._since
        self._rows, self._since = [], now
        if rows:
            self._asking.save(self._store.path.parent)  # before them: a kill in between loses no cost
            self._store.save_part(self.next, rows, seconds_by_prompt(rows, seconds))
            self.next += 1
            self._grade(self.next - 1, rows)

    def _grade(self, number: int, rows: Sequence[StoredCell]) -> None:
        if self._grading is not None:
            grade(rows, self._grading, self._store, number)
