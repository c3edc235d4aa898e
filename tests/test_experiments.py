"""The report, the job script and the dashboard: from real runs of the tiny Llama; nothing is sent."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paft.cli import CONFIG_PATH

REPOSITORY = Path(CONFIG_PATH).parent
SECTIONS = ("Table 1", "Figure 3", "Table 3", "Table 4", "Table 5", "Figure 8", "Figure 9", "Table 10", "Controls")


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"experiments/{script}.py", *map(str, arguments)]
    settings = {"cwd": REPOSITORY, "env": os.environ | environment}
    return subprocess.run(command, **settings, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def runs(tiny_llama, tmp_path_factory) -> Path:
    """Two seeds of the user's prompt and of PAFT, some other cells, and one that is not finished."""
    from paft.training import run_training
    from tests.conftest import compose_config

    root = tmp_path_factory.mktemp("report") / "runs"
    common = [f"model.path={tiny_llama}", "model.dtype=fp32", f"output_root={root}", "trainer.accelerator=cpu"]
    common += ["trainer.progress=false", "train_examples=16", "eval_examples=12", "eval_prompts=10"]
    common += ["validation.prompts=1", "validation.examples=2"]
    cells = [["method=base", "also=[generate,adversarial]"], ["method=zopo", "method.budget=40"]]
    cells += [[f"method={m}", f"seed={s}", "also=[generate,adversarial]"] for m in ("user", "paft") for s in (0, 1)]
    cells += [["K=1"], ["K=1", "train_prompts=2"], ["schedule.unit=row"]]
    for cell in cells:
        run_training(compose_config(*common, *cell))
    run_training(compose_config(*common, "K=3"))  # in no table
    failed = root / "sweeps" / "2026-01-01" / "failed"
    failed.mkdir(parents=True)
    for i, (typed, reason) in enumerate([
        ([*common, "train_prompts=61"], "train_prompts=61: the training pool has 60 prompts."),
        ([*common, "K=1"], "another run's reason: finished since"),
        (["no_such_key=1"], "another run's reason: no training run"),
    ]):  # fmt: skip
        (failed / f"{i}.json").write_text(json.dumps({"typed": typed, "reason": reason}))
    (root / "unfinished").mkdir()
    (root / "unfinished" / "run.json").write_text("{}")
    return root


def test_the_report_has_every_table_and_names_what_is_missing(runs, tmp_path):
    out = tmp_path / "report"
    done = run("report", runs, "--out", out)
    assert done.returncode == 0, done.stderr
    page = (out / "README.md").read_text()
    assert all(f"## {section}" in page for section in SECTIONS)
    assert "unfinished: not finished" in page and "No runs of TopAccuracy, Robust (BATprompt)." in page
    assert "Not all have the same seeds: ZOPO lacks seed 1." in page and "No runs of K=2 T=3, K=8 T=3, K=1 T=6." in page
    assert "No runs of 1, 5, 10, 24, 400, composed." in page
    assert "belong to no table:\n\n* story_facts-tiny" in page
    assert "train_prompts=61: the training pool has 60" in page and page.count("another run's reason") == 0
    assert "PAFT less the best of the others" in page and "ZOPO chose story_facts-" in page
    assert page.count("best K per data set") == 1  # the paper's flaws stand beside its numbers
    html = (out / "index.html").read_text()
    assert "<table>" in html and 'src="data:image/png;base64,' in html and 'src="figure' not in html
    for name in ("figure3_story_facts", "pool_size_story_facts", "mmd_story_facts"):
        assert {(out / f"{name}.{suffix}").stat().st_size > 2000 for suffix in ("png", "pdf")} == {True}


def test_the_numbers_of_the_report_are_those_of_the_runs(runs, tmp_path):
    assert run("report", runs, "--out", tmp_path).returncode == 0
    found = [json.loads(path.read_text()) for path in runs.glob("*/results.json")]
    users = [r["robustness"] for r in found if r["config"]["method"]["name"] == "user"]
    rows = {row[""]: row for row in csv.DictReader((tmp_path / "table1_story_facts.csv").open())}
    assert set(rows) == {"Base", "User", "ZOPO", "PAFT"}
    assert float(rows["User"]["mean"].split()[0]) == pytest.approx(100 * sum(u["mean"] for u in users) / 2, abs=0.06)
    assert float(rows["User"]["worst"]) == pytest.approx(100 * sum(u["min"] for u in users) / 2, abs=0.06)
    tokens = [r["also"]["generate"]["output_tokens"] for r in found if r["config"]["method"]["name"] == "user"]
    table3 = (tmp_path / "table3.csv").read_text()
    assert f"User,2,{sum(tokens) / 2:.1f}," in table3
    sizes = list(csv.DictReader((tmp_path / "pool_size_story_facts.csv").open()))
    assert [row["training prompts"] for row in sizes] == ["2", "60"]
    controls = list(csv.DictReader((tmp_path / "controls.csv").open()))
    assert len(controls) == 3  # default, frozen, one fixed prompt


