"""Several processes (ranks) at work on one run: who this process is, and what they tell each other.

Every rank does the same work in the same order and knows the same things. What is split is the examples of an update and the
batches of an evaluation. Rank 0 alone writes and speaks. A run with one device is one rank, the process itself.
"""

import os
from typing import Any, TypeVar

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process among those at work on the run."""
    return int(os.environ.get("PAFT_RANK", 0))


def n_ranks() -> int:
    """Return how many processes are at work on the run."""
    return int(os.environ.get("PAFT_RANKS", 1))


def barrier() -> None:
    """Wait for all ranks."""
    if n_ranks() > 1:
        from torch import distributed

        distributed.barrier()


def gather(value: T) -> list[T]:
    """Return every rank's value, in the order of ranks, on all of them."""
    if n_ranks() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * n_ranks()
    distributed.all_gather_object(values, value)
    return values
