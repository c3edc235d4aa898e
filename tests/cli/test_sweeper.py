"""Hydra's Optuna plug-in searches by what a training run returns."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import yaml
from hydra import compose, initialize_config_dir

from paft.cli.hydra_app import check_sweeper
from paft.config.compose import CONF
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
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


def test_a_search_among_runs_that_train_nothing_is_refused(tiny_overrides, tmp_path):
    done = search("hydra/sweeper=search", "method=base", "K=1,2", *tiny_overrides, "score_base=true")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: method=base: nothing is trained, so there is no validation to search by.\n" in done.stderr
    assert not list(tmp_path.glob("runs/*/results.json"))


def test_a_search_for_the_lowest_accuracy_is_refused():
    """The plug-in's own page, hydra/sweeper=optuna, looks for the lowest; that of conf/ for the highest."""
    refused = pytest.raises(InputError, match=r"use hydra/sweeper=search, or give hydra\.sweeper\.direction=maximize\.$")
    with initialize_config_dir(CONF, version_base="1.3"):
        pages = [("optuna", refused), ("optuna hydra.sweeper.direction=maximize", nullcontext()), ("search", nullcontext())]
        for page, expected in pages:
            composed = compose("train", f"hydra/sweeper={page}".split(), return_hydra_config=True)
            with expected:
                check_sweeper(composed.hydra.sweeper)
