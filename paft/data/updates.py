"""Which examples an optimiser update sees, under which template, and how it is split into micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paft.prompts import Schedule

_STREAM = 0x44415441  # "DATA": the data order is a seed stream of its own


@dataclass(frozen=True)
class Tagged:
    """A training example's index in the data, tagged with the index of its template in the pool."""

    row: int
    template: int


class UpdatePlan:
    """The updates of a run: a pure function of seed, epoch and update.

    Examples are drawn uniformly (a permutation an epoch); the last update of an epoch holds what is left.
    """

    def __init__(self, n_examples: int, examples_per_update: int, epochs: int, schedule: Schedule) -> None:
        self.n_examples = n_examples
        self.examples_per_update = examples_per_update
        self.epochs = epochs
        self.schedule = schedule

    @property
    def updates_per_epoch(self) -> int:
        """Number of updates of an epoch, the last one perhaps smaller."""
        return -(-self.n_examples // self.examples_per_update)

    def epoch(self, epoch: int, first_update: int = 0) -> Iterator[list[Tagged]]:
        """Yield the updates of an epoch, from `first_update` on."""
        bits = np.random.Philox(key=[self.schedule.seed, _STREAM], counter=[0, 0, epoch, 0])
        order = np.random.Generator(bits).permutation(self.n_examples).tolist()
        for update in range(first_update, self.updates_per_epoch):
            start = update * self.examples_per_update
            yield [
                Tagged(row, self.schedule.template_index(epoch=epoch, update=update, position=start + i, row=row))
                for i, row in enumerate(order[start : start + self.examples_per_update])
            ]

    def templates_seen(self) -> tuple[int, int]:
        """Return (draws, distinct templates) of the whole run."""
        n, k = self.n_examples, self.schedule.k
        draws = {"update": -(-self.updates_per_epoch // k) * self.epochs, "example": -(-n // k) * self.epochs, "row": n}
        tagged = (tag for epoch in range(self.epochs) for update in self.epoch(epoch) for tag in update)
        return draws[self.schedule.unit], len({tag.template for tag in tagged})


def split_into_micro_batches(lengths: list[int], most_tokens: int, rank: int = 0, n_ranks: int = 1) -> list[list[int]]:
    """Split sequences into micro-batches of at most `most_tokens` tokens.

    Args:
        lengths: tokens of each sequence; one longer than most_tokens is a micro-batch of its own.
        rank, n_ranks: whose micro-batches to return: the sequences are dealt out by length, so that all have as much to do.

    Returns lists of indices into `lengths`, sorted by length, so that rows of like length are together.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)[rank::n_ranks]
    batches: list[list[int]] = [[]]
    tokens = 0
    for index in order:
        tokens += lengths[index]
        if batches[-1] and tokens > most_tokens:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches if order else []
