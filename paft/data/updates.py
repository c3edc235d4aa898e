"""The updates of a run: the examples that each optimiser update sees, and the template of each example."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paft.config.schema import TrainConfig
from paft.prompts import Schedule

_STREAM = 0x44415441  # "DATA": the data order has its own seed stream


def updates_of(config: TrainConfig, n_examples: int, n_templates: int) -> "Updates":
    """Return the updates of a run on n_examples examples, whose schedule draws from n_templates templates."""
    schedule = Schedule(n_templates, config.K, config.seed, config.schedule.unit)
    return Updates(n_examples, config.examples_per_update, config.T, schedule)


@dataclass(frozen=True)
class Tagged:
    """A training example's index in the data, tagged with the index of its template in the pool."""

    row: int
    template: int


class Updates:
    """The updates of a run: a pure function of seed, epoch and update.

    Each epoch is a new permutation of the examples; the last update of an epoch holds those that remain.
    """

    def __init__(self, n_examples: int, examples_per_update: int, epochs: int, schedule: Schedule) -> None:
        self.n_examples = n_examples
        self.examples_per_update = examples_per_update
        self.epochs = epochs
        self.schedule = schedule

    @property
    def per_epoch(self) -> int:
        """Number of updates per epoch; the last one may be smaller."""
        return -(-self.n_examples // self.examples_per_update)

    @property
    def total(self) -> int:
        """Number of updates of the run."""
        return self.per_epoch * self.epochs

    def of_epoch(self, epoch: int, first_update: int = 0) -> Iterator[list[Tagged]]:
        """Yield the updates of an epoch, starting at `first_update`."""
        bits = np.random.Philox(key=[self.schedule.seed, _STREAM], counter=[0, 0, epoch, 0])
        order = np.random.Generator(bits).permutation(self.n_examples).tolist()
        for update in range(first_update, self.per_epoch):
            start = update * self.examples_per_update
            yield [
                Tagged(row, self.schedule.template_index(epoch=epoch, update=update, position=start + i, row=row))
                for i, row in enumerate(order[start : start + self.examples_per_update])
            ]

    def templates_seen(self) -> tuple[int, int]:
        """Return (number of draws, number of distinct templates drawn) in the whole run."""
        n, k = self.n_examples, self.schedule.k
        draws = {"update": -(-self.per_epoch // k) * self.epochs, "example": -(-n // k) * self.epochs, "row": n}
        tagged = (tag for epoch in range(self.epochs) for update in self.of_epoch(epoch) for tag in update)
        return draws[self.schedule.unit], len({tag.template for tag in tagged})
