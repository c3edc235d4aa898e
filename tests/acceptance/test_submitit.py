"""Sweeps through submitit, the launcher that SLURM uses, with local processes instead."""

import subprocess
import sys

from paft.reporting.results import read_results
from tests.reliability.strike import ROOT
from tests.test_ranks import trained


def sweep(*overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", "-m", "hydra/launcher=submitit_local", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_sweep(tiny_overrides, tmp_path):
    done = sweep("seed=0,1", *tiny_overrides)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("story_facts-*/results.json"))) == 2
    assert "All runs" in done.stdout and "std of seeds" in done.stdout  # printed by the process that waits for the jobs


def test_jobs_that_failed_are_listed(tiny_overrides):
    done = sweep("train_prompts=61,62", *tiny_overrides)
    assert done.returncode == 2 and "2 runs failed; the same command tries them again:" in done.stderr
    assert "train_prompts=62: the training pool has 60 prompts" in done.stderr


def test_the_tasks_of_a_job_are_ranks_of_its_run(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = sweep("seed=0", "hydra.launcher.tasks_per_node=2", *tiny_overrides)
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("story_facts-*/results.json"))
    assert read_results(folder).device.ranks == 2
    two = trained(2, tiny_overrides, tmp_path / "two")
    for name in ("adapter/adapter_model.safetensors", "matrix.parquet"):
        assert (folder / name).read_bytes() == (two / name).read_bytes()
