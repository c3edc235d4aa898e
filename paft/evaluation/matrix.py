"""The score matrix: prompts x examples, one cell per scored rendering."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paft.data.task import Example
from paft.evaluation.store import Row
from paft.prompts import PromptPool


@dataclass(frozen=True)
class ScoreMatrix:
    """What a model answered to P prompts x E examples.

    predicted (P, E) int64 is the choice with the highest score (-1 for free-form answers), gold (E,) int64
    the right one (-1), correct (P, E) bool. parts (E,) names the subset each example belongs to, groups (E,)
    what it shares with others (RACE: its article), n_choices (E,) counts its choices (0 for free-form
    answers), truncated (P, E) bool says which renderings lost their beginning.
    """

    prompt_ids: tuple[str, ...]
    example_ids: tuple[str, ...]
    parts: tuple[str, ...]
    groups: tuple[str, ...]
    n_choices: tuple[int, ...]
    gold: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def chance(self) -> float:
        """The accuracy of guessing; a free-form answer is never guessed."""
        return float(np.mean([1 / n if n else 0.0 for n in self.n_choices]))

    @property
    def n_truncated(self) -> int:
        """Renderings that lost their beginning."""
        return int(self.truncated.sum())

    def part(self, name: str) -> "ScoreMatrix":
        """Return the columns of one part."""
        columns = [i for i, part in enumerate(self.parts) if part == name]
        return ScoreMatrix(
            self.prompt_ids,
            tuple(self.example_ids[i] for i in columns),
            (name,) * len(columns),
            tuple(self.groups[i] for i in columns),
            tuple(self.n_choices[i] for i in columns),
            self.gold[columns],
            self.predicted[:, columns],
            self.correct[:, columns],
            self.truncated[:, columns],
        )


def matrix_of(pool: PromptPool, examples: Sequence[Example], rows: Sequence[Row]) -> ScoreMatrix:
    """Put scored cells, in any order, into a matrix."""
    shape = len(pool.templates), len(examples)
    predicted = np.full(shape, -1, dtype=np.int64)
    correct, truncated = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for row in rows:
        place = row["prompt"], row["example"]
        predicted[place], correct[place], truncated[place] = row["predicted"], row["correct"], row["truncated"]
    return ScoreMatrix(
        prompt_ids=tuple(t.id for t in pool.templates),
        example_ids=tuple(e.id for e in examples),
        parts=tuple(e.part for e in examples),
        groups=tuple(e.group for e in examples),
        n_choices=tuple(len(e.choices) for e in examples),
        gold=np.array([e.gold for e in examples], dtype=np.int64),
        predicted=predicted,
        correct=correct,
        truncated=truncated,
    )
