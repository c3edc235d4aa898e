"""Run folders: named by content, created once the model has loaded, resumed or skipped by the same command."""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paft.runtime import ranks
from paft.runtime.errors import InputError
from paft.runtime.files import check_place, existing_parent, scratch_path, write_atomically
from paft.runtime.mappings import flat

_LOCK = ".lock"
PATIENCE_S = 6  # loader workers outlive a killed process by five seconds, and hold its lock
_POLL_S = 0.5  # between two looks at a lock that is waited for
_SHARED_S = 60  # a network file system may show a new file to other machines this late
_MARK = "run.json"
FINISHED, FAILED = "finished", "failed"  # in the folder of a sweep: a file for each job that finished, and for each that failed
_LEAST_FREE_BYTES = 200 * 2**20


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: run.json holds the identity of the run, results.json exists once the run has finished."""

    path: Path
    identity: dict[str, Any]

    @property
    def results(self) -> Path:
        """The path of results.json, which exists once the run has finished."""
        return self.path / "results.json"

    @property
    def digest(self) -> str:
        """SHA-256 (first 16 hex digits) of the run's identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @contextmanager
    def held(self, patience_s: float | None = PATIENCE_S) -> Iterator[None]:
        """Create the folder and its run.json unless they exist, and lock other processes out while the context lasts.

        Rank 0 does so for all ranks. A killed process leaves no lock behind.

        Args:
            patience_s: seconds to wait for another process; None: until it has finished, or has died.

        Raises InputError if another process still holds the lock.
        """
        if ranks.rank() > 0:
            ranks.barrier()
            self._wait_until_seen()
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=patience_s or 0)
        except Timeout:
            if patience_s is not None:
                raise InputError(
                    f"{self.path}: another process is at work on this run; wait for it, then give the same command again."
                ) from None
            print(f"Waiting for another process, which is at work on {self.path}", flush=True)
            lock.acquire(poll_interval=_POLL_S)
        try:
            if not (mark := self.path / _MARK).is_file():
                write_atomically(mark, json.dumps(self.identity, indent=2))
            ranks.barrier()  # every rank has looked at the folder before the run writes more
            yield
        finally:
            lock.release()

    def _wait_until_seen(self) -> None:
        """Wait until this rank, on whatever machine, sees what rank 0 has written; raises InputError if it does not."""
        until = time.monotonic() + _SHARED_S
        while not (self.path / _MARK).is_file():
            if time.monotonic() > until:
                raise InputError(
                    f"{self.path}: rank {ranks.rank()} on {platform.node()} does not see what rank 0 has written there; set "
                    "output_root to a folder that all machines share."
                )
            time.sleep(0.1)

    def remove_unless_computed(self) -> None:
        """Remove the folder if nothing in it took any computing, no checkpoint and no score; another process's stays."""
        if not self.path.is_dir():
            return
        with suppress(InputError), self.held(patience_s=0):
            if all(_costs_nothing(path) for path in self.path.iterdir()):
                shutil.rmtree(self.path)


def _costs_nothing(path: Path) -> bool:
    """Say whether a file or folder of a run is made anew in a moment: its mark, its prompts, logs, folders without a file."""
    made_at_once = path.name in (_MARK, _LOCK, "prompts", "log") or path.name.startswith(("wandb", "tensorboard", "mlflow"))
    return made_at_once or (path.is_dir() and not any(p.is_file() for p in path.rglob("*")))


def claim(output_root: str, name: str, identity: dict[str, Any]) -> RunFolder:
    """Return the folder of a run: one that is still to be created, or that of the same run, unfinished or finished.

    Nothing is written.

    Args:
        output_root: the folder of all runs.
        name: the name of the run's folder.
        identity: what makes the run the run it is (config and fingerprints), in plain types.

    Raises InputError if the folder belongs to something else, cannot be written to, or its disk is almost full.
    """
    path = Path(output_root) / name
    mark = path / _MARK
    leftovers = {scratch_path(mark).name, _LOCK}  # a killed process may leave them
    if path.is_dir() and {p.name for p in path.iterdir()} - leftovers:
        if not mark.is_file():
            raise InputError(f"{path}: this folder is not one of ours (it has no run.json); move it or set output_root.")
        try:
            recorded = dict(json.loads(mark.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise InputError(f"{mark}: this file is damaged; delete the folder to start the run anew.") from None
        if recorded != json.loads(json.dumps(identity)):
            asked = json.loads(json.dumps(identity))
            raise InputError(f"{path}: this run was made {_otherwise(recorded, asked)}; move it or set output_root.")
        return RunFolder(path, identity)
    check_place(f"output_root={output_root}", path)
    free = shutil.disk_usage(existing_parent(path)).free
    if free < _LEAST_FREE_BYTES:
        raise InputError(
            f"output_root={output_root}: only {free / 2**20:.0f} MiB are free on that disk; a run needs at least "
            f"{_LEAST_FREE_BYTES // 2**20} MiB."
        )
    return RunFolder(path, identity)


def _otherwise(recorded: dict[str, Any], asked: dict[str, Any]) -> str:
    """Say in what the identity that a folder records is not the one that is asked for."""
    differs = sorted(key for key in asked if recorded.get(key) != asked[key])
    if differs == ["config"]:
        before, now = (flat(each["config"]) if isinstance(each.get("config"), dict) else {} for each in (recorded, asked))
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        return f"with other settings ({', '.join(keys)})"
    if differs == ["base"]:
        return "from another base model, tokenizer, chat template or config, or by a version that did not record them"
    return f"from other {'settings, ' * ('config' in differs)}data or prompts ({', '.join(differs)})"
