"""Run folders: named by content, created once the model has loaded, continued or skipped by the same command."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paft import ranks
from paft.errors import InputError

_LOCK = ".lock"
_PATIENCE_S = 6  # loader workers outlive a killed process by five seconds, and hold its lock
_MARK = "run.json"
_LEAST_FREE_BYTES = 200 * 2**20


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: run.json says what it is, results.json that it is finished."""

    path: Path
    identity: dict[str, Any]

    @property
    def results(self) -> Path:
        """Where the results of a finished run lie."""
        return self.path / "results.json"

    @property
    def digest(self) -> str:
        """A short name of what the run is."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder with its run.json, unless it is there, and keep other processes out of it.

        Of several ranks the first does so for all. A killed process leaves no lock behind.

        Raises InputError if another process is at work in it.
        """
        if ranks.rank() > 0:
            ranks.barrier()
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK, timeout=_PATIENCE_S)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{self.path}: another process is at work on this run; wait for it, then give the same command again."
            ) from None
        try:
            if not (mark := self.path / _MARK).is_file():
                write_atomically(mark, json.dumps(self.identity, indent=2))
            ranks.barrier()  # all have read what was there before
            yield
        finally:
            lock.release()


def claim(output_root: str, name: str, identity: dict[str, Any]) -> RunFolder:
    """Find the place of a run: a folder still to be created, or an unfinished or finished one of the same run.

    Nothing is written here.

    Args:
        identity: what the run is (config and fingerprints), in plain types.

    Raises InputError for a folder of something else, a place that cannot be written to, or a full disk.
    """
    path = Path(output_root) / name
    mark = path / _MARK
    left = {_scratch(mark).name, _LOCK}  # by a kill, perhaps
    if path.is_dir() and {p.name for p in path.iterdir()} - left:
        if not mark.is_file():
            raise InputError(f"{path}: this folder is not one of ours (it has no run.json); move it or set output_root.")
        try:
            found = dict(json.loads(mark.read_text()))
        except (ValueError, TypeError):
            raise InputError(f"{mark}: this file is damaged; delete the folder to start the run anew.") from None
        if found != json.loads(json.dumps(identity)):
            differs = ", ".join(sorted(key for key in identity if found.get(key) != json.loads(json.dumps(identity[key]))))
            raise InputError(f"{path}: this run was made from other data or prompts ({differs}); move it or set output_root.")
        return RunFolder(path, identity)
    check_place(f"output_root={output_root}", path)
    free = shutil.disk_usage(_there(path)).free
    if free < _LEAST_FREE_BYTES:
        raise InputError(
            f"output_root={output_root}: only {free / 2**20:.0f} MiB are free on that disk; a run needs at least "
            f"{_LEAST_FREE_BYTES // 2**20} MiB."
        )
    return RunFolder(path, identity)


def check_place(what: str, folder: Path) -> None:
    """Refuse a place where no folder can be made, or be written to; raises InputError.

    Args:
        what: the setting that names it, and its value.
    """
    parent = _there(folder)
    if not parent.is_dir():
        raise InputError(f"{what}: {parent} is a file; choose another folder.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{what}: {parent} cannot be written to; choose another folder.")


def _there(path: Path) -> Path:
    """Return the path, or the first folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    scratch = _scratch(path)
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


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
