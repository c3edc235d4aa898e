"""Fixtures: a tiny random Llama with a real tokenizer, and a way to compose configs for it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from paft.config import compose
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.prompts.sampling import Sampler
from paft.prompts.schedule import Draw
from paft.reporting.results import BaseModelRecord, Fingerprints, Results
from tests.local_hub import local_hub  # noqa: F401 (a fixture)
from tests.reliability.bad_input import write_without_heavy

NO_COMMIT = Fingerprints.model_construct(base_model=BaseModelRecord(hub_commit=None, sample=""))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 2-layer random Llama (grouped-query attention) and a byte-level BPE tokenizer."""
    from tests.tiny import save_tiny_llama  # here, since many tests need nothing heavy

    folder = tmp_path_factory.mktemp("tiny_llama")
    save_tiny_llama(folder)
    return folder


def compose_config(*overrides: str) -> TrainConfig:
    """Compose conf/train.yaml with overrides, as the command line does."""
    return compose.compose_training(overrides)


def interrupt_before_its_adapter_is_saved(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a run to its last update and interrupt it there; its states are left."""
    from paft.jobs.train import run_training

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("paft.jobs.one_run.save_adapter", interrupted)
        run_training(config)


def whole_and_resumed(overrides: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Results, Results]:
    """Train a run, and again in another place, there interrupted at its end, its newest state damaged, and resumed."""
    from paft.jobs.train import run_training
    from paft.training.checkpoints import states

    whole = run_training(compose_config(*overrides))
    config = compose_config(*overrides, f"output_root={elsewhere}")
    interrupt_before_its_adapter_is_saved(config, monkeypatch)
    states(elsewhere / config.run_name / "checkpoints")[0].write_bytes(b"torn")  # so that there is something left to train
    return whole, run_training(config)


class Killed(BaseException):
    """What a test calls a kill."""


def die_in(update: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no training of this process get beyond the beginning of an update."""
    from paft.training.module import PaftModule

    usual = PaftModule.training_step

    def step(self: PaftModule, batch: Any, batch_idx: int) -> dict[str, Any]:
        if self.global_step == update:
            raise Killed
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(PaftModule, "training_step", step)


class InTurn(Sampler):
    """A sampler whose draws take the templates of the pool in turn."""

    def index(self, draw: Draw) -> int:
        return draw.number % len(self.pool.templates)


def compose_evaluation(*overrides: str) -> EvaluateConfig:
    """Compose conf/evaluate.yaml with overrides, as the command line does."""
    return compose.compose_evaluation(overrides)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address of this machine at which nobody listens; it is taken, so that no other process comes to listen there."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{place.getsockname()[1]}"


@pytest.fixture
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with which importing torch, lightning or transformers ends the process."""
    return write_without_heavy(tmp_path_factory.mktemp("without_torch"))


@pytest.fixture
def tiny_overrides(tiny_llama: Path, tmp_path: Path) -> list[str]:
    """Overrides that make a run of seconds on the tiny Llama, in a folder of its own."""
    return small_run(tiny_llama, tmp_path / "runs")


def small_run(model: Path, root: Path) -> list[str]:
    """Overrides that make a run of seconds on a tiny model."""
    return [
        f"model.path={model}",
        "model.dtype=fp32",
        f"output_root={root}",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "train_examples=24",
        "T=2",
        "eval_examples=6",
        "eval_prompts=3",
        "validation.prompts=2",
        "validation.examples=4",
        "score_base=false",  # tests/jobs/test_beside.py has it scored
    ]
