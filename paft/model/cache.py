"""The folder of converted models."""

import os
from pathlib import Path

from paft.runtime.errors import InputError


def cache_dir() -> Path:
    """Return the folder of converted models: $PAFT_CACHE, else ~/.cache/paft.

    Raises InputError if neither is set: no PAFT_CACHE, and no home folder.
    """
    if place := os.environ.get("PAFT_CACHE"):
        return Path(place)
    try:
        return Path.home() / ".cache" / "paft"
    except RuntimeError:  # HOME is not set, and the user is not in the password file
        raise InputError("This user has no home folder to keep converted models in; set PAFT_CACHE to a folder.") from None
