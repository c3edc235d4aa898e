"""Lightning callbacks of a training run: the record of its updates, their speed, and how far the run is."""

import time
from collections import Counter
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from paft.data.batch import Update
from paft.runtime import ranks
from paft.runtime.progress import Progress
from paft.training.forecast import Work
from paft.training.module import PaftModule

# Losses wait on the device until there are so many, or until the oldest is so old (in seconds).
_MOST_WAITING, _LONGEST_WAIT_S = 20, 0.5
PARTS = 5  # of a training, in which draws are counted apart
_WARM_UP, _MEASURED = 3, 5  # updates: the first are slow; so many behind them tell the time of the run


class Recorder(Callback):
    """Logs every update, and measures the speed of training.

    To read a loss back from the device is to wait for the update. So the figures of updates stay on the device and are read
    back together: when there are 20 of them, or the oldest is half a second old; and before a validation, before a state is
    saved, and when training ends or fails. The clock is read at these times alone, because at others the device is still at
    work. Each update is a row in every log, with its own step number.

    Of the tokens only real ones count (no padding), of the time only that of updates (no validation). A resumed run continues
    the counts of the processes before it.
    """

    def __init__(self, started: float) -> None:
        """
        Args:
            started: when this process began the run, by time.perf_counter.
        """
        self.updates = 0  # read back by this process
        self.tokens = self.truncated = 0
        self.repeated_tokens = 0  # of updates that were computed again with perturbed embeddings
        self.drawn: Counter[tuple[int, int]] = Counter()  # renderings by part of the training and template
        self._counts_draws = True  # False: an earlier version, which did not, began the run
        self.seconds = self.loop_seconds = 0.0  # of updates; of these, outside of PaftModule.training_step
        self.loss = 0.0  # of the last update that was read back
        self.earlier_wall_s = 0.0  # of the processes that this one resumes
        self._started = started
        self._last_read = self._last_end = 0.0
        self._loggers: list[Logger] = []
        self._figures: list[Tensor] = []  # fp32 on the device: those of an update to be read back, the loss first
        self._names: list[str] = []  # of these
        self._rows: list[tuple[int, dict[str, float]]] = []  # its step, and what else is logged

    def state_dict(self) -> dict[str, Any]:
        self.read_back()  # a run that resumes from this state does not repeat these updates
        wall = self.earlier_wall_s + time.perf_counter() - self._started
        drawn = [[*of, n] for of, n in self.drawn.items()]
        counts: dict[str, Any] = {"tokens": self.tokens, "repeated_tokens": self.repeated_tokens, "truncated": self.truncated}
        if self._counts_draws:
            counts["drawn"] = drawn
        return {**counts, "seconds": self.seconds, "loop_seconds": self.loop_seconds, "wall_s": wall}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.truncated = state_dict["tokens"], state_dict["truncated"]
        self.repeated_tokens = state_dict.get("repeated_tokens", 0)  # states of earlier versions have neither
        self._counts_draws = "drawn" in state_dict
        self.drawn = Counter({(part, template): n for part, template, n in state_dict.get("drawn", [])})
        self.seconds, self.loop_seconds = state_dict["seconds"], state_dict["loop_seconds"]
        self.earlier_wall_s = state_dict["wall_s"]

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second over all updates of the run; 0 before the first."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loggers = trainer.loggers
        self._start_clock()  # Lightning skips on_train_epoch_start where it resumes within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_clock()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start_clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Update, batch_idx: int
    ) -> None:
        figures = dict(outputs)
        self._names = [name for name, value in figures.items() if isinstance(value, Tensor)]
        self._figures.append(torch.stack([figures.pop(name) for name in self._names]))  # a copy: the step may reuse them
        assert isinstance(pl_module, PaftModule) and pl_module.shown is not None
        shown, update = pl_module.shown, trainer.global_step - 1  # of several candidates the one that was trained on
        self.tokens += shown.n_tokens
        self.repeated_tokens += shown.n_tokens if pl_module.update_loss.repeats(update) else 0
        self.truncated += shown.n_truncated
        part = update * PARTS // pl_module.total_updates
        self.drawn.update((part, template) for template in (shown.templates if self._counts_draws else ()))
        now = time.perf_counter()
        self.loop_seconds += now - self._last_end - figures.pop("step_s")
        self._last_end = now
        self._rows.append((update, {"epoch": trainer.current_epoch, **figures}))
        if len(self._rows) >= _MOST_WAITING or now >= self._last_read + _LONGEST_WAIT_S:
            self.read_back()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read_back()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        with suppress(RuntimeError):  # of a device that failed; what it failed at is raised already
            self.read_back()

    def read_back(self) -> None:
        """Read the figures that wait on the device, in one copy, and log their updates."""
        if not self._rows:
            return
        asked = time.perf_counter()
        figures = torch.stack(self._figures).tolist()
        now = time.perf_counter()
        self._last_end += now - asked  # waiting for the device is no time of the loop
        self.seconds, self._last_read = self.seconds + now - self._last_read, now
        self.updates += len(self._rows)
        rows = [
            (step, {**dict(zip(self._names, of_update, strict=True)), **row, "tokens_per_s": self.tokens_per_s})
            for (step, row), of_update in zip(self._rows, figures, strict=True)
        ]
        self.loss = figures[-1][0]
        self._rows, self._figures = [], []
        if ranks.rank() == 0:
            for logger in self._loggers:
                for step, row in rows:
                    logger.log_metrics(row, step)
                logger.save()

    def _start_clock(self) -> None:
        self._last_read = self._last_end = time.perf_counter()


