"""A run that a W&B agent starts: the command that it makes of experiments/wandb_sweep.yaml, in the environment that it sets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as agent

from paft.reporting.results import read_results
from paft.reporting.wandb import has_logged
from tests.reliability.bad_input import ROOT
from tests.reporting.fake_wandb import KEY, fake_wandb

SEARCH = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
VALUES = {"optim.lr": {"value": 0.0005}, "K": {"value": 2}}  # as W&B proposes them


def started(run_id: str, tiny: list[str], place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Do what `wandb agent` does for a run; the tiny model's overrides stand before its values."""
    macros = agent.create_sweep_command_args({"args": VALUES})
    macros |= {
        "env": ["/usr/bin/env"],
        "program": [sys.executable, "-m", SEARCH["program"]],
        "args_no_hyphens": [*tiny, *macros["args_no_hyphens"]],
    }
    command = []
    for part in agent.create_sweep_command(list(SEARCH["command"])):
        command += macros[part[2:-1]] if part.startswith("${") else [part]
    parameters = place / f"config-{run_id}.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, **VALUES}))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WANDB_SWEEP_ID": "sw1",
        "WANDB_RUN_ID": run_id,
        "WANDB_SWEEP_PARAM_PATH": str(parameters),
        **variables,
    }
    return subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=600, check=False)


def test_the_search_is_by_what_a_run_logs_and_over_its_settings():
    assert SEARCH["metric"] == {"name": "objective", "goal": "maximize"} and set(SEARCH["parameters"]) == set(VALUES)
    assert {"evaluate=false", "objective=validation.worst", "logger=wandb"} <= set(SEARCH["command"])


def test_a_run_is_the_one_that_its_agent_waits_for_also_where_it_is_finished_already(tiny_overrides, tmp_path):
    done = started("agent123", tiny_overrides, tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").glob("*/results.json")
    assert [run.name.rsplit("-", 1)[1] for run in path.parent.glob("wandb/offline-run-*")] == ["agent123"]
    results = read_results(path)
    assert (results.config["K"], results.config["optim"]["lr"], results.config["evaluate"]) == (2, 0.0005, False)
    with fake_wandb() as server:  # W&B proposes the same values again
        done = started("agent456", tiny_overrides, tmp_path, WANDB_MODE="online", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert done.returncode == 0 and "W&B" not in done.stdout and "Finished already" in done.stdout, done.stdout + done.stderr
    assert (server.name, server.sweep) == ("agent456", "sw1")
    assert [row["objective"] for row in server.history if "objective" in row] == [results.robustness.min]
    assert [row["trainer/global_step"] for row in server.history if "loss" in row] == [0, 1, 2, 3, 4, 5]
    assert server.summary["objective"] == results.robustness.min


@pytest.mark.parametrize(("wanted", "has"), [("agent123", True), ("agent456", False), (None, True)])
def test_a_run_that_another_agent_waits_for_is_sent_again(wanted, has, tmp_path, monkeypatch):
    (tmp_path / "wandb_logged").write_text("agent123")
    if wanted is not None:
        monkeypatch.setenv("WANDB_SWEEP_ID", "sw1")
        monkeypatch.setenv("WANDB_RUN_ID", wanted)
    assert has_logged(tmp_path) is has
