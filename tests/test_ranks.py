"""Several ranks (gloo, on the CPU): one schedule, one writer, the same numbers as one process within rounding."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from paft.config.compose import CONF
from paft.evaluation.store import read_cells
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from paft.runtime.launch import run_on
from paft.runtime.ranks import barrier, rank
from paft.training.checkpoints import states
from tests.conftest import compose_config, compose_evaluation

REPOSITORY = Path(CONF).parent
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
    more = ["method=zopo", "method.budget=240", "extra_measures=[generate,adversarial]"]
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
        "trainer.accelerator=cpu", "trainer.devices=3", "trainer.micro_batch_tokens=300", "trainer.progress=false",
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


def waits_the_first_time(folder: Path) -> None:
    began = folder / f"began-{rank()}"
    if not began.exists():
        began.touch()
        time.sleep(120)
    (folder / f"done-{rank()}").touch()


def test_a_handler_that_lets_the_work_go_on_starts_the_ranks_again(tmp_path):
    """As submitit's does for SIGTERM."""

    def tell() -> None:
        while len(list(tmp_path.glob("began-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    called: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: called.append(number))
    try:
        threading.Thread(target=tell, daemon=True).start()
        run_on(2, "cpu", waits_the_first_time, tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert called == [signal.SIGUSR1] and len(list(tmp_path.glob("done-*"))) == 2


SETTINGS = {"cwd": REPOSITORY, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}


def started(overrides: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "train.py", "trainer=ddp", *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **SETTINGS)


def wait_for_update(number: int, run: subprocess.Popen[str], root: Path) -> None:
    while run.poll() is None and not any(f"\n{number}," in path.read_text() for path in root.glob("*/log/*/metrics.csv")):
        time.sleep(0.01)
    assert run.poll() is None


def test_ranks_that_are_told_to_stop_keep_the_last_update_and_another_number_of_ranks_goes_on(tiny_overrides, tmp_path):
    small = [*tiny_overrides, "T=20", "validation.every=30", "trainer.checkpoint_every=1000"]
    run = started(small)
    wait_for_update(1, run, tmp_path / "runs")
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM and said.count("the same command goes on") == 1 and "Traceback" not in said
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    (state,) = states(folder / "checkpoints")
    done = torch.load(state, weights_only=True)["global_step"]
    assert 3 <= done < 30  # no validation was reached: the signal saved it
    whole, folder = (trained(1, small, root) for root in (tmp_path / "whole", tmp_path / "runs"))
    assert len(list(folder.glob("log/version_*"))) == 2
    adapters = [load_file(path / "adapter" / "adapter_model.safetensors") for path in (whole, folder)]
    for key in adapters[0]:
        torch.testing.assert_close(adapters[1][key], adapters[0][key], rtol=1e-3, atol=1e-4)


def test_a_signal_before_the_ranks_have_begun_is_not_lost(tiny_overrides, tmp_path):
    run = started(tiny_overrides)
    while run.poll() is None and not any("spawn_main" in " ".join(p.cmdline()) for p in psutil.Process(run.pid).children()):
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGINT and "the same command goes on" in said and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_nothing_is_left_running_of_a_run_that_is_killed(tiny_overrides, tmp_path):
    run = started([*tiny_overrides, "T=100", "trainer.workers=2"])
    wait_for_update(3, run, tmp_path / "runs")
    others = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate(timeout=60)
    assert len(others) >= 2 and not psutil.wait_procs(others, timeout=30)[1]


def test_a_killed_run_of_two_ranks_ends_bit_for_bit_as_an_undisturbed_one(tiny_llama, tmp_path):
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer=ddp"]
    script = [sys.executable, "tests/reliability/resume.py", "--kills", "1", "--report", tmp_path / "report", *shape]
    done = subprocess.run(script, capture_output=True, timeout=600, check=False, **SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
