"""kill -9 during a run, an evaluation or a sweep: started again it resumes, and ends as an undisturbed one does."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paft.config.compose import compose_evaluation
from paft.evaluation.store import read_cells
from paft.jobs.evaluate import run_evaluation
from tests.reliability.strike import ROOT, kill

SETTINGS = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}


def test_a_killed_evaluation_loses_nothing(tiny_llama, tmp_path):
    shape = [
        "dataset=story_facts",
        "model=smollm2_135m",
        f"model.path={tiny_llama}",
        "model.dtype=fp32",
        "trainer.accelerator=cpu",
    ]
    small = ["eval_prompts=6", "eval_examples=60", "trainer.micro_batch_tokens=200", "trainer.progress=false"]

    def overrides(root: Path) -> list[str]:
        return [*shape, *small, f"output_root={root}"]

    whole = run_evaluation(compose_evaluation(overrides(tmp_path / "whole"))).folder
    killed = tmp_path / "killed"
    for saved in (1, 40):  # batches, by each process
        kill("paft.evaluation.store:MatrixStore.save_part", saved + 1, "evaluate", *overrides(killed))
    assert len(list(killed.glob("*/.matrix-*/*.parquet"))) == 1 + 40
    again = run_evaluation(compose_evaluation(overrides(killed))).folder
    matrix = again / "matrix.parquet"
    assert matrix.read_bytes() == (whole / "matrix.parquet").read_bytes() and len(read_cells(matrix)) == 6 * 60
    assert not list(killed.glob("*/.matrix-*"))


def test_a_sweep_killed_in_its_third_run_ends_with_the_same_report(tiny_llama, tmp_path):
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false"]
    small = ["seed=0", "train_examples=32", "eval_examples=12", "eval_prompts=10", "validation.examples=2", "score_base=false"]

    def overrides(root: Path) -> list[str]:
        return ["-m", "experiment=table5", "variant=K1_T3,K2_T3,K4_T3", *shape, *small, f"output_root={root}"]

    def report(root: Path) -> dict[str, list[list[str]]]:
        out = tmp_path / f"report of {root.name}"
        script = [sys.executable, "-m", "experiments.paper", root, "--out", out]
        subprocess.run(script, check=True, **SETTINGS)
        tables = {path.name: list(csv.reader(path.open())) for path in out.glob("*.csv")}
        tables["table10.csv"] = [row[:4] for row in tables["table10.csv"]]  # what is right of these is time and memory
        return tables

    subprocess.run([sys.executable, "train.py", *overrides(tmp_path / "whole")], check=True, **SETTINGS)
    killed = tmp_path / "killed"
    kill("paft.jobs.one_run:fit", 3, "train", *overrides(killed))
    finished = {path: path.stat().st_mtime_ns for path in killed.glob("*/results.json")}
    assert len(finished) == 2 and len(list(killed.glob("*/run.json"))) == 3
    subprocess.run([sys.executable, "train.py", *overrides(killed)], check=True, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # not run twice
    assert len(report(killed)["table5_story_facts.csv"]) == 4 and report(killed) == report(tmp_path / "whole")


OF_DRAWS = ["train_prompts=4", "train_examples=24", "T=4", "trainer.workers=0"]
BY_LOSS = ["sampler=by_loss", "sampler.lag=2", "K=1", "sampler.temperature=5", "sampler.uniform_share=0.1"]
AGREEING = ["sampler.templates_per_update=2", "sampler.paired=true", "loss=consistent"]
WORST = [
    "sampler=worst_of",
    "sampler.candidates=2",
    "sampler.adversarial=1",
    "K=2",
    "loss=perturbed",
    "sampler.mutations=[order]",
]
CURRICULUM = [
    *BY_LOSS,
    "train_examples=48",
    "trainer.workers=2",
    "sampler.lag=6",
    "sampler.temperature_end=-5",
    "sampler.templates_per_update=2",
    "loss=tilted",
    "optim.average=0.5",
]

TRAINED = {  # with their updates
    "uniform": ([], 12),
    "draws by loss that agree": ([*OF_DRAWS, *BY_LOSS, *AGREEING], 24),
    "the worst, perturbed": ([*OF_DRAWS, *WORST], 12),
    "a curriculum of tilted losses, averaged, read ahead": ([*OF_DRAWS, *CURRICULUM], 24),
}


@pytest.mark.parametrize(("more", "kills"), [(name, 1 if overrides else 3) for name, (overrides, _) in TRAINED.items()])
def test_a_killed_training_run_ends_bit_for_bit_as_an_undisturbed_one(tiny_llama, tmp_path, more, kills):
    overrides, updates = TRAINED[more]
    shape = [f"model.path={tiny_llama}", "model.dtype=fp32", "trainer.accelerator=cpu", *overrides]
    script = [sys.executable, "tests/reliability/resume.py", "--kills", f"{kills}", "--report", tmp_path / "report", *shape]
    done = subprocess.run(script, timeout=1200, check=False, **SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} runs of {updates} updates" in done.stdout
