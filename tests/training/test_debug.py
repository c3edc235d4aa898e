"""conf/debug for real: each does what it is for, on a tiny Llama."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paft.config.compose import CONF
from paft.jobs.train import run_training
from paft.reporting.results import Results
from tests.conftest import compose_config


def run(model: Path, root: Path, *overrides: str) -> Results:
    """Train with the sizes that conf/debug gives, not with those of tiny_overrides."""
    here = [f"model.path={model}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false"]
    return run_training(compose_config(*here, *overrides, f"output_root={root}"))


def test_fast_goes_through_everything(tiny_llama, tmp_path):
    results = run(tiny_llama, tmp_path, "debug=fast")
    assert (results.training.updates, results.plan.test_renderings) == (2, 2 * 4)
    left = {path.name for path in results.folder.iterdir()}
    assert left > {"adapter", "checkpoints", "log", "matrix.parquet", "per_prompt.csv", "report.html", "results.json"}


def test_profiler_prints_where_the_time_goes(tiny_llama, tmp_path):
    """In a fresh process: the command's Hydra silences the loggers of what is imported already, in tests.commands, too."""
    here = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false"]
    command = [sys.executable, "train.py", "debug=profiler", *here, "train_examples=16", f"output_root={tmp_path}"]
    done = subprocess.run(command, cwd=Path(CONF).parent, capture_output=True, text=True, timeout=900, check=True)
    printed = done.stdout + done.stderr
    assert "FIT Profiler Report" in printed and "run_training_batch" in printed


@pytest.fixture
def outspoken_llama(tiny_llama, tmp_path) -> Path:
    """The tiny Llama with embeddings, and so a head, thirty times as large.

    Without that its logits stay within 0.7 of each other, whatever its hidden states are, and no loss comes near zero.
    """
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.get_input_embeddings().weight *= 30
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_overfit_brings_the_loss_near_zero(outspoken_llama, tmp_path):
    results = run(outspoken_llama, tmp_path / "runs", "debug=overfit", "lora@model.lora=all_linear", "optim.lr=1e-2")
    rows = csv.DictReader((results.folder / "log" / "version_0" / "metrics.csv").open())
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(losses) == 100 and losses[-1] < losses[0] / 20  # rounding, by machine, decides how near
