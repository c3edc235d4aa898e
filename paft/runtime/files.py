"""Files that appear whole or not at all, places that cannot be written to, and tables that are separated in another way."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paft.runtime.errors import InputError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all, even if the process is killed."""
    scratch = scratch_path(path)
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def scratch_path(path: Path) -> Path:
    """Return the temporary path that a file is written to before it is renamed."""
    return path.with_name(f".{path.name}.tmp")


def check_place(what: str, folder: Path) -> None:
    """Check that a folder can be created and written to; raises InputError if not.

    Args:
        what: the setting that names the folder, with its value, for the error message.
    """
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise InputError(f"{what}: '~' is not expanded here; write the whole path, {folder.expanduser()}.")
    parent = existing_parent(folder)
    if not parent.is_dir():
        raise InputError(f"{what}: {parent} is a file; choose another folder.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{what}: {parent} cannot be written to; choose another folder.")


def check_page(what: str, folder: Path) -> None:
    """Check that a page, README.md, can be written into a folder, and that it takes no other's place; raises InputError."""
    check_place(what, folder)
    page = folder / "README.md"
    if page.is_file() and not any(mark in page.read_text(encoding="utf-8", errors="replace") for mark in _OF_PAGES):
        raise InputError(f"{what}: {page} is none of paft's pages, and would be lost; choose another folder.")


_OF_PAGES = ("Made by `", "# Audit of prompt pools")


def check_separator(path: Path) -> None:
    """Refuse a CSV file whose header is separated by another mark than commas, as Excel may save it; raises InputError."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(2**20)
    separator = next((mark for mark in ";\t|" if mark in header), "")
    if separator and "," not in header:
        raise InputError(f"{path}, line 1: the columns are separated by {separator!r}; separate them by commas.")


def existing_parent(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest folder above it that does."""
    return next(p for p in (path, *path.parents) if p.exists())


@contextmanager
def disk_full_is_an_input_error(folder: Path) -> Iterator[None]:
    """Turn the disk-full error of any library into an InputError that names the folder."""
    try:
        yield
    except Exception as error:  # safetensors raises its own error class
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise InputError(
            f"{folder}: the disk is full; make room and run the same command again; nothing that was finished is lost."
        ) from None


@contextmanager
def appears_whole(folder: Path) -> Iterator[Path]:
    """Give a scratch folder, which becomes `folder` once the context ends, readable by others; after an error nothing is left.

    Raises InputError if the disk is full.
    """
    scratch = scratch_path(folder)
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        with disk_full_is_an_input_error(folder):
            scratch.mkdir(parents=True)
            yield scratch
            readable_by_others(scratch)
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def readable_by_others(folder: Path) -> None:
    """Let colleagues and serving accounts read the files, because safetensors makes them readable by their owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