def test_what_is_kept_of_the_runs_gives_the_same_report(runs, tmp_path):
    assert run("report", runs, "--keep", "--out", tmp_path / "one").returncode == 0
    kept = tmp_path / "one" / "runs"
    assert not list(kept.glob("*/adapter")) and str(runs) not in "".join(p.read_text() for p in kept.glob("*/*.json"))
    assert run("report", kept, "--keep", "--out", tmp_path / "one").returncode == 0  # in its own place
    assert run("report", kept, "--out", tmp_path / "two").returncode == 0
    for table in (tmp_path / "one").glob("*.csv"):
        assert table.read_text() == (tmp_path / "two" / table.name).read_text()


def test_prompts_that_were_dealt_at_random_stand_apart(runs, tiny_llama, tmp_path):
    from paft.training import run_training
    from tests.conftest import compose_config

    done = run("random_split", "story_facts", "--out", tmp_path / "random_split")
    assert done.returncode == 0 and "60 / 20 / 50 prompts" in done.stdout
    config = json.loads(next(runs.glob("*paft-K4*seed0*/results.json")).read_text())["config"]
    pools = [f"prompts.{s}={tmp_path / 'random_split' / 'story_facts' / s}.yaml" for s in ("train", "validation", "test")]
    keys = ("train_examples", "eval_examples", "eval_prompts")
    same = [f"{key}={config[key]}" for key in keys] + ["validation.prompts=1", "validation.examples=2", "model.dtype=fp32"]
    both = tmp_path / "runs"
    shutil.copytree(runs, both)
    run_training(compose_config(*pools, *same, f"model.path={tiny_llama}", "trainer.accelerator=cpu", f"output_root={both}"))
    assert run("report", both, "--out", tmp_path / "out").returncode == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "## Table 1: story_facts\n" in page and "## Table 1: story_facts, random_split\n" in page


def test_runs_that_do_not_belong_together_are_refused(runs, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(runs, mixed)
    path = next(mixed.glob("*user*seed1*/results.json"))
    results = json.loads(path.read_text())
    results["fingerprints"]["pools"]["test"]["fingerprint"] = "another"
    path.write_text(json.dumps(results))
    done = run("report", mixed, "--out", tmp_path / "out")
    assert done.returncode == 2 and "differ in test prompts, so their numbers do not belong in one report" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_cell_that_is_there_twice_is_refused(runs, tmp_path):
    twice = tmp_path / "twice"
    shutil.copytree(runs, twice)
    folder = next(twice.glob("*user*seed1*"))
    shutil.copytree(folder, twice / "copy")
    done = run("report", twice, "--out", tmp_path / "out")
    assert done.returncode == 2 and "user on story_facts, seed 1: there are two runs" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Which runs? Give their folders"),
        (["nowhere"], "nowhere: there is no such folder"),
        (["conf"], "there is no finished training run here"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    done = run("report", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_papers_tables_alone():
    done = run("report", "--paper")
    assert done.returncode == 0 and "93.83 ± 0.70, 100" in done.stdout and "never tabulated" in done.stdout


def test_the_job_script_asks_for_what_is_set():
    done = run("slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30")
    assert done.returncode == 0, done.stderr
    for line in ("--partition=gpu", "--time=30", "--gpus-per-node=1", "--mem=48GB", "--array=0-1%2"):
        assert f"#SBATCH {line}" in done.stdout
    assert "--mem" not in run("slurm", "hydra.launcher.mem_gb=null").stdout


def test_a_job_of_several_tasks_or_gpus_is_refused():
    for key in ("tasks_per_node", "gpus_per_node"):
        done = run("slurm", f"hydra.launcher.{key}=2")
        assert done.returncode == 2 and f"hydra.launcher.{key}=2: a run uses one device" in done.stderr


def test_the_dashboard_is_built_and_nothing_is_sent():
    done = run("wandb_workspace", "--check")
    assert done.returncode == 0 and "3 sections, 10 panels" in done.stdout and "nothing was sent" in done.stdout
    unreachable = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_MODE": "online"}
    done = run("wandb_workspace", "--entity", "someone", **unreachable)
    assert done.returncode == 2 and "W&B did not take the workspace" in done.stderr and "Traceback" not in done.stderr
    done = run("wandb_workspace")
    assert done.returncode == 2 and "--entity is missing" in done.stderr


@pytest.mark.slow
def test_a_sweep_through_submitit(tiny_overrides, tmp_path):
    """The launcher that SLURM uses, with local processes instead."""
    command = [sys.executable, "train.py", "-m", "seed=0,1", "hydra/launcher=submitit_local", *tiny_overrides]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("story_facts-*/results.json"))) == 2


@pytest.mark.slow
def test_cells_that_failed_in_jobs_of_their_own_are_listed(tiny_overrides):
    command = [sys.executable, "train.py", "-m", "train_prompts=61,62", "hydra/launcher=submitit_local", *tiny_overrides]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2 and "2 cells failed; the same command tries them again:" in done.stderr
    assert "train_prompts=62: the training pool has 60 prompts" in done.stderr
