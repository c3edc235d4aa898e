"""Several ranks (gloo, on the CPU), whole: what scores on all of them, signals, kills."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from paft.config.compose import compose_evaluation
from paft.evaluation.store import read_cells
from paft.jobs.evaluate import run_evaluation
from paft.runtime.launch import run_on
from paft.training.checkpoints import states
from tests.acceptance.test_kill import TRAINED
from tests.reliability.resume import log
from tests.reliability.strike import ROOT, start, start_nodes
from tests.test_ranks import trained

STEP = "paft.training.module:PaftModule.training_step"


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
    few = ["eval_prompts=3", "eval_examples=6", "trainer=ddp", "trainer.devices=3", "trainer.micro_batch_tokens=300"]
    place = [f"adapter={two / 'adapter'}", f"output_root={tmp_path / 'evaluations'}"]
    evaluation = compose_evaluation([*place, *few, "trainer.accelerator=cpu", "trainer.progress=false"])
    run_on(3, "cpu", run_evaluation, evaluation)
    (again,) = (tmp_path / "evaluations").glob("eval-*/matrix.parquet")
    columns = ["prompt_digest", "example_digest", "predicted"]
    assert read_cells(again, columns).equals(read_cells(two / "matrix.parquet", columns))


def test_ranks_that_are_told_to_stop_finish_the_update_and_another_number_of_ranks_resumes(tiny_overrides, tmp_path):
    small = [*tiny_overrides, "validation.every=6", "trainer.checkpoint_every=1000"]
    run = start(signal.SIGTERM, STEP, 3, "train", "trainer=ddp", *small)
    _, said = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM and said.count("Interrupted") == 1 and "Traceback" not in said
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    (state,) = states(folder / "checkpoints")
    assert torch.load(state, weights_only=True)["global_step"] == 3  # no validation was reached: the signal saved it
    whole, folder = (trained(1, small, root) for root in (tmp_path / "whole", tmp_path / "runs"))
    assert len(list(folder.glob("log/version_*"))) == 2
    adapters = [load_file(path / "adapter" / "adapter_model.safetensors") for path in (whole, folder)]
    for key in adapters[0]:
        torch.testing.assert_close(adapters[1][key], adapters[0][key], rtol=1e-3, atol=1e-4)


def test_a_signal_before_the_ranks_have_begun_is_not_lost(tiny_overrides, tmp_path):
    run = start(signal.SIGINT, "paft.jobs.train:run_training", 1, "train", "trainer=ddp", *tiny_overrides)
    _, said = run.communicate()
    assert run.returncode == 128 + signal.SIGINT and said.count("Interrupted") == 1 and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_nothing_is_left_running_of_a_run_that_is_killed(tiny_overrides):
    run = start(signal.SIGSTOP, STEP, 3, "train", "trainer=ddp", "trainer.workers=2", *tiny_overrides)
    assert os.WIFSTOPPED(os.waitpid(run.pid, os.WUNTRACED)[1])  # and the ranks wait for one another
    others = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate()
    assert len(others) >= 2 and not psutil.wait_procs(others, timeout=300)[1]


@pytest.mark.parametrize("more", TRAINED, ids=[*TRAINED])
def test_a_killed_run_of_two_ranks_ends_bit_for_bit_as_an_undisturbed_one(tiny_llama, tmp_path, more):
    overrides, updates = TRAINED[more]
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer=ddp", *overrides]
    script = [sys.executable, "tests/reliability/resume.py", "--kills", "1", "--report", tmp_path / "report", *shape]
    settings = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    done = subprocess.run(script, capture_output=True, timeout=1200, check=False, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 runs of {updates} updates" in done.stdout


def nodes(overrides, strike=None) -> tuple[list[int], str, str]:
    """Run on two nodes of one rank each, by torchrun; return the exit codes, what the ranks printed, and all errors."""
    launchers = start_nodes(overrides, strike)
    said = [launcher.communicate() for launcher in launchers]
    return [launcher.returncode for launcher in launchers], said[0][0] + said[1][0], said[0][1] + said[1][1]


def equal(one: Path, two: Path) -> None:
    for name in ("adapter/adapter_model.safetensors", "matrix.parquet", "per_prompt.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert log(one) == log(two)


def test_two_nodes_under_torchrun_equal_two_devices_also_when_stopped_or_killed(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shape = [*tiny_overrides, "trainer.checkpoint_every=1", "model.lora.dropout=0.1"]
    whole = trained(2, shape, tmp_path / "whole")
    strikes = {
        "undisturbed": None,
        "told to stop": (signal.SIGTERM, STEP, 2, "rank"),
        "a rank killed": (signal.SIGKILL, STEP, 3, "rank"),
        "a launcher killed": (signal.SIGKILL, STEP, 3, "launcher"),
    }
    for name, strike in strikes.items():
        root = tmp_path / name
        overrides = [*shape, f"output_root={root}"]
        if strike is not None:
            codes, _, errors = nodes(overrides, strike)
            (folder,) = (path.parent for path in root.glob("*/run.json"))
            assert all(codes) and not (folder / "results.json").exists()
            assert torch.load(states(folder / "checkpoints")[0], weights_only=True)["global_step"] == 2
            if name == "told to stop":
                # After 2, or at the validation that follows update 3: by how long the ranks' updates take.
                said = re.findall(r"Interrupted after update (\d) of 6; the same command resumes from (there|update 2)", errors)
                assert said in ([("2", "there")], [("3", "update 2")])
        codes, printed, errors = nodes(overrides)
        assert codes == [0, 0], errors
        assert printed.count("Run ") == 1 and printed.count("Results: ") == 1
        equal(whole, next(root.glob("*/results.json")).parent)


def test_a_mistake_is_said_once_by_ranks_of_torchrun(tiny_overrides, tmp_path):
    codes, printed, errors = nodes([*tiny_overrides, "cutoff=2"])
    assert all(codes) and errors.count("error: ") == 1 and "which cutoff=2 has no room for" in errors and not printed
    assert not (tmp_path / "runs").exists()
