"""Settings of the whole process: quiet upstream libraries, and an allocator that keeps freed memory."""

import ctypes
import logging
import os
import sys
import warnings

import transformers

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>


def quieten() -> None:
    """Silence the messages that upstream libraries print at every start; anything unexpected still shows."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices found, tips, `max_epochs` reached
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # the table that trainer.profiler asks for
    transformers.utils.logging.disable_progress_bar()
    for message in (
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 with torch 2.13
        ".*is_gradient_checkpointing. is deprecated.*",  # PEFT 0.21 with transformers 5.23
        ".*fan_in_fan_out is set to.*",  # PEFT sets it by the type of each layer
        ".*tie_word_embeddings=True.*",  # PEFT, of adapters on tied embeddings; merging unties them
        ".*your dataloader is not resumable.*",  # it is: its sampler starts at the trainer's step
        ".*Checkpoint directory .* exists and is not empty.*",  # it does when a run resumes
        ".*does not have many workers.*",  # rendering costs under 1% of a step
        ".*sync_dist=True.*",  # all ranks log the same values of a validation
    ):
        warnings.filterwarnings("ignore", message)


def repeat_exactly() -> None:
    """Have cuBLAS repeat its sums exactly, which it decides when it is first used; without a GPU this does nothing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_freed_memory() -> None:
    """Have glibc keep freed activations instead of handing them back to the kernel.

    By default every large tensor is mapped anew and each of its pages faults at its first use, which
    costs a training step a few percent. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(option, value)
