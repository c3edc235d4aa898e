"""What an update costs with the model taken out: Lightning's loop, rendering, logging, the optimizer, checkpoints.

    python -m experiments.benchmarks.loop_cost [--report experiments/results/loop_cost]

A real run of the built-in task (eight examples an update) with the real adapter of SmolLM2-135M, whose forward and backward
pass are a stub that is not counted. Every part is timed on its own, without the parts that it calls. Two ways take turns,
round by round, each with the CSV log alone and with W&B offline, too. As before: values are logged with `self.log` and so read
back at each update, AdamW works tensor by tensor, and a state is saved every 50 updates. Now: as runs are. Given is the median
over rounds. The times are CPU times of this process, so that other work on the machine counts little; what a GPU does
meanwhile hides them as long as it needs longer.
"""

import argparse
import contextlib
import functools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.data.batch import MicroBatch
from paft.data.datamodule import PaftDataModule, Renderings
from paft.jobs.one_run import PreparedRun, prepare
from paft.model.base import add_lora
from paft.reporting.loggers import run_loggers
from paft.reporting.page import bullets, table, write, write_json
from paft.reporting.provenance import provenance
from paft.reporting.wandb import RunLogger
from paft.runtime.process import keep_freed_memory, quieten
from paft.training import update_loss
from paft.training.callbacks import Recorder, ShowProgress
from paft.training.checkpoints import SaveState
from paft.training.fit import fit
from paft.training.forecast import ScoringWork
from paft.training.kernels import kernels_of
from paft.training.module import PaftModule

_UPDATES = 200
_MODEL, _VALIDATION, _CHECKPOINTS = "model", "validation", "checkpoints"
_ADAMW = torch.optim.AdamW
_PARTS: dict[str, list[tuple[Any, str]]] = {
    _MODEL: [(update_loss, "answer_loss"), (pl.LightningModule, "manual_backward")],
    _VALIDATION: [(_EvaluationLoop, "run")],
    "rendering, tokenising and packing": [(Renderings, "__getitem__")],
    "copying to the device": [(PaftDataModule, "transfer_batch_to_device")],
    "gradient norm": [(torch.nn.utils, "clip_grad_norm_")],
    "optimizer": [(_ADAMW, "step"), (torch.optim.Optimizer, "zero_grad")],
    "collecting and reading back values": [
        (pl.LightningModule, "log"), (pl.LightningModule, "log_dict"), (Recorder, "on_train_batch_end"),
        (Recorder, "read_back"), *((_LoggerConnector, f"on_batch_{end}") for end in ("start", "end")),
        (_LoggerConnector, "update_train_step_metrics"),
    ],
    "CSV log": [(CSVLogger, "log_metrics"), (CSVLogger, "save")],
    "W&B": [(RunLogger, "log_metrics")],
    _CHECKPOINTS: [(SaveState, "_save")],
    "other callbacks of ours": [
        (SaveState, "on_train_batch_start"), (PaftModule, "on_train_batch_start"), (ShowProgress, "on_train_batch_end"),
    ],
    "Lightning's loop and the rest": [
        (PaftModule, "training_step"), (_TrainingEpochLoop, "advance"), (_TrainingEpochLoop, "on_advance_end"),
    ],
}  # fmt: skip


class Parts:
    """The seconds of each part, without the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inner = [0.0]  # of each open call: the seconds of the timed calls within it

    def timed(self, part: str, call: Any) -> Any:
        """Return the call with its time taken."""

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                seconds = time.process_time() - started
                self.seconds[part] += seconds - self._inner.pop()
                self.calls[part] += 1
                self._inner[-1] += seconds

        return timed

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take the times of all parts meanwhile."""
        with contextlib.ExitStack() as stack:
            for part, calls in _PARTS.items():
                for owner, name in calls:
                    stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield


class LoggedAtEachUpdate(Recorder):
    """The way before: values go through Lightning's `self.log`, and are read back at each update."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have Lightning log."""
        trainer.log_every_n_steps = 1  # type: ignore[attr-defined]  # Lightning sets it in a connector
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the values of an update one by one."""
        self.tokens += batch.n_tokens
        now = time.perf_counter()
        self.seconds, self._last_read = self.seconds + now - self._last_read, now
        for name in ("loss", "grad_norm", "lr", "template"):
            pl_module.log(name, outputs[name], prog_bar=name == "loss")
        pl_module.log("tokens_per_s", self.tokens_per_s, prog_bar=True)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Run as before."""

    def adamw(parameters: Any, **settings: Any) -> torch.optim.AdamW:
        return _ADAMW(parameters, **settings | {"fused": False})

    with patch("paft.training.fit.Recorder", LoggedAtEachUpdate), patch.object(torch.optim, "AdamW", adamw):
        yield


