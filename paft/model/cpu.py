"""What makes PyTorch faster on a CPU without touching a number."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>


def avoid_page_faults() -> None:
    """Have large tensors live in huge pages, and glibc keep freed ones instead of handing them back to the kernel.

    By default every large tensor is mapped anew and each of its 4 KiB pages faults at its first use, which costs
    training and scoring a few percent, and where logits of a large vocabulary are read a fifth. To be called before the
    first tensor is made (https://github.com/pytorch/pytorch/pull/107697). Does nothing where
    the C library is another one.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(option, value)
