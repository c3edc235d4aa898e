"""PAFT: Prompt-Agnostic Fine-Tuning (arXiv 2502.12859), the reference implementation.

The Python API: train, evaluate, compare (documented in paft/jobs/api.py), and the types that they take and return. Importing
paft is quick; a name is loaded when it is first used.
"""

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from paft.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from paft.jobs.api import compare, evaluate, train
    from paft.prompts import PromptPool, PromptTemplate
    from paft.reporting.results import Results
    from paft.runtime.errors import InputError

__all__ = ["InputError", "PromptPool", "PromptTemplate", "Results", "compare", "evaluate", "train"]

_HOME = {
    "InputError": "paft.runtime.errors",
    "PromptPool": "paft.prompts",
    "PromptTemplate": "paft.prompts",
    "Results": "paft.reporting.results",
    "compare": "paft.jobs.api",
    "evaluate": "paft.jobs.api",
    "train": "paft.jobs.api",
}


def __getattr__(name: str) -> Any:
    """Load a name of the API when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'paft' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# On a CPU large tensors then live in huge pages: a page fault for 2 MiB instead of one for every 4 KiB of logits, which
# makes scoring a tenth faster. PyTorch reads it with its first tensor (https://github.com/pytorch/pytorch/pull/107697).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# PEFT imports it where it is installed, and on a CPU it then warns that a kernel of its is missing, which nothing here uses.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