def adapted(run: PreparedRun) -> PeftModel:
    """Return the adapter of SmolLM2-135M on a base with its shape, but for the layers that the adapter does not touch."""
    shape = LlamaConfig(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=8, vocab_size=8
    )
    base = AutoModelForCausalLM.from_config(shape)
    base.requires_grad_(False)
    return add_lora(base, run.config.model, seed=0)


def stub_loss(model: PeftModel, batch: MicroBatch) -> torch.Tensor:
    """Return a number that depends on each weight of the adapter."""
    return torch.stack([p.view(-1)[0] for p in model.parameters() if p.requires_grad]).sum()


def measure(run: PreparedRun, before: bool, logger: str) -> dict[str, float]:
    """Return the milliseconds of an update by part, and of one checkpoint."""
    config = run.config.model_copy(deep=True)
    config.trainer.checkpoint_every = 50 if before else None
    config.logger.wandb = logger == "W&B"
    model = adapted(run)
    assert run.inputs.train is not None
    data = PaftDataModule(run.inputs.examples.train, run.inputs.train, run.encoder, config, run.inputs.examples.task)
    parts = Parts()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(update_loss, "answer_loss", stub_loss),
        as_before() if before else contextlib.nullcontext(),
        parts.taken(),
        run_loggers(config, "loop_cost", "benchmark", Path(folder), None) as loggers,
    ):
        work, kernels = ScoringWork(1, 1), kernels_of(model, graphs=False, recorded=None)
        fit(
            model, data, config, Path(folder), "loop_cost", lambda _: {"mean": 0.5}, loggers, kernels, work, time.perf_counter()
        )
    per_update = {part: 1000 * parts.seconds[part] / _UPDATES for part in _PARTS}
    return per_update | {"one checkpoint": 1000 * parts.seconds[_CHECKPOINTS] / parts.calls[_CHECKPOINTS]}


def page(medians: dict[str, dict[str, float]], n_rounds: int) -> list[str]:
    """Return the page: a row for each part, a column for each way."""
    counted = [part for part in _PARTS if part not in (_MODEL, _VALIDATION)]
    rows = [[part, *(f"{side[part]:.2f}" for side in medians.values())] for part in counted]
    rows.append(["in all", *(f"{sum(side[part] for part in counted):.2f}" for side in medians.values())])
    checkpoint = medians["now, CSV"]["one checkpoint"]
    notes = [
        f"One checkpoint takes {checkpoint:.0f} ms. Every 50 updates of 6 ms that would be {100 * checkpoint / 300:.0f}% of "
        "their time, so by default states are saved rarer where they would take more than 5%.",
        "Rendering leaves this process with `trainer.workers`.",
    ]
    return [
        "# What an update costs with the model taken out",
        "",
        "Milliseconds of CPU time an update (eight examples of story_facts, adapter of SmolLM2-135M), one thread; "
        f"median over {n_rounds} rounds of {_UPDATES} updates.",
        "",
        *table(["", *medians], rows),
        *bullets(notes),
        "Made by `python -m experiments.benchmarks.loop_cost --report experiments/results/loop_cost`.",
    ]


def main() -> None:
    """Measure, print and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", type=Path, default=Path("outputs/loop_cost"))
    arguments = parser.parse_args()
    quieten()
    keep_freed_memory()
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "offline"
    sizes = [f"train_examples={8 * _UPDATES}", "examples_per_update=8", "T=1", "model.dtype=fp32"]
    run = prepare(compose_training(["dataset=story_facts", "trainer.accelerator=cpu", "trainer.progress=false", *sizes]))
    loggers = ["CSV", "W&B"] if find_spec("wandb") else ["CSV"]
    sides = {
        f"{'before' if before else 'now'}, {'CSV and W&B' if logger == 'W&B' else logger}": (before, logger)
        for logger in loggers
        for before in (True, False)
    }
    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append({name: measure(run, *side) for name, side in sides.items()})
        print(f"Round {number} of {arguments.rounds}", flush=True)
    medians = {name: {part: median(r[name][part] for r in rounds) for part in rounds[0][name]} for name in sides}
    lines = page(medians, len(rounds))
    print("\n".join(lines))
    write(arguments.report, lines)
    write_json(arguments.report, {"milliseconds": medians, "rounds": rounds, **provenance(torch.device("cpu"))})


if __name__ == "__main__":
    run_plain(main)
