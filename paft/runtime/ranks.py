"""Several processes (ranks) at work on one run: the number of this one, how many there are, and exchanging values.

Every rank does the same work in the same order and holds the same state. Only the examples of an update and the batches of an
evaluation are split among ranks. Rank 0 alone writes files and prints. A run on one device is one rank, the process itself.
Which rank this is stands in the variables that torchrun sets, whoever started it.
"""

import os
from typing import Any, TypeVar

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    return int(os.environ.get("RANK", 0))


def n_ranks() -> int:
    """Return how many processes work on the run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Return the number of this process among those of the run on this machine, from 0: that of its device."""
    return int(os.environ.get("LOCAL_RANK", 0))


def n_local_ranks() -> int:
    """Return how many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def barrier() -> None:
    """Wait until all ranks have called this."""
    if n_ranks() > 1:
        from torch import distributed

        distributed.barrier()


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in the order of ranks; every rank receives all of them."""
    if n_ranks() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * n_ranks()
    distributed.all_gather_object(values, value)
    return values
