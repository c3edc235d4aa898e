"""The score matrix: prompts x examples, with one cell per scored rendering."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from paft.evaluation.store import read_cells
from paft.runtime.errors import InputError

_COLUMNS = (
    "prompt", "example", "prompt_id", "prompt_digest", "example_id", "example_digest", "group", "part", "n_choices",
    "gold", "predicted", "correct", "tied", "truncated", "output_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class ScoreMatrix:
    """The answers of a model to P prompts x E examples.

    predicted (P, E) int32 is the index of the predicted choice; -1: a free-form answer, or a generated text that holds no
    choice. gold (E,) int32 is the index of the right choice; -1: free-form or unlabelled. correct (P, E) bool says whether
    the answer is right; where the metric is graded (F1, a function of one's own) it is float64 and says how right, from 0 to
    1. tied (P, E) bool says whether another choice had the same score, truncated (P, E) bool whether the rendering lost its
    beginning to the cut-off. output_tokens (P, E) int32 counts the generated tokens.

    parts (E,) names the subset of each example, groups (E,) what it shares with other examples (RACE: its article).
    n_choices (E,) counts its choices, 0 for a free-form answer. prompt_digests (P,) are of the prompts' texts,
    example_digests (E,) of the examples' fields and answers: two data sets may use the same ids, but not the same digests.
    """

    prompt_ids: tuple[str, ...]
    prompt_digests: tuple[str, ...]
    example_ids: tuple[str, ...]
    example_digests: tuple[str, ...]
    parts: tuple[str, ...]
    groups: tuple[str, ...]
    n_choices: tuple[int, ...]
    gold: NDArray[np.int32]
    predicted: NDArray[np.int32]
    correct: NDArray[np.bool_ | np.float64]
    tied: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    output_tokens: NDArray[np.int32]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """The accuracy (P,) of each prompt over the examples: its mean score where the metric is graded."""
        return self.correct.mean(axis=1)

    @property
    def chance(self) -> float:
        """The expected accuracy of guessing; 0 where answers are free-form, which are never guessed right."""
        return float(np.mean([1 / n if n else 0.0 for n in self.n_choices]))

    @property
    def constant(self) -> float | None:
        """The accuracy of giving one choice throughout, by its place: that which is right most often; None where no choice is.

        Where answers are letters, it is what a model gets that answers every row with the same letter.
        """
        return None if self.commonest is None else float((self.gold == self.commonest).mean())

    @property
    def commonest(self) -> int | None:
        """The choice that is right most often, by its place; None where answers are free-form or rows have no labels."""
        return None if self.gold.min() < 0 else int(np.bincount(self.gold).argmax())

    @property
    def group_numbers(self) -> NDArray[np.int64]:
        """The group of each example as a number (E,)."""
        return np.unique(self.groups, return_inverse=True)[1]

    @property
    def given(self) -> tuple[float, ...]:
        """The share of all answers that are each choice, by its place; empty where answers are free-form."""
        n = max(self.n_choices)
        return tuple(float((self.predicted == place).mean()) for place in range(n)) if min(self.n_choices) else ()

    def select(self, prompts: Sequence[int], examples: Sequence[int]) -> "ScoreMatrix":
        """Return the matrix of some prompts and examples, given by their indices."""
        cells = np.ix_(prompts, examples)
        return ScoreMatrix(
            tuple(self.prompt_ids[i] for i in prompts),
            tuple(self.prompt_digests[i] for i in prompts),
            tuple(self.example_ids[i] for i in examples),
            tuple(self.example_digests[i] for i in examples),
            tuple(self.parts[i] for i in examples),
            tuple(self.groups[i] for i in examples),
            tuple(self.n_choices[i] for i in examples),
            self.gold[list(examples)],
            self.predicted[cells],
            self.correct[cells],
            self.tied[cells],
            self.truncated[cells],
            self.output_tokens[cells],
        )

    def part(self, name: str) -> "ScoreMatrix":
        """Return the matrix of the examples of one part."""
        return self.select(range(len(self.prompt_ids)), [i for i, part in enumerate(self.parts) if part == name])


def read_matrix(path: Path) -> ScoreMatrix:
    """Read a finished score matrix; raises InputError if the file is missing, damaged or of another version."""
    return matrix_of(read_cells(path, _COLUMNS), path)


def matrix_of(cells: pa.Table, where: Path | str = "score matrix") -> ScoreMatrix:
    """Build a matrix from cells that are sorted by prompt and example.

    Args:
        where: names the cells in an error.

    Raises InputError if a value is missing, or if the cells are not exactly one per prompt and example.
    """
    if any(cells[name].null_count for name in _COLUMNS):
        raise InputError(f"{where}: some cells have no value; evaluate the run again.")
    prompts, examples = (cells[name].to_numpy().astype(np.int64) for name in ("prompt", "example"))
    n_prompts, n_examples = (1 + int(indices.max(initial=-1)) for indices in (prompts, examples))
    complete = 0 < len(cells) == n_prompts * n_examples
    if not complete or (prompts * n_examples + examples != np.arange(len(cells))).any() or (examples < 0).any():
        raise InputError(f"{where}: {len(cells)} cells are not all of {n_prompts} prompts x {n_examples} examples.")

    def by_prompt(name: str) -> tuple[str, ...]:
        return tuple(cells[name].take(pa.array(range(0, len(cells), n_examples))).to_pylist())

    def by_example(name: str) -> tuple[str, ...]:
        return tuple(cells[name].slice(0, n_examples).to_pylist())

    def by_cell(name: str) -> NDArray[np.generic]:
        return np.asarray(cells[name].to_numpy()).reshape(n_prompts, n_examples)

    return ScoreMatrix(
        by_prompt("prompt_id"),
        by_prompt("prompt_digest"),
        by_example("example_id"),
        by_example("example_digest"),
        by_example("part"),
        by_example("group"),
        tuple(cells["n_choices"].slice(0, n_examples).to_pylist()),
        np.asarray(cells["gold"].slice(0, n_examples).to_numpy()),
        *(by_cell(name) for name in ("predicted", "correct", "tied", "truncated", "output_tokens")),  # type: ignore[arg-type]
    )
