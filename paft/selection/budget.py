"""The smallest budget of each search. Nothing heavy is imported here, so that a mistake shows at once."""

from paft.config.schema import MethodConfig
from paft.prompts.perturb import Kind
from paft.runtime.errors import InputError

# Perturbations of form alone; not reorder, because the order of its parts belongs to a prompt.
KINDS: tuple[Kind, ...] = ("typos", "case", "punctuation", "whitespace")
START = 5  # prompts that zopo tests at random before it follows the gradient


def check_budget(method: MethodConfig, n_prompts: int) -> None:
    """Raise InputError if the budget is less than one rendering for each prompt that the search must test."""
    least = {"top_accuracy": n_prompts, "robust": len(KINDS) * n_prompts, "zopo": min(START, n_prompts)}[method.name]
    if method.budget is not None and method.budget < least:
        raise InputError(
            f"method.budget={method.budget}: {method.name} on {n_prompts} training prompts needs {least} renderings at least."
        )
