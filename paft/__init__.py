"""PAFT: Prompt-Agnostic Fine-Tuning (arXiv 2502.12859), the reference implementation."""

import logging
import os

__version__ = "0.1.0"

# On a CPU large tensors then live in huge pages: a page fault for 2 MiB instead of one for every 4 KiB of logits, which
# makes scoring a tenth faster. PyTorch reads it with its first tensor (https://github.com/pytorch/pytorch/pull/107697).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# PEFT imports it where it is installed, and on a CPU it then warns that a kernel of its is missing, which nothing here uses.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
