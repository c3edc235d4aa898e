"""Checkpoints of a training run: the states that it resumes from, and the trained weights of the best validation.

A kill at any moment leaves a whole state behind.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
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
from paft.runtime.memory import is_out_of_memory

_SAME_SIGNAL_S = 1.0  # a signal that arrives again so soon is the same one, delivered twice
_USUAL_EVERY, _SHARE = 50, 0.05  # updates between two states, unless saving them would take more than this share of the time
_ASK_S, _ASK_UPDATES = 0.5, 20  # ranks ask each other for signals so often in seconds, and after so many updates at the latest


class SaveBest(ModelCheckpoint):
    """Keeps the trained weights of the best validation as best.ckpt, also where the run folder was moved before it resumed.

    worst is the accuracy of that validation's worst prompt, None before there is one.
    """

    def __init__(self, folder: Path, averaged: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """
        Args:
            averaged: gives the model the weights that were validated.
        """
        self.averaged = averaged
        self.worst: float | None = None
        super().__init__(
            folder,
            "best",
            monitor="validation/mean",
            mode="max",
            save_on_train_epoch_end=False,  # save when validation ends: the state saved next must already know the best
            enable_version_counter=False,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the trained weights that were validated, which are the mean over the last updates where these are averaged."""
        before = self.best_model_score
        with self.averaged():
            super().on_validation_end(trainer, pl_module)
        if self.best_model_score is not None and (before is None or self.best_model_score > before):
            worst = trainer.callback_metrics.get("validation/worst")
            self.worst = None if worst is None else float(worst)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best_model_path"]:  # in another folder Lightning would forget the score
            best = str(Path(str(self.dirpath)) / "best.ckpt")
            paths = {"best_model_path": best, "kth_best_model_path": best, "last_model_path": ""}
            state_dict = {
                **state_dict,
                **paths,
                "best_k_models": {best: state_dict["best_model_score"]},
            }
        self.worst = state_dict.get("worst")
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})

    def state_dict(self) -> dict[str, Any]:
        """Return the score of the best checkpoint and its name, without any folder of this machine."""
        state = super().state_dict()
        names = {key: Path(state[key]).name for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        return {**state, **names, "dirpath": "", "best_k_models": {}, "worst": self.worst}

    def best(self) -> Mapping[str, torch.Tensor]:
        """Return the trained weights, by name, as they were at the best validation.

        Raises InputError if the checkpoint is damaged.
        """
        try:
            checkpoint = torch.load(self.best_model_path, map_location="cpu", weights_only=True)
            adapter: dict[str, torch.Tensor] = checkpoint["state_dict"]
        except Exception as error:  # torch has no single class for a damaged file
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{self.best_model_path}: this checkpoint is damaged ({type(error).__name__}); delete the folder "
                f"{Path(self.best_model_path).parent} and give the same command again: the run is trained anew."
            ) from None
        return adapter


