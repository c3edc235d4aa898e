"""The score matrix: prompts x examples, one cell per scored rendering."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoreMatrix:
    """What a model answered to P prompts x E examples.

    correct (P, E) bool. parts (E,) names the subset each example belongs to, groups (E,) what it shares with others
    (RACE: its article); chance is the accuracy
    of guessing (0 for free-form answers). n_truncated counts renderings that lost their beginning.
    """

    prompt_ids: tuple[str, ...]
    example_ids: tuple[str, ...]
    parts: tuple[str, ...]
    groups: tuple[str, ...]
    correct: NDArray[np.bool_]
    chance: float
    n_truncated: int

    def part(self, name: str) -> "ScoreMatrix":
        """Return the columns of one part."""
        columns = [i for i, part in enumerate(self.parts) if part == name]
        return ScoreMatrix(
            self.prompt_ids,
            tuple(self.example_ids[i] for i in columns),
            (name,) * len(columns),
            tuple(self.groups[i] for i in columns),
            self.correct[:, columns],
            self.chance,
            self.n_truncated,
        )
