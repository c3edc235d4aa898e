"""The schedule: when a template is drawn, and which draw each training example sees (Algorithm 1 of the paper).

Which template a draw gives is the sampler's to say (sampling.py).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

ScheduleUnit = Literal["update", "example", "row"]


class Draw(NamedTuple):
    """One draw of a template, by its place in the run."""

    epoch: int  # from 0
    number: int  # in the epoch, from 0; of unit=row the number of the row
    slot: int = 0  # which of the templates that an update holds at once, or which candidate of sampler=worst_of


@dataclass(frozen=True)
class Schedule:
    """Says which draw's template an example is shown under; a draw holds for K units.

    unit says what K counts (the paper is ambiguous):
      update   optimiser updates; the examples of an update share a template, or as many as the update holds (default)
      example  positions in the epoch's order: Algorithm 1 read literally, one data point per step
      row      nothing: each row has one draw, K ignored, the same in every epoch: the frozen assignment of the released code
    """

    k: int
    unit: ScheduleUnit = "update"

    def draws_per_epoch(self, updates: int, examples: int) -> int:
        """Return the number of draws in an epoch of so many updates and examples; unit=row has as many in the whole run."""
        return {"update": -(-updates // self.k), "example": -(-examples // self.k), "row": examples}[self.unit]

    def draw(self, *, epoch: int, update: int, position: int, row: int, slot: int = 0) -> Draw:
        """Return the draw whose template an example is shown under.

        Args:
            epoch: from 0; every epoch begins with a new draw.
            update: index of the optimiser update within the epoch.
            position: index of the example in the epoch's order.
            row: index of the example in the training data.
            slot: which of the update's templates the example has.
        """
        if self.unit == "row":
            return Draw(0, row)
        if self.unit == "example":
            return Draw(epoch, position // self.k)
        return Draw(epoch, update // self.k, slot)