class SaveState(Checkpoint):
    """Saves the state that a run resumes from: every few updates, after each validation, and on a signal to stop.

    A state is saved between two updates, never within one, so that a resumed run equals an undisturbed one bit for bit. A
    signal therefore takes effect at the end of the current update. A second signal, or one during validation, takes effect
    at once. Then the handler that was installed before this one is called (submitit's queues the job again). Without such a
    handler the run ends as by Ctrl-C. All ranks stop after the same update, whichever of them receives the signal; where their
    updates are short, that is within about half a second.

    Subclasses Checkpoint so that Lightning runs it after ModelCheckpoint, whose state it saves.

    Args:
        folder: of the checkpoints.
        run: the digest that identifies the run; it is stored in each state.
        every: updates between two states; None: 50, or as many more as keep the time of saving below 5%.
        keep: how many of the newest states are kept, so that one damaged by a failing disk does not lose the run.
        total_updates: of the run.
    """

    def __init__(self, folder: Path, run: str, every: int | None, keep: int, total_updates: int) -> None:
        self.folder, self.run, self.every, self.keep, self.total_updates = folder, run, every, keep, total_updates
        self._previous_handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._update = self._saved_update = 0  # updates that are done, and those in the last state
        self._saved_at = self._saving_s = 0.0  # when the last state was whole, and how long it took
        self._asked_update, self._asked_at, self._ask_every = 0, 0.0, 1  # ranks for signals
        self._updating = False
        self._pending_signal = 0  # its number, until the update ends; 0: none
        self._signalled_at = -_SAME_SIGNAL_S

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run
        if self._updating:  # Lightning has already counted the next update as begun, and would skip it when resumed
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for count in (progress["total"], progress["current"]):
                count["ready"] -= 1
            progress["is_last_batch"] = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if ranks.rank() == 0:
            for scratch in self.folder.glob("*.tmp"):  # left by a kill while a state was written
                scratch.unlink()
        self._update = self._saved_update = self._asked_update = trainer.global_step
        self._saved_at = self._asked_at = time.perf_counter()
        self._updating = True
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in this thread alone
            for number, previous in self._previous_handlers.items():
                if previous is not signal.SIG_IGN:
                    signal.signal(number, self._on_signal)  # Lightning restores the previous handlers at the end

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Update, batch_idx: int) -> None:
        # Not at the end of the previous update: only now have its losses been logged.
        self._update = trainer.global_step
        number = self._signal_on_any_rank(trainer.global_step)
        if trainer.global_step > self._saved_update and (number or self._is_due(trainer.global_step)):
            self._save(trainer)
        self._stop_on(number)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._updating = False
        self._update = trainer.global_step
        self._stop_on(self._signal_on_any_rank())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)
        self._updating = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_on(self._signal_on_any_rank())

    def _is_due(self, update: int) -> bool:
        """Return whether a state is to be saved after so many updates; rank 0 decides by its clock."""
        if update % (self.every or _USUAL_EVERY) != 0:
            return False
        cheap = self._saving_s <= _SHARE * (time.perf_counter() - self._saved_at)
        return self.every is not None or ranks.gather(cheap)[0]

    def _signal_on_any_rank(self, update: int | None = None) -> int:
        """Return the number of a signal that some rank has received, 0 if none has.

        To ask all ranks is to wait for them. Between updates they ask each other every half second: each rank says how long its
        updates take, and from the slowest all of them count the same number of updates until the next time.

        Args:
            update: how many updates are done; None: ask in any case.
        """
        if ranks.n_ranks() == 1:
            return self._pending_signal
        done = self._ask_every if update is None else update - self._asked_update
        if done < self._ask_every:
            return 0
        now = time.perf_counter()
        signals, seconds = zip(*ranks.gather((self._pending_signal, (now - self._asked_at) / max(1, done))), strict=True)
        if update is not None:
            self._ask_every = min(_ASK_UPDATES, max(1, int(_ASK_S / max(seconds))))
            self._asked_update, self._asked_at = update, now
        return max(signals)

    def _stop_on(self, number: int) -> None:
        """Stop if `number` is a signal's; 0 is none."""
        if number:
            self._pending_signal = 0
            self._stop(number)

    def _stop(self, number: int) -> None:
        """Act on a signal, and say after which update, and from where the run resumes."""
        start = "from there" if self._saved_update == self._update else f"from update {self._saved_update}"
        where = (f"after update {self._update} of {self.total_updates}", start if self._saved_update else "from the beginning")
        stop(number, self._previous_handlers[signal.Signals(number)], where)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal until the end of the update, or stop at once where none is waited for."""
        repeated, self._signalled_at = time.monotonic() < self._signalled_at + _SAME_SIGNAL_S, time.monotonic()
        if repeated:
            return
        if self._updating and not self._pending_signal:
            self._pending_signal = number
        else:
            self._stop(number)

    def _save(self, trainer: pl.Trainer) -> None:
        started = time.perf_counter()
        path = self.folder / f"update-{trainer.global_step:07}.ckpt"
        scratch = path.with_suffix(".tmp")
        trainer.save_checkpoint(scratch)
        self._saved_update = trainer.global_step
        if ranks.rank() == 0:
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.replace(path)
            all_states = states(self.folder)
            newest = [state for state in all_states if state <= path][: self.keep]  # the run skipped any later one
            for state in all_states:
                if state not in newest:
                    state.unlink()
        ranks.barrier()  # a rank that stops next does so when no other is writing
        self._saved_at = time.perf_counter()
        self._saving_s = self._saved_at - started


def states(folder: Path) -> list[Path]:
    """Return the saved states of a run, the newest first."""
    return sorted(folder.glob("update-*.ckpt"), reverse=True)


def newest_state(folder: Path, run: str, say: Callable[[str], None] = lambda _: None) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest state of this run that is whole, and its content on the CPU; None if there is none.

    Args:
        folder: of the run's checkpoints.
        run: the digest that identifies the run.
        say: called for each newer state that is skipped, with a sentence.
    """
    for path in states(folder):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            defect = None if state["run"] == run and state["state_dict"] else "is of another run"
        except Exception as error:  # torch has no single class for a damaged file
            if is_out_of_memory(error):
                raise
            defect = f"is damaged ({type(error).__name__})"
        if defect is None:
            return path, state
        say(f"{path} {defect}; going on from the one before it, if there is one.")
    return None


def usable_state(folder: Path, run: str) -> Path | None:
    """Return the path of `newest_state`, and print which newer ones are skipped."""
    found = newest_state(folder, run, lambda sentence: print(sentence, flush=True))
    return None if found is None else found[0]
