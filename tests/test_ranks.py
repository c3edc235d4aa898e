"""Several ranks (gloo, on the CPU): one schedule, one writer, the same numbers as one process within rounding."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paft.checkpoints import states
from paft.cli import CONFIG_PATH
from paft.errors import InputError
from paft.evaluating import run_evaluation
from paft.evaluation.store import read_cells
from paft.ranks import barrier, rank, run_on
from paft.training import run_training
from tests.conftest import compose_config, compose_evaluation

REPOSITORY = Path(CONFIG_PATH).parent
# The last update of an epoch has one example: rank 1 has none.
SHAPE = ["train_examples=25", "T=2", "trainer.micro_batch_tokens=256"]


def trained(devices: int, overrides: list[str], root: Path) -> Path:
    """Train on so many ranks; return the run's folder."""
    config = compose_config(*overrides, f"output_root={root}")
    run_on(devices, "cpu", run_training, config)
    return root / config.run_name


def trajectory(folder: Path) -> list[list[float]]:
    """Loss, gradient norm, learning rate and template of every update."""
    (path,) = folder.glob("log/version_*/metrics.csv")
    names = ("loss", "grad_norm", "lr", "template")
    return [[float(row[name]) for name in names] for row in csv.DictReader(path.open()) if row["loss"]]


def test_two_ranks_are_one_process_within_rounding(tiny_overrides, tmp_path):
    one, two = (trained(n, [*tiny_overrides, *SHAPE], tmp_path / f"{n}") for n in (1, 2))
    np.testing.assert_allclose(trajectory(two), trajectory(one), rtol=1e-4)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    for key in adapters[0]:
        torch.testing.assert_close(adapters[1][key], adapters[0][key], rtol=1e-3, atol=2e-5)
    cells = [read_cells(folder / "matrix.parquet").to_pydict() for folder in (one, two)]
    assert cells[0]["predicted"] == cells[1]["predicted"] and cells[0]["example_digest"] == cells[1]["example_digest"]
    np.testing.assert_allclose(np.concatenate(cells[1]["log_probs"]), np.concatenate(cells[0]["log_probs"]), atol=1e-3)
    assert {p.relative_to(one) for p in one.rglob("*")} == {p.relative_to(two) for p in two.rglob("*")}
    results = json.loads((two / "results.json").read_text())
    assert results["device"]["ranks"] == 2
    assert (one / "per_prompt.csv").read_text().split(",")[:2] == (two / "per_prompt.csv").read_text().split(",")[:2]


def test_a_search_an_evaluation_and_more_measures(tiny_overrides, tmp_path):
    """Whatever scores, scores on all ranks."""
    more = ["method=zopo", "method.budget=240", "also=[generate,adversarial]"]
    one, two = (trained(n, [*tiny_overrides, *more], tmp_path / f"{n}") for n in (1, 2))
    chosen = [json.loads((folder / "selection.json").read_text())["chosen"] for folder in (one, two)]
    assert chosen[0] == chosen[1]
    for name in ("generate", "adversarial"):
        tables = [
            read_cells(folder / f"{name}.parquet", ["prompt_digest", "example_digest", "predicted"]) for folder in (one, two)
        ]
        assert tables[0].equals(tables[1])
    evaluation = compose_evaluation(
        f"adapter={two / 'adapter'}", f"output_root={tmp_path / 'evaluations'}", "eval_prompts=3", "eval_examples=6",
        "accelerator=cpu", "devices=3", "batch_tokens=300", "progress=false",
    )  # fmt: skip
    run_on(3, "cpu", run_evaluation, evaluation)
    (again,) = (tmp_path / "evaluations").glob("eval-*/matrix.parquet")
    columns = ["prompt_digest", "example_digest", "predicted"]
    assert read_cells(again, columns).equals(read_cells(two / "matrix.parquet", columns))


def test_what_goes_wrong_on_ranks_is_one_sentence(tiny_overrides, tmp_path):
    config = compose_config(*tiny_overrides, "cutoff=2")
    with pytest.raises(InputError, match="which cutoff=2 has no room for"):
        run_on(2, "cpu", run_training, config)
    assert not (tmp_path / "runs").exists()


def fails_on_one_rank() -> None:
    if rank() == 1:
        raise ZeroDivisionError("here")
    barrier()


def test_a_rank_that_dies_ends_the_others(capsys):
    with pytest.raises(ChildProcessError, match=r"process 1 of 2 failed \(ZeroDivisionError\); its traceback stands above"):
        run_on(2, "cpu", fails_on_one_rank)
    assert "ZeroDivisionError: here" in capsys.readouterr().err


def is_killed() -> None:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    barrier()


def test_a_rank_that_is_killed_ends_the_others():
    with pytest.raises(ChildProcessError):
        run_on(2, "cpu", is_killed)


def test_ranks_that_are_told_to_stop_keep_the_last_update_and_go_on(tiny_overrides, tmp_path):
    small = [*tiny_overrides, "trainer=ddp", "T=100", "model.lora.dropout=0.1", "trainer.checkpoint_every=1000"]
    settings = {"cwd": REPOSITORY, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    command = [sys.executable, "train.py", *small, "validation.every=150"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings)
    while run.poll() is None and not any("\n9," in p.read_text() for p in (tmp_path / "runs").glob("*/log/*/metrics.csv")):
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM and said.count("the same command goes on") == 1 and "Traceback" not in said
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    (state,) = states(folder / "checkpoints")
    assert 10 <= torch.load(state, weights_only=True)["global_step"] < 150  # no validation was reached: the signal saved it


def test_a_killed_run_of_two_ranks_ends_bit_for_bit_as_an_undisturbed_one(tiny_llama, tmp_path):
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer=ddp"]
    script = [sys.executable, "experiments/reliability/resume.py", "--kills", "1", "--report", tmp_path / "report", *shape]
    settings = {"cwd": REPOSITORY, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
