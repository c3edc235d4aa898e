"""Hydra's Optuna plug-in searches by what a training run returns: a figure of the validation prompts."""

import csv
import subprocess
from contextlib import nullcontext

import pytest
import yaml
from hydra import compose, initialize_config_dir

from paft.cli.hydra_app import check_sweeper
from paft.config.compose import CONF
from paft.jobs.train import run_training
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
from tests.commands import run_command
from tests.conftest import compose_config

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install hydra-optuna-sweeper")


def search(*overrides: str) -> subprocess.CompletedProcess:
    return run_command("train.py", "-m", *overrides)


def best_of(root) -> dict:
    (page,) = root.glob("sweeps/*/optimization_results.yaml")
    return yaml.safe_load(page.read_text())


def test_the_example_searches_by_the_worst_validation_prompt_never_scores_the_test_and_resumes(tiny_overrides, tmp_path):
    done = search("experiment=search", "hydra.sweeper.n_trials=2", *tiny_overrides, "T=1")
    assert done.returncode == 0, done.stderr
    runs = [read_results(path) for path in tmp_path.glob("runs/*/results.json")]
    assert {run.run.endswith("-validation") for run in runs} == {True} and len(runs) == 2
    best = best_of(tmp_path / "runs")
    assert best["best_value"] == max(run.robustness.min for run in runs)
    assert set(best["best_params"]) == {"optim.lr", "K"}
    assert f"Best value: {best['best_value']}" in done.stdout and done.stdout.count("All runs") == 1
    again = search("experiment=search", "hydra.sweeper.n_trials=2", *tiny_overrides, "T=1")
    assert again.stdout.count("Finished already") == 2  # the same trials are proposed


def test_the_objective_is_a_figure_of_the_validation(tiny_overrides):
    results = run_training(compose_config(*tiny_overrides))
    rows = list(csv.DictReader((results.folder / "log/version_0/metrics.csv").open()))
    validated = [(float(row["validation/mean"]), float(row["validation/worst"])) for row in rows if row["validation/mean"]]
    mean, worst = max(validated, key=lambda figures: figures[0])  # the first of equals, as the checkpoint is
    assert results.objective("validation.mean") == pytest.approx(mean)
    assert results.objective("validation.worst") == pytest.approx(worst)


def test_a_trial_that_fails_is_said_and_does_not_end_the_search(tiny_overrides, tmp_path):
    done = search("hydra/sweeper=search", "hydra.sweeper.n_trials=4", "train_prompts=choice(60,61)", *tiny_overrides, "T=1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("error: run ")]
    assert failed and done.stderr.count("the training pool has 60 prompts") == len(failed) + 1
    assert "float-castable" not in done.stdout + done.stderr
    (run,) = [read_results(path) for path in tmp_path.glob("runs/*/results.json")]
    best = best_of(tmp_path / "runs")
    assert (best["best_params"], best["best_value"]) == ({"train_prompts": 60}, run.training.best_validation_mean)


def test_a_search_among_runs_that_train_nothing_is_refused(tiny_overrides, tmp_path):
    small = ["method=base", "K=1,2", *tiny_overrides, "score_base=true"]
    done = search("hydra/sweeper=search", "hydra.sweeper.n_trials=2", *small)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert ": method=base: nothing is trained, so there is no validation to search by.\n" in done.stderr
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
