"""Finding a pool: a file of one's own, or a pool that comes with the package, by its name."""

from collections.abc import Mapping
from pathlib import Path

from paft.prompts.compose import compose
from paft.prompts.pool import Form, PromptPool, check_fields, load_pool, shipped_pool_path
from paft.runtime.errors import InputError

COMPOSED = "composed"  # the name of the shipped pools that are put together from parts
_COMPOSED_SIZE = 400


def find_pool(given: str | None, folder: str, split: str, form: Form, aliases: Mapping[str, str] | None = None) -> PromptPool:
    """Load the pool that a setting names.

    Args:
        given: a file, or the name of a shipped pool (composed, adversarial ...); None: the shipped one of the split.
        folder: the shipped pools of which task.
        split: what the pool is for.
        form: what its templates must hold.
        aliases: other people's field names for ours.

    Raises InputError that names the file and the line, or says that no such pool is shipped.
    """
    if given == "":
        raise InputError(f"prompts.{split} has no value; name a file of prompts, or leave it out.")
    if given is not None and (Path(given).suffix or Path(given).exists()):
        return load_pool(Path(given), form, aliases)
    if given == COMPOSED:
        return composed_pool(folder, form, split)
    return load_pool(shipped_pool_path(folder, form.answer, form.options, split, given), form, aliases)


def composed_pool(folder: str, form: Form, split: str = "train") -> PromptPool:
    """Compose the 400 prompts of a task from the parts that are shipped.

    Which 400 these are is fixed by the seed 0; tests/prompts/test_compose.py pins their fingerprints.

    Raises InputError if no parts are shipped for this form.
    """
    parts = shipped_pool_path(folder, form.answer, form.options, split, COMPOSED)
    pool = compose(parts, _COMPOSED_SIZE)
    for template in pool.templates:
        check_fields(f"{parts}, {template.id}", template, form)
    return pool
