"""kill -9 during an evaluation or a sweep: started again it goes on, and ends as an undisturbed one does."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from paft.config.compose import CONF
from paft.evaluation.store import read_cells


def test_a_killed_process_loses_nothing(tiny_llama, tmp_path):
    shape = ["dataset=story_facts", "model=smollm2_135m", f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu"]
    small = ["eval_prompts=16", "eval_examples=150", "trainer.micro_batch_tokens=200", "trainer.progress=false"]

    def command(root: Path) -> list[str]:
        return [sys.executable, "evaluate.py", *shape, *small, f"output_root={root}"]

    settings = {"cwd": Path(CONF).parent, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, **settings)
    killed = tmp_path / "killed"
    for wanted in (1, 300):  # batches that are there when the blow falls
        process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
        while process.poll() is None and len(list(killed.glob("*/.matrix-*/*.parquet"))) < wanted:
            time.sleep(0.01)
        assert process.poll() is None, "the evaluation ended too soon for this test"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(killed), check=True, capture_output=True, **settings)
    (one,), (other,) = (list((tmp_path / name).glob("eval-*/matrix.parquet")) for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes() and len(read_cells(one)) == 16 * 150
    assert not list(killed.glob("*/.matrix-*"))


def test_a_sweep_killed_in_its_third_cell_ends_with_the_same_report(tiny_llama, tmp_path):
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false"]
    small = ["seed=0", "train_examples=64", "eval_examples=12", "eval_prompts=10", "validation.examples=2"]
    settings = {"cwd": Path(CONF).parent, "env": os.environ | {"OMP_NUM_THREADS": "1"}}

    def command(root: Path) -> list[str]:
        return [sys.executable, "train.py", "-m", "experiment=table5", *shape, *small, f"output_root={root}"]

    def report(root: Path) -> dict[str, list[list[str]]]:
        out = tmp_path / f"report of {root.name}"
        script = [sys.executable, "experiments/report.py", root, "--out", out]
        subprocess.run(script, check=True, capture_output=True, **settings)
        tables = {path.name: list(csv.reader(path.open())) for path in out.glob("*.csv")}
        tables["table10.csv"] = [row[:4] for row in tables["table10.csv"]]  # what is right of these is time and memory
        return tables

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, **settings)
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
    while process.poll() is None and len(list(killed.glob("*/log"))) < 3:
        time.sleep(0.01)
    assert process.poll() is None, "the sweep ended too soon for this test"
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in killed.glob("*/results.json")}
    assert len(finished) == 2 and len(list(killed.glob("*/run.json"))) == 3
    subprocess.run(command(killed), check=True, capture_output=True, **settings)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # not run twice
    assert len(report(killed)["table5_story_facts.csv"]) == 6 and report(killed) == report(tmp_path / "whole")


def test_a_killed_training_run_ends_bit_for_bit_as_an_undisturbed_one(tiny_llama, tmp_path):
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu"]
    script = [sys.executable, "tests/reliability/resume.py", "--kills", "3", "--report", tmp_path / "report", *shape]
    settings = {"cwd": Path(CONF).parent, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs of 12 updates" in done.stdout and "bit for bit" in (tmp_path / "report" / "README.md").read_text()
