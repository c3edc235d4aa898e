"""Our training updates, as `paft train` makes them, timed by the epoch.

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

import torch
from peft import PeftModel

from experiments.benchmarks.measuring import Trace, memory, synchronise
from paft.config.compose import compose_training
from paft.config.schema import TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.rows import load_examples
from paft.data.updates import Tagged, Updates
from paft.jobs.encoder import make_encoder
from paft.model.base import add_lora, device_of, load_base
from paft.prompts import load_pool, shipped_pool_path
from paft.training.fit import fit

EPOCHS = 2  # the first warms up, the second is timed


class Workload:
    """The renderings of a data set with letters that updates are made of: the first rows drawn, under the plain prompt."""

    def __init__(self, updates: int, settings: Sequence[str]) -> None:
        """
        Args:
            updates: in an epoch.
            settings: overrides of conf/train.yaml.
        """
        quiet = ["trainer.progress=false", "trainer.checkpoint_every=1000000", "model.lora.dropout=0.0"]
        self.config: TrainConfig = compose_training([f"T={EPOCHS}", "dataset=piqa", *quiet, *settings])
        dataset, n = self.config.dataset, updates * self.config.examples_per_update
        examples = load_examples(dataset, self.config.data_root, n, 1)
        task = examples.task
        path = shipped_pool_path(dataset.name, dataset.answer, dataset.options, "user")
        self.pool = load_pool(path, task.form(dataset.answer, dataset.options))
        self.examples = examples.train
        self.encoder = make_encoder(self.config, task)
        self.updates = updates

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return device_of(self.config.trainer.accelerator)

    def data_module(self) -> PaftDataModule:
        """Return our data module."""
        return PaftDataModule(self.examples, self.pool, self.encoder, self.config)

    def rows(self) -> list[dict[str, list[int]]]:
        """Return input_ids and labels of an epoch's examples in their order; only answers have labels."""
        rows = []
        for update in self.data_module().updates.of_epoch(0):
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
        """An epoch begins; the end of the one before has synchronised."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """An epoch ends."""
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - self._began)
        if self.trace is not None:
            (self.trace.start if len(self.seconds) < EPOCHS else self.trace.stop)()


class _SameEveryEpoch(Updates):
    """The updates of the first epoch, in every epoch; tells the clock when one begins."""

    def __init__(self, updates: Updates, clock: Clock) -> None:
        super().__init__(updates.n_examples, updates.examples_per_update, updates.epochs, updates.schedule)
        self.clock = clock

    def of_epoch(self, epoch: int, first_update: int = 0) -> Iterator[list[Tagged]]:
        self.clock.begin()
        yield from super().of_epoch(0, first_update)


def run_ours(work: Workload, traced: bool = False) -> Clock:
    """Train as `paft train` does, with a validation that only takes the time; return the time and the losses."""
    config = work.config
    base = load_base(config.model, work.device, backward=True, cutoff=work.encoder.cutoff)
    clock, data = Clock(work.device, traced), work.data_module()
    data.updates = _SameEveryEpoch(data.updates, clock)

    def validate(model: PeftModel) -> dict[str, float]:
        clock.end()
        return {"mean": 0.0}

    with tempfile.TemporaryDirectory() as folder:
        fit(add_lora(base, config.model, config.seed), data, config, Path(folder), "benchmark", validate, None)
        (log,) = Path(folder).rglob("metrics.csv")
        with log.open(encoding="utf-8") as file:
            clock.losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    return clock


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
