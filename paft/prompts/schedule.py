"""The schedule: which template each training example sees (Algorithm 1 of the paper)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

ScheduleUnit = Literal["update", "example", "row"]

_STREAM = 0x50414654  # "PAFT": separates the prompt draws from every other use of the same seed


@dataclass(frozen=True)
class Schedule:
    """Draws a template of the pool uniformly, with replacement, and holds it for K units.

    A pure function of its arguments (a counter-based generator keyed by seed, epoch and draw), so
    that workers, ranks and a resumed run agree by construction.

    unit says what K counts (the paper is ambiguous):
      update   optimiser updates; all examples of an update share one template (default)
      example  positions in the epoch's order: Algorithm 1 read literally, one data point per step
      row      nothing: a function of seed and row alone, K ignored, the same in every epoch: the
               frozen assignment of the released code
    """

    pool_size: int
    k: int
    seed: int
    unit: ScheduleUnit = "update"

    def template_index(self, *, epoch: int, update: int, position: int, row: int) -> int:
        """Return the index of the template in the pool.

        Args:
            epoch: from 0; every epoch begins with a new draw.
            update: index of the optimiser update within the epoch.
            position: index of the example in the epoch's order.
            row: index of the example in the training data.
        """
        if self.unit == "row":
            return self._draw(0, row)
        return self._draw(epoch, (update if self.unit == "update" else position) // self.k)

    def _draw(self, epoch: int, draw: int) -> int:
        # Philox is a counter-based generator: one cheap evaluation per draw and no state to store.
        bits = np.random.Philox(key=[self.seed, _STREAM], counter=[0, draw, epoch, 0])
        return int(np.random.Generator(bits).integers(self.pool_size))
