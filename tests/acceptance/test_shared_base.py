"""Processes that need one base model: they wait for the one that scores it, and take over where it is killed."""

import os
import signal
import subprocess
import sys

import pytest

from paft.jobs.beside import base_run_of
from paft.jobs.preflight import check_run
from paft.jobs.train import run_training
from tests.conftest import compose_config
from tests.jobs.test_beside import names
from tests.reliability.strike import ROOT, start

SAVED = "paft.evaluation.store:MatrixStore.save_part"


@pytest.fixture
def typed(tiny_overrides) -> list[str]:
    """A run of seconds whose base model is scored."""
    return [*tiny_overrides, "score_base=true"]


def as_command(*overrides: str) -> subprocess.Popen[str]:
    """Start a training run in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *overrides]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_it_waits(process: subprocess.Popen[str]) -> str:
    """Read what a process prints until it waits for another one; return what it said."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("Waiting for another process"):
            return said
    pytest.fail(f"it did not wait: {said}")


def test_parallel_processes_wait_for_one_that_scores_the_base_model(typed, tmp_path):
    """The test holds the lock until both wait; then one of them scores, and the other reads what it has written."""
    base = base_run_of(compose_config(*typed))
    with check_run(base).folder.held():
        processes = [as_command(*typed, own) for own in ("seed=1", "method=base")]
        said = [until_it_waits(process) for process in processes]
    for i, process in enumerate(processes):
        out, err = process.communicate()
        assert process.returncode == 0, err
        said[i] += out
    assert names(tmp_path / "runs") == ["base", "paft"]
    assert ("Scoring the base model" in said[0]) == ("Finished already" in said[1])


def test_a_process_that_waits_takes_over_where_the_holder_is_killed(typed, tmp_path):
    """The first process stops itself before it saves its second batch, and is killed once the other one waits."""
    shape = [*typed, "trainer.micro_batch_tokens=256"]
    first = start(signal.SIGSTOP, SAVED, 2, "train", *shape)
    _, status = os.waitpid(first.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    second = as_command(*shape, "seed=1")
    until_it_waits(second)
    parts = list((tmp_path / "runs").glob("*-base-*/.matrix-*/*.parquet"))
    first.kill()
    first.wait()
    out, err = second.communicate()
    assert second.returncode == 0, err
    assert len(parts) == 1 and "Scoring the base model" in out and names(tmp_path / "runs") == ["base", "paft"]
    whole = run_training(compose_config(*shape, "method=base", f"output_root={tmp_path / 'whole'}"))
    (killed,) = (tmp_path / "runs").glob("*-base-*/matrix.parquet")
    assert killed.read_bytes() == (whole.folder / "matrix.parquet").read_bytes()