class ShowProgress(Callback):
    """Shows how far the run is, in one bar over the updates of all epochs, and says early how long it takes.

    The bar shows the loss, tokens/s and the time left, scoring at the end of the run included. It moves when the recorder has
    read figures back, and so never waits for the device itself.
    """

    def __init__(self, recorder: Recorder, work: Work, silent: bool) -> None:
        """
        Args:
            silent: show no bar.
        """
        self.recorder, self.work, self.silent = recorder, work, silent or ranks.rank() > 0
        self._shown = 0  # updates of this process that the bar has counted
        self._bar: Progress | None = None
        self._from = (0, 0.0, 0.0)  # updates, seconds and seconds of the loop, from where on they are measured
        self._said = False
        self._rendering_s: float | None = None
        self._validation_started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._from = (0, self.recorder.seconds, self.recorder.loop_seconds)
        self._bar = Progress("training", "updates", self.work.updates, trainer.global_step, self.silent)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Update, batch_idx: int
    ) -> None:
        self._show()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show()
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._validation_started
        self._rendering_s = seconds / self.work.scoring.validation_renderings

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show()
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _show(self) -> None:
        """Move the bar on to what was read back."""
        recorder = self.recorder
        if self._bar is None or recorder.updates == self._shown:
            return
        updates, update_s, loop_s, warm = self._measure()
        done = self._bar.done + recorder.updates - self._shown
        first_s = self.work.first_update_s(done - updates, done, update_s)
        left_s = sum(self.work.left(done, first_s, self._rendering_s))
        if warm and updates >= _MEASURED and not self._said and ranks.rank() == 0:
            self._bar.say(self.work.line(first_s, update_s, loop_s, self._rendering_s))
            self._said = True
        self._bar.note = f"loss {recorder.loss:.3f}, {recorder.tokens_per_s:,.0f} tokens/s"
        self._bar.update(recorder.updates - self._shown, left_s)
        self._shown = recorder.updates

    def _measure(self) -> tuple[int, float, float, bool]:
        """Return how many updates were measured, the seconds of one, those of its loop around the model, and if it is warm.

        Measured are the updates behind the warm-up, and until there are any, those of the warm-up.
        """
        now = (self.recorder.updates, self.recorder.seconds, self.recorder.loop_seconds)
        updates, seconds, loop = (b - a for a, b in zip(self._from, now, strict=True))
        is_warm = self._from[0] >= _WARM_UP
        if not is_warm and now[0] >= _WARM_UP:
            self._from = now
        return int(updates), seconds / updates, loop / updates, is_warm

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
