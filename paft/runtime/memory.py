"""Telling that memory ran out, or that a GPU went away, in whatever form a library says so.

Imports nothing heavy, so that every package and every command may use it.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paft.runtime.errors import NotEnoughMemoryError

# What says so in plain words: torch, CUDA, NCCL, HIP, MPS and Triton; the allocators of a CPU; and the libraries of NVIDIA
# that ask the driver for memory themselves (cuBLAS, cuDNN, cuSOLVER, cuSPARSE).
_WORDS = re.compile(
    r"out of memory|not enough memory|can(?:'t|not) allocate memory|bad_alloc|STATUS_(?:\w+_)?ALLOC(?:ATION)?_FAILED",
    re.IGNORECASE,
)
# Where it is the usual cause and nothing else is said: a library cannot set itself up (cublasCreate, cusolverDnCreate ...),
# or cuDNN's attention finds no room for its workspace.
_SIGNS = re.compile(r"when calling `\w+Create\(|CUDNN_STATUS_NOT_INITIALIZED|mha_graph(?:\.|->)execute\(")
# A GPU that fell off its bus, was taken from this process, or has broken memory. What a kernel of ours could cause as well (an
# illegal memory access) is not among them, because its traceback is needed.
_LOST = re.compile(
    r"CUDA error: unknown error|CUDA unknown error|no CUDA-capable device|busy or unavailable|ECC error|"
    r"MPS server|MPS client|hipErrorNoDevice|Unable to determine the device handle",
    re.IGNORECASE,
)
_LONGEST = 140  # characters of a library's own message


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on a GPU or a CPU.

    Some libraries raise classes of their own (torch.OutOfMemoryError), most raise a RuntimeError.
    """
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    said = str(error)
    return isinstance(error, RuntimeError | OSError) and bool(_WORDS.search(said) or _SIGNS.search(said))


def device_is_lost(error: BaseException) -> bool:
    """Say whether an error means that there is no GPU to compute on, or none any more."""
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


@contextmanager
def out_of_memory_is_an_input_error(way_out: Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error of any library into NotEnoughMemoryError, an InputError.

    Args:
        way_out: returns what to lower, as a clause without a full stop.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that took the room, which a sweep's next job needs
        raise NotEnoughMemoryError(f"Memory ran out ({in_short(error)}): {way_out()}.") from None


def in_short(error: BaseException) -> str:
    """Return the first line of an error as a part of a sentence, cut where it goes on for long; its type where it has none."""
    first = str(error).strip().partition("\n")[0].partition("(Could this error message be improved?")[0]
    said = re.sub(r"\. (?=[A-Z])", "; ", " ".join(first.split()))
    if len(said) > _LONGEST:
        said = said[:_LONGEST].rsplit(" ", 1)[0] + " ..."
    elif said:
        said = said.rstrip(".")
    return said or type(error).__name__
