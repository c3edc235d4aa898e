"""What to do with a batch that does not fit into memory."""

import gc
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from paft.evaluation.cells import Cell

T = TypeVar("T")


class WithinMemory(Generic[T]):
    """Answers a batch, in halves where it does not fit into memory, and remembers what did not.

    Args:
        answer: returns one value per cell.
    """

    def __init__(self, answer: Callable[[Sequence[Cell]], Sequence[T]]) -> None:
        self.answer = answer
        self.too_many: float = float("inf")  # tokens

    def __call__(self, cells: Sequence[Cell]) -> list[T]:
        """Return a value per cell; raises what `answer` raises where a single cell does not fit."""
        tokens = sum(cell.n_tokens for cell in cells)
        if tokens < self.too_many or len(cells) == 1:
            try:
                return list(self.answer(cells))
            except (RuntimeError, MemoryError) as error:
                if len(cells) == 1 or not _out_of_memory(error):
                    raise
            self.too_many = tokens
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        half = len(cells) // 2
        return self(cells[:half]) + self(cells[half:])


def _out_of_memory(error: Exception) -> bool:
    """A CPU's allocator, and cuBLAS, have no exception of their own for it."""
    words = ("not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
