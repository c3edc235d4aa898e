"""Writing files so that they are there whole or not at all, and saying in a sentence where nothing can be written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paft.runtime.errors import InputError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    scratch = scratch_path(path)
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def scratch_path(path: Path) -> Path:
    """Return where a file is written before it takes its name."""
    return path.with_name(f".{path.name}.tmp")


def check_place(what: str, folder: Path) -> None:
    """Refuse a place where no folder can be made, or be written to; raises InputError.

    Args:
        what: the setting that names it, and its value.
    """
    parent = existing_parent(folder)
    if not parent.is_dir():
        raise InputError(f"{what}: {parent} is a file; choose another folder.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{what}: {parent} cannot be written to; choose another folder.")


def existing_parent(path: Path) -> Path:
    """Return the path, or the first folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


@contextmanager
def disk_full_is_an_input_error(folder: Path) -> Iterator[None]:
    """Turn the disk-full errors that any library may raise into our sentence."""
    try:
        yield
    except Exception as error:  # safetensors has an error class of its own
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise InputError(
            f"{folder}: the disk is full; make room and run the same command again; nothing that was finished is lost."
        ) from None
