"""Hydra's Optuna plug-in searches by what a training run returns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paft.reporting.results import read_results
from tests.reliability.bad_input import ROOT


def search(*overrides: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "train.py", "-m", *overrides]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_a_search_ends_with_the_best_validation(tiny_overrides, tmp_path):
    done = search("hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optim.lr=interval(1e-4,1e-2)", *tiny_overrides, "T=1")
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("runs/sweeps/*/optimization_results.yaml")
    best = yaml.safe_load(page.read_text())
    runs = [read_results(path) for path in tmp_path.glob("runs/*/results.json")]
    figures = {run.config["optim"]["lr"]: run.training.best_validation_mean for run in runs}
    assert len(figures) == 2
    assert best["best_value"] == max(figures.values()) == figures[best["best_params"]["optim.lr"]]
    assert f"Best value: {best['best_value']}" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["hydra/sweeper=optuna"], "use hydra/sweeper=search, or give hydra.sweeper.direction=maximize."),
        (["hydra/sweeper=search", "method=base"], "method=base: nothing is trained, so there is no validation to search by."),
    ],
    ids=["the lowest", "nothing trained"],
)
def test_a_search_that_makes_no_sense_is_refused(overrides, sentence, tiny_overrides, tmp_path: Path):
    done = search(*overrides, "K=1,2", *tiny_overrides)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*/results.json"))
