"""Checkpoints of a training run: the state to go on from, which a kill at any moment leaves whole, and the best adapter."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from paft.data.batch import Update
from paft.runtime import ranks
from paft.runtime.errors import InputError
from paft.runtime.launch import SIGNALS, stop

_AT_ONCE_S = 1.0  # a signal that comes twice so soon came by two ways


class SaveBest(ModelCheckpoint):
    """Keeps the adapter of the best validation as best.ckpt, also when the run folder was moved in between."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            "best",
            monitor="validation/mean",
            mode="max",
            save_on_train_epoch_end=False,  # but when validation ends: the state that is saved then must know the best
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["dirpath"] != self.dirpath and state_dict["best_model_path"]:  # Lightning would forget the best score
            best = str(Path(str(self.dirpath)) / "best.ckpt")
            paths = {"best_model_path": best, "kth_best_model_path": best, "last_model_path": ""}
            state_dict = {
                **state_dict,
                **paths,
                "dirpath": self.dirpath,
                "best_k_models": {best: state_dict["best_model_score"]},
            }
        super().load_state_dict(state_dict)

    def best(self) -> Mapping[str, torch.Tensor]:
        """Return the adapter of the best validation; raises InputError if its file is damaged."""
        try:
            checkpoint = torch.load(self.best_model_path, map_location="cpu", weights_only=True)
            found: dict[str, torch.Tensor] = checkpoint["state_dict"]
        except Exception as error:  # torch has no one class for a damaged file
            raise InputError(
                f"{self.best_model_path}: this checkpoint is damaged ({type(error).__name__}); delete the folder "
                f"{Path(self.best_model_path).parent} and give the same command again: the run is trained anew."
            ) from None
        return found


class SaveState(Checkpoint):
    """Keeps the state to go on from: every few updates, after each validation, and when the run is told to stop.

    A state is saved between two updates, never within one, so that a run that goes on is bit for bit the undisturbed one. A
    signal therefore waits for the end of its update; a second one does not wait, nor does one during validation. A handler
    that was there before (submitit's, which queues the job again) is called then; without one the run ends as by Ctrl-C.
    Several ranks stop after the same update, whichever is told first.

    A Checkpoint so that Lightning calls it among those, after the ModelCheckpoint whose state it must hold.

    Args:
        run: what identifies the run; a checkpoint of another one is not gone on from.
        every: updates between two states.
        keep: how many of the newest states are kept; one damaged by a failing disk is then no loss of all.
    """

    def __init__(self, folder: Path, run: str, every: int, keep: int) -> None:
        self.folder, self.run, self.every, self.keep = folder, run, every, keep
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._saved = 0
        self._updating = False
        self._told = 0  # the number of a signal that waits
        self._told_at = -_AT_ONCE_S

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run
        if self._updating:  # Lightning has begun to count the next update, which it would not do over
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for count in (progress["total"], progress["current"]):
                count["ready"] -= 1
            progress["is_last_batch"] = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if ranks.rank() == 0:
            for torn in self.folder.glob("*.tmp"):  # a kill may have left it
                torn.unlink()
        self._saved = trainer.global_step
        self._updating = True
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number, before in self._before.items():
                if before is not signal.SIG_IGN:
                    signal.signal(number, self._tell)  # Lightning puts the earlier ones back in the end

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Update, batch_idx: int) -> None:
        # Here, not at the end of the update before: its losses are logged now.
        told = self._any_told()
        if (told or trainer.global_step % self.every == 0) and trainer.global_step > self._saved:
            self._save(trainer)
        self._obey(told)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._updating = False
        self._obey(self._any_told())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)
        self._updating = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._obey(self._any_told())

    def _any_told(self) -> int:
        """Return the signal that a rank was told, 0 if none was."""
        return max(ranks.gather(self._told))

    def _obey(self, told: int) -> None:
        if told:
            self._told = 0
            stop(told, self._before[signal.Signals(told)])

    def _tell(self, number: int, frame: FrameType | None) -> None:
        again, self._told_at = time.monotonic() < self._told_at + _AT_ONCE_S, time.monotonic()
        if again:
            return
        if self._updating and not self._told:
            self._told = number
        else:
            stop(number, self._before[signal.Signals(number)])

    def _save(self, trainer: pl.Trainer) -> None:
        path = self.folder / f"update-{trainer.global_step:07}.ckpt"
        scratch = path.with_suffix(".tmp")
        trainer.save_checkpoint(scratch)
        self._saved = trainer.global_step
        if ranks.rank() == 0:
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.replace(path)
            there = states(self.folder)
            kept = [state for state in there if state <= path][: self.keep]  # a later one was passed over by the run
            for old in there:
                if old not in kept:
                    old.unlink()
        ranks.barrier()  # who is told to stop next leaves nobody at work on a file


def states(folder: Path) -> list[Path]:
    """Return the states that a run may go on from, the newest first."""
    return sorted(folder.glob("update-*.ckpt"), reverse=True)


def usable_state(folder: Path, run: str) -> Path | None:
    """Return the newest state that is whole and of this run, None if there is none; says which were passed over, and why."""
    for path in states(folder):
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            wrong = None if found["run"] == run and found["state_dict"] else "is of another run"
        except Exception as error:  # torch has no one class for a damaged file
            wrong = f"is damaged ({type(error).__name__})"
        if wrong is None:
            return path
        print(f"{path} {wrong}; going on from the one before it, if there is one.", flush=True)
    return None
