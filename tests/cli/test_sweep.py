"""A sweep ends with the table of its runs, and says what failed, what was not finished and where it was interrupted."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError
from submitit import SlurmExecutor
from submitit.core.utils import UncompletedJobError

from paft.cli import hydra_app, sweep
from paft.reporting.collect import collect
from paft.reporting.sweep import report
from tests.commands import run_command
from tests.reliability.bad_input import is_one_sentence


def swept(*overrides: str, script: str = "train.py") -> subprocess.CompletedProcess[str]:
    return run_command(script, "-m", *overrides)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").open()))


def test_a_sweep_ends_with_its_table_and_tells_each_failure_once_and_in_its_list(tiny_overrides, tmp_path):
    done = swept("train_prompts=60,61", "seed=0,1", *tiny_overrides)
    reason = "train_prompts=61: the training pool has 60 prompts"
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Error executing job" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == [f"run {n} of 4 (train_prompts=61 seed={n - 3})" for n in (3, 4)]
    assert done.stderr.count(reason) == len(errors) + 1
    listed = done.stderr.partition("2 runs failed; the same command tries them again:\n")[2]
    assert listed.startswith(f"  train_prompts=61 seed=0, train_prompts=61 seed=1: {reason}")
    assert "not finished" not in done.stderr

    assert done.stdout.count("All runs") == 1 and "std of seeds" in done.stdout
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    (row,) = rows_of(folder)
    assert (row["seeds"], row["seeds: n"]) == ("0 1", "2") and f"Report: {folder}/index.html" in done.stdout
    assert {"README.md", "index.html", "distribution_story_facts.png"} <= {path.name for path in folder.iterdir()}

    report([folder], tmp_path / "again")  # the sweep alone, by its own folder
    assert rows_of(tmp_path / "again") == [row]
    assert "\n* train_prompts=61 seed=1 " in (tmp_path / "again" / "README.md").read_text()
    assert len(collect([tmp_path / "runs"]).failures) == len(collect([folder]).failures) == 2


def test_a_sweep_of_evaluations_ends_with_its_table(tiny_llama, tmp_path):
    small = ["eval_prompts=2", "trainer.accelerator=cpu", "trainer.progress=false", f"output_root={tmp_path}"]
    model = ["dataset=story_facts", "model=smollm2_135m", f"model.path={tiny_llama}", "model.dtype=fp32"]
    done = swept("eval_examples=3,4", *model, *small, script="evaluate.py")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert {row["data set"] for row in rows_of(folder)} == {"story_facts", "story_facts (2)"}
    assert {row["eval_examples"] for row in rows_of(folder)} == {"3", "4"}
    assert "BEWARE: runs on story_facts differ in test examples, so that their numbers cannot be compared" in " ".join(
        done.stdout.split()
    )


def test_ctrl_c_in_a_sweep_says_where_and_leaves_the_table_of_what_is_finished(tiny_overrides, tmp_path):
    """Two runs of six updates each: the signal comes within the second update of the second."""
    point = "SIGINT paft.training.module:PaftModule.training_step 8"
    stopped = run_command("tests/reliability/strike.py", "train", "-m", "K=1,2", *tiny_overrides, PAFT_TEST_POINT=point)
    said = stopped.stderr
    assert stopped.returncode == 130 and "Traceback" not in said
    where = "in run 2 of 2 (K=2), after update 2 of 6; the same command skips what is finished and resumes from there"
    assert f"\nInterrupted {where}.\n" in said and "1 of 2 runs are not finished; the same command resumes them." in said
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert len(rows_of(folder)) == 1


def test_a_sweep_over_rows_without_labels_has_no_table(tmp_path, capsys):
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "00000.json").write_text(json.dumps({"typed": [], "run": str(tmp_path / "gone")}))
    assert sweep.sum_up(sweep.Sweep(tmp_path, [], 1)) == 0
    assert "No table of this sweep: " in capsys.readouterr().out


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    """On a machine of a cluster, too, which no test may send a job to."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as left:
        hydra_app.run_hydra(lambda: SlurmExecutor(tmp_path), hydra_app.TrainConfig)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("error: hydra/launcher=slurm: this machine has no srun")
    assert is_one_sentence(said)


@pytest.mark.parametrize(
    "error",
    [
        TerminatedWorkerError("A worker process was killed. Perhaps by the OOM killer"),
        UncompletedJobError("Job 1 has not produced any output"),
    ],
)
def test_a_job_that_was_killed_in_its_own_process_is_one_sentence(error, tmp_path, monkeypatch, capsys):
    def main() -> None:
        sweep.started.append(sweep.Sweep(tmp_path, ["K"], 2))
        raise error

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as left:
        hydra_app.run_hydra(main, hydra_app.TrainConfig)
    said = capsys.readouterr().err
    assert left.value.code == 2 and "A process of the sweep was killed (" in said and f"`paft report {tmp_path}`" in said
    assert is_one_sentence(said)


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is not None, reason="Ray's launcher is there")
def test_a_plug_in_that_is_not_installed_is_named(tmp_path):
    done = swept("hydra/launcher=ray", "K=1,2", f"output_root={tmp_path}")
    assert done.returncode == 2 and is_one_sentence(done.stderr)
    assert done.stderr.endswith("'hydra/launcher/ray'; it comes with `pip install hydra-ray-launcher`.\n")
