"""Every recipe of the paper at the smallest scale, on the tiny Llama, into one report."""

import csv
import os
import subprocess
import sys

from tests.reliability.strike import ROOT

RECIPES = ("table1", "table3", "table4", "table5", "pool_size", "controls", "random_split")
ROWS = {
    "table1_story_facts": 6,
    "table1_story_facts_random_split": 3,  # with the base model
    "table3": 6,
    "table4": 3,
    "table5_story_facts": 5,
    "pool_size_story_facts": 7,
    "mmd": 2,
    "table10": 7,
    "controls": 6,
}


def test_every_recipe_ends_in_a_report_with_every_table(tiny_llama, tmp_path):
    model = [f"model.path={tiny_llama}", "model.dtype=fp32"]
    common = [*model, f"output_root={tmp_path / 'runs'}", "trainer.progress=false", "trainer.accelerator=cpu"]
    split = [sys.executable, "experiments/random_split.py", "story_facts", "--out", tmp_path / "random_split"]
    subprocess.run(split, cwd=ROOT, capture_output=True, check=True)
    folder = tmp_path / "random_split" / "story_facts"
    pools = [f"prompts.{name}={folder / name}.yaml" for name in ("train", "validation", "test")]
    for recipe in RECIPES:
        command = [sys.executable, "train.py", "-m", f"experiment={recipe}", "scale=smoke", *common]
        command += pools if recipe == "random_split" else []
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    command = [sys.executable, "-m", "experiments.paper", tmp_path / "runs", "--out", tmp_path / "report"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for table, n in ROWS.items():
        assert len(list(csv.reader((tmp_path / "report" / f"{table}.csv").open()))) == n + 1, table
    assert "No runs." not in (tmp_path / "report" / "README.md").read_text()
