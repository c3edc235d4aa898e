"""Few-shot: training rows that are shown, with their answers, before the row that is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paft.data.tasks.base import Example
from paft.prompts.schedule import Draw

_STREAM = 0x53484F54  # "SHOT": separates these draws from every other use of the same seed
_ROW = 1 << 32  # a row's place in the key, above the stream


@dataclass(frozen=True)
class Shots:
    """Draws the shots of training examples: n others of them, anew with each draw of a template.

    compared: whether an example's renderings under several templates of a draw are compared; they then have the same shots,
    so that they differ in the template alone.

    A pure function of the seed, the draw and the example, so that loader workers, ranks and a resumed run agree.
    """

    examples: Sequence[Example]
    n: int
    seed: int
    compared: bool = False

    def of(self, draw: Draw, row: int) -> list[Example]:
        """Return the shots of the example `row` under a draw, in a random order; never the example itself."""
        if not self.n:
            return []
        slot = 0 if self.compared else draw.slot
        bits = np.random.Philox(key=[self.seed, row * _ROW + _STREAM], counter=[0, draw.number, draw.epoch, slot])
        chosen = np.random.Generator(bits).choice(len(self.examples) - 1, self.n, replace=False)
        return [self.examples[i + (i >= row)] for i in chosen.tolist()]
