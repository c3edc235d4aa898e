"""What the searches need at least. Imports nothing heavy: mistakes show at once."""

from paft.config.schema import MethodConfig
from paft.prompts.perturb import Kind
from paft.runtime.errors import InputError

KINDS: tuple[Kind, ...] = ("typos", "case", "punctuation", "whitespace")  # the order of the parts is part of a prompt's idea
START = 5  # prompts that zopo tests at random


def check_budget(method: MethodConfig, n_prompts: int) -> None:
    """Raise InputError if the budget does not give every prompt that is tested one rendering."""
    least = {"top_accuracy": n_prompts, "robust": len(KINDS) * n_prompts, "zopo": min(START, n_prompts)}[method.name]
    if method.budget is not None and method.budget < least:
        raise InputError(
            f"method.budget={method.budget}: {method.name} on {n_prompts} training prompts needs {least} renderings at least."
        )
