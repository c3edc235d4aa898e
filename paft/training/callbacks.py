"""Lightning callbacks of a training run: the progress bar and the speed."""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from paft.data.batch import Update


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar over updates, without its bar for validation.

    It shows the loss, tokens/s and the remaining time. Validation is one batch, for which a bar says nothing.
    """

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)


class Speed(Callback):
    """Measures the tokens per second of training.

    Only real tokens count (no padding), and only the time of updates (no validation). A resumed run continues the counts of
    the processes before it.
    """

    def __init__(self) -> None:
        self.tokens = self.truncated = 0
        self.seconds = 0.0
        self.earlier_wall_s = 0.0  # of the processes that this one resumes
        self._started = time.perf_counter()
        self._last = 0.0

    def state_dict(self) -> dict[str, Any]:
        wall = self.earlier_wall_s + time.perf_counter() - self._started
        return {"tokens": self.tokens, "truncated": self.truncated, "seconds": self.seconds, "wall_s": wall}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.truncated, self.seconds = (state_dict[name] for name in ("tokens", "truncated", "seconds"))
        self.earlier_wall_s = state_dict["wall_s"]

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second over all updates of the run; 0 before the first."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.perf_counter()  # Lightning skips on_train_epoch_start where it resumes within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Update, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds, self._last = self.seconds + now - self._last, now
        self.tokens += batch.n_tokens
        self.truncated += batch.n_truncated
        pl_module.log("tokens_per_s", self.tokens_per_s, prog_bar=True)
