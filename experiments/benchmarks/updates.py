"""Our training updates, timed by the epoch: a whole run of `paft train`, nothing of which is built anew here.

The same updates are made twice: the first epoch meets every shape (kernels are chosen, graphs captured), the second is timed,
between two synchronisations.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch

from experiments.benchmarks.measuring import Trace, memory, synchronise
from paft.config.compose import compose_training
from paft.config.schema import TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.updates import Tagged, Updates
from paft.jobs.encoder import make_encoder
from paft.jobs.preflight import check_run
from paft.jobs.train import run_training
from paft.model.base import device_of
from paft.reporting.results import Results
from paft.training.module import PaftModule

EPOCHS = 2  # the first warms up, the second is timed
# One prompt, next to no scoring, and no checkpoint while the clock runs.
_SETTINGS = [
    f"T={EPOCHS}", "dataset=piqa", "method=user", "model.lora.dropout=0.0", "validation.prompts=1", "validation.examples=1",
    "eval_prompts=1", "eval_examples=1", "trainer.progress=false", "trainer.checkpoint_every=1000000", "score_base=false",
]  # fmt: skip


class Workload:
    """The rows that updates are made of, under one plain prompt."""

    def __init__(self, updates: int, settings: Sequence[str]) -> None:
        """
        Args:
            updates: in an epoch.
            settings: overrides of conf/train.yaml.
        """
        sized = compose_training([*_SETTINGS, *settings])
        rows = updates * sized.examples_per_update
        self.config: TrainConfig = compose_training([*_SETTINGS, *settings, f"train_examples={rows}"])
        inputs = check_run(self.config).inputs
        assert inputs.train is not None
        self.pool, self.examples, self.task = inputs.train, inputs.examples.train, inputs.examples.task
        self.encoder = make_encoder(self.config, inputs.examples.task)
        self.updates = updates

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return device_of(self.config.trainer.accelerator)

    def rows(self) -> list[dict[str, list[int]]]:
        """Return input_ids and labels of an epoch's examples in their order; only answers have labels."""
        rows = []
        for update in PaftDataModule(self.examples, self.pool, self.encoder, self.config, self.task).updates.of_epoch(0):
            for tag in update:
                encoded = self.encoder.training(self.pool.templates[tag.template], self.examples[tag.row])
                answer = encoded.continuations[0]
                rows.append({"input_ids": encoded.context + answer, "labels": [-100] * len(encoded.context) + answer})
        return rows

    @property
    def tokens(self) -> int:
        """Real tokens of an epoch."""
        return sum(len(row["input_ids"]) for row in self.rows())


class Clock:
    """Takes the time of each epoch; a traced one profiles the last."""

    def __init__(self, device: torch.device, traced: bool = False) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.trace = Trace(device) if traced else None

    def begin(self) -> None:
        """An epoch begins."""
        synchronise(self.device)
        if self.trace is not None and len(self.seconds) == EPOCHS - 1:
            self.trace.start()
        self._began = time.perf_counter()

    def end(self) -> None:
        """An epoch ends."""
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - self._began)
        if self.trace is not None and len(self.seconds) == EPOCHS:
            self.trace.stop()


class _Timed(pl.Callback):
    """Tells the clock when the updates of an epoch begin and end."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called by Lightning."""
        self.clock.begin()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called by Lightning."""
        self.clock.end()


def run_ours(work: Workload, traced: bool = False) -> tuple[Clock, Results]:
    """Train as `paft train` does; return times and losses, and the run's results.

    Two things differ from a user's run: a callback takes the time, and every epoch has the updates of the first.
    """
    clock, of_epoch = Clock(work.device, traced), Updates.of_epoch

    def same_every_epoch(updates: Updates, epoch: int, first_update: int = 0) -> Iterator[list[Tagged]]:
        return of_epoch(updates, 0, first_update)

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(PaftModule, "configure_callbacks", lambda module: [_Timed(clock)]),
        patch.object(Updates, "of_epoch", same_every_epoch),
    ):
        results = run_training(work.config.model_copy(update={"output_root": folder}))
        (log,) = Path(folder).rglob("metrics.csv")
        with log.open(encoding="utf-8") as file:
            clock.losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    return clock, results


@dataclass(frozen=True)
class Measured:
    """One side's figures."""

    tokens_per_s: float  # real ones
    ms_per_update: float
    first_use_s: float  # what the first epoch took longer than the second
    memory: dict[str, float]  # GiB, by kind
    launches_per_update: float | None
    busy: float | None  # share of the epoch's time in which kernels ran
    shares: dict[str, float] | None  # of the busy time, by kind of work
    losses: list[float]


def measured(work: Workload, clock: Clock) -> Measured:
    """Return the figures of a run that has ended."""
    first, second = clock.seconds
    trace = clock.trace
    launches = None if trace is None else trace.launches
    return Measured(
        tokens_per_s=work.tokens / second,
        ms_per_update=1000 * second / work.updates,
        first_use_s=first - second,
        memory=memory(work.device),
        launches_per_update=None if launches is None else launches / work.updates,
        busy=None if trace is None else trace.busy_s / second,
        shares=None if trace is None else trace.shares,
        losses=clock.losses,
    )


def in_fresh_process(module: str, *arguments: str) -> Any:
    """Return the JSON that a module prints as its last line, run as a process of its own.

    Raises RuntimeError with the end of what it said if it fails.
    """
    process = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, encoding="utf-8")
    if process.returncode:
        said = " ".join(process.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{module} {' '.join(arguments)} failed ({process.returncode}): {said}")
    return json.loads(process.stdout.strip().splitlines()[-1])
