"""The report, the job script and the dashboard: from real runs of the tiny Llama; nothing is sent."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from paft.config.compose import CONF

REPOSITORY = Path(CONF).parent
SECTIONS = ("Table 1", "Figure 3", "Table 3", "Table 4", "Table 5", "Figure 8", "Figure 9", "Table 10", "Controls")


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"experiments/{script}.py", *map(str, arguments)]
    settings = {"cwd": REPOSITORY, "env": os.environ | environment}
    return subprocess.run(command, **settings, capture_output=True, text=True, timeout=300, check=False)


def put(results: dict, keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        results = results.get(key, {})
    if results:
        results[keys[-1]] = value


def copied(runs: Path, to: Path, change: Callable[[dict], None], which: str) -> Path:
    """Copy runs, and change the results of some."""
    shutil.copytree(runs, to)
    for path in to.glob(f"{which}/results.json"):
        results = json.loads(path.read_text())
        change(results)
        path.write_text(json.dumps(results))
    return to


@pytest.fixture(scope="module")
def runs(tiny_llama, tmp_path_factory) -> Path:
    """Two seeds of the user's prompt and of PAFT, some other cells, and one that is not finished."""
    from paft.jobs.train import run_training
    from tests.conftest import compose_config

    root = tmp_path_factory.mktemp("report") / "runs"
    common = [f"model.path={tiny_llama}", "model.dtype=fp32", f"output_root={root}", "trainer.accelerator=cpu"]
    common += ["trainer.progress=false", "train_examples=16", "eval_examples=12", "eval_prompts=10"]
    common += ["validation.prompts=1", "validation.examples=2"]
    cells = [["method=base", "extra_measures=[generate,adversarial]"], ["method=zopo", "method.budget=40"]]
    cells += [[f"method={m}", f"seed={s}", "extra_measures=[generate,adversarial]"] for m in ("user", "paft") for s in (0, 1)]
    cells += [["K=1"], ["K=1", "train_prompts=2"], ["schedule.unit=row"]]
    for cell in cells:
        run_training(compose_config(*common, *cell))
    run_training(compose_config(*common, "K=3"))  # in no table
    failed = root / "sweeps" / "2026-01-01" / "failed"
    failed.mkdir(parents=True)
    for i, (typed, reason) in enumerate([
        ([*common, "train_prompts=61"], "train_prompts=61: the training pool has 60 prompts."),
        ([*common, "K=1"], "another run's reason: finished since"),
        (["adapter=RUN/adapter"], "another run's reason: an evaluation"),
        (["K=0"], "K=0: this is no number of updates"),
        (["no_such_key=1"], "there is no such key"),
    ]):  # fmt: skip
        (failed / f"{i}.json").write_text(json.dumps({"typed": typed, "reason": reason}))
    (failed / "cut.json").write_text('{"typed": ["K')
    (root / "unfinished").mkdir()
    (root / "unfinished" / "run.json").write_text("{}")
    return root


def test_the_report_has_every_table_and_names_what_is_missing(runs, tmp_path):
    out = tmp_path / "report"
    done = run("report", runs, "--out", out)
    assert done.returncode == 0, done.stderr
    page = (out / "README.md").read_text()
    assert all(f"## {section}" in page for section in SECTIONS)
    assert "unfinished: not finished" in page and "No runs of TopAccuracy; Robust (BATprompt)." in page
    assert "Not all have the same seeds: ZOPO lacks seed 1." in page and "No runs of K=2 T=3; K=8 T=3; K=1 T=6." in page
    assert "No runs of 1; 5; 10; 24; 400, composed." in page
    assert "belong to no table:\n\n* story_facts-tiny" in page
    assert "train_prompts=61: the training pool has 60" in page and page.count("another run's reason") == 0
    assert "\n* K=0: K=0: this is no number of updates\n* no_such_key=1: there is no such key\n" in page
    assert "failed/cut.json: this record of a failed cell is damaged" in page and f"output_root={runs}" not in page
    assert "PAFT less the best of the others (" in page and ", paired, seed" in page
    assert "ZOPO chose story_facts-" in page and " (seed 0) with " in page
    assert (
        "16 training rows, 8 an update" in page and "10 test prompts x 12 test examples, scored by likelihood (summed)" in page
    )
    assert "The paper's Table 1 has nothing for story_facts." in page and "The paper's curves are not tabulated." in page
    assert "runs on its data sets HellaSwag, PIQA, WinoGrande, RACE-middle, RACE-high; its own test prompts" in page
    assert page.count("`python train.py -m experiment=table1 ") == 2
    assert page.count("best K per data set") == 1  # the paper's flaws stand beside its numbers
    html = (out / "index.html").read_text()
    assert "<table>" in html and 'src="data:image/png;base64,' in html and 'src="figure' not in html
    for name in ("figure3_story_facts", "pool_size_story_facts", "mmd_story_facts"):
        assert {(out / f"{name}.{suffix}").stat().st_size > 2000 for suffix in ("png", "pdf")} == {True}


def test_the_numbers_of_the_report_are_those_of_the_runs(runs, tmp_path):
    assert run("report", runs, "--out", tmp_path).returncode == 0
    found = [json.loads(path.read_text()) for path in runs.glob("*/results.json")]
    users = [r["robustness"] for r in found if r["config"]["method"]["name"] == "user"]
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "table1_story_facts.csv").open())}
    assert set(rows) == {"Base", "User", "ZOPO", "PAFT"}
    assert float(rows["User"]["mean low"]) < float(rows["User"]["mean"]) < float(rows["User"]["mean high"])
    assert (rows["User"]["seeds"], rows["User"]["seeds: n"]) == ("0 1", "2")
    assert float(rows["User"]["mean"]) == pytest.approx(100 * sum(u["mean"] for u in users) / 2, abs=0.06)
    assert float(rows["User"]["worst"]) == pytest.approx(100 * sum(u["min"] for u in users) / 2, abs=0.06)
    tokens = [r["also"]["generate"]["output_tokens"] for r in found if r["config"]["method"]["name"] == "user"]
    (user,) = (row for row in csv.DictReader((tmp_path / "table3.csv").open()) if row["method"] == "User")
    assert user["tokens a rendering"] == f"{sum(tokens) / 2:.1f}" and user["seeds: n"] == "2"
    trained = [r["training"]["tokens"] for r in found if r["config"]["method"]["name"] == "user"]
    (user,) = (row for row in csv.DictReader((tmp_path / "table10.csv").open()) if row["method"] == "User")
    assert float(user["tokens"]) == pytest.approx(sum(trained) / 2, abs=1)
    sizes = list(csv.DictReader((tmp_path / "pool_size_story_facts.csv").open()))
    assert [row["training prompts"] for row in sizes] == ["2", "60"]
    controls = list(csv.DictReader((tmp_path / "controls.csv").open()))
    assert len(controls) == 3  # default, frozen, one fixed prompt
    assert controls[0]["times the default's"] == "1.00" and controls[0]["less the default's"] == ""


def test_what_is_kept_of_the_runs_gives_the_same_report(runs, tmp_path):
    assert run("report", runs, "--keep", "--out", tmp_path / "one").returncode == 0
    kept = tmp_path / "one" / "runs"
    assert not list(kept.glob("*/adapter")) and str(runs) not in "".join(p.read_text() for p in kept.rglob("*.json"))
    assert run("report", kept, "--keep", "--out", tmp_path / "one").returncode == 0  # in its own place
    assert run("report", kept, "--out", tmp_path / "two").returncode == 0
    for page in (tmp_path / "one" / "README.md", *(tmp_path / "one").glob("*.csv")):  # what was left out, too
        assert page.read_text() == (tmp_path / "two" / page.name).read_text()


def test_the_kept_report_is_made_again_from_what_is_kept_of_its_runs(tmp_path):
    kept = REPOSITORY / "experiments" / "results" / "paper_cpu"
    assert run("report", kept / "runs", "--out", tmp_path).returncode == 0
    page = (tmp_path / "README.md").read_text()
    for line in (kept / "README.md").read_text().splitlines():
        assert line in page or "MMD" in line or line.startswith("| "), line  # numbers may be rounded otherwise elsewhere
    assert "* story_facts-smollm2-135m-paft-K1-T3-seed1-e021c0eb: not finished" in page
    assert "TopAccuracy and Robust (BATprompt) each chose story_facts-text-train-28 (seeds 0, 1, 2)" in page
    assert "ZOPO chose story_facts-text-train-28 (seeds 0, 2) and story_facts-text-train-36 (seed 1)" in page
    assert "`python train.py -m experiment=table5 scale=cpu dataset=story_facts`" in page
    rows = {row["K and T"]: row for row in csv.DictReader((tmp_path / "table5_story_facts.csv").open())}
    pair = [next((kept / "runs").glob(f"story_facts-*paft-{name}")) for name in ("K8-T3-seed0-*", "K4-T3-seed0-b3ab763a")]
    assert run("compare", *pair, "--report", tmp_path / "pair").returncode == 0
    mean = json.loads((tmp_path / "pair" / "comparison.json").read_text())["mean"]
    written = [float(rows["K=8 T=3"][f"less K=4 T=3{end}"]) for end in ("", " low", " high")]
    assert written == pytest.approx([100 * mean[key] for key in ("value", "low", "high")], abs=0.06)
    assert rows["K=8 T=3"]["less K=4 T=3: seeds"] == "0" and rows["K=4 T=3"]["seeds"] == "0 1 2"


def test_a_damaged_list_of_what_was_left_out_is_one_sentence(tmp_path):
    (tmp_path / "left_out.json").write_text('{"left_out": {')
    done = run("report", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2 and "left_out.json: this file is damaged" in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_known_is_said_so():
    code = "from cells import commits; from paper import hours; git = {'commit': None, 'dirty': False}; "
    code += "print(commits([{'git': git}]), *(entry.text for entry in hours('3.00', None)))"
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'experiments'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "no commit 3.00 -\n"


def test_prompts_that_were_dealt_at_random_stand_apart(runs, tiny_llama, tmp_path):
    from paft.jobs.train import run_training
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
    for keys, value, what in (
        (("fingerprints", "pools", "test", "fingerprint"), "another", "test prompts"),
        (("also", "adversarial", "pool", "fingerprint"), "another", "adversarial prompts"),
        (("also", "generate", "how", "max_new_tokens"), 7, "the scoring of generate"),
    ):
        mixed = copied(runs, tmp_path / what, lambda results, keys=keys, value=value: put(results, keys, value), "*user*seed1*")
        done = run("report", mixed, "--out", tmp_path / "out")
        assert done.returncode == 2 and f"differ in {what}, so their numbers do not belong in one report" in done.stderr
        assert not (tmp_path / "out").exists()


def test_runs_of_several_devices_versions_and_ages_are_told_apart(runs, tmp_path):
    def change(results: dict) -> None:
        results["device"] |= {"name": "another"}
        results["versions"] |= {"torch": "0"}
        if results["training"]:
            results["training"].pop("tokens")  # as an earlier version

    done = run("report", copied(runs, tmp_path / "runs", change, "*user*seed1*"), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    users = [row for row in csv.DictReader((tmp_path / "out" / "table10.csv").open()) if row["method"] == "User"]
    assert [row["seeds"] for row in users] == ["0", "1"] and "another" in users[1]["device"]
    training = json.loads(next(runs.glob("*user*seed1*/results.json")).read_text())["training"]
    assert float(users[1]["tokens"]) == pytest.approx(training["tokens_per_s"] * training["seconds"], abs=1)
    top = (tmp_path / "out" / "README.md").read_text().split("## ")[0]
    assert "BEWARE: the runs were made" in top and "2 sets of library versions and on 2 kinds of devices" in top


def test_numbers_of_the_paper_stand_beside_ours_with_what_they_are_of(runs, tmp_path):
    from tests.conftest import compose_config

    pages = {}
    for name in ("piqa", "gsm8k"):
        section = compose_config(f"dataset={name}").model_dump()["dataset"]
        changed = copied(runs, tmp_path / name, lambda results, own=section: put(results, ("config", "dataset"), own), "*")
        done = run("report", changed, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        pages[name] = {part.split("\n")[0]: part for part in (tmp_path / "out" / "README.md").read_text().split("\n## ")}
    table1 = pages["piqa"]["Table 1: piqa"]
    assert "89.33 ± 0.63, Top 100" in table1 and "its K=4, which is ours, has 89.07 ± 0.53" in table1
    protocol = "The paper's: Llama-3-8B, generated answers, on its own prompts."
    assert sum(protocol in part for part in pages["piqa"].values()) == 3  # Tables 1, 4 and 5
    assert "The paper's: Llama-3-8B, hours on one RTX 4090, on its own prompts." in pages["piqa"]["Table 10: training time"]
    table1 = pages["gsm8k"]["Table 1: gsm8k"]
    assert "74.36 ± 21.37" in table1 and "The paper's: Qwen2.5-7B" in table1


def test_where_every_cell_failed_the_reasons_are_given(runs, tmp_path):
    shutil.copytree(runs / "sweeps", tmp_path / "runs" / "sweeps")
    done = run("report", tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 2 and "there is no finished training run here (" in done.stderr
    assert "K=0: this is no number of updates" in done.stderr and "Traceback" not in done.stderr


def test_a_cell_that_is_there_twice_is_refused(runs, tmp_path):
    twice = tmp_path / "twice"
    shutil.copytree(runs, twice)
    folder = next(twice.glob("*user*seed1*"))
    shutil.copytree(folder, twice / "copy")
    done = run("report", twice, "--out", tmp_path / "out")
    assert done.returncode == 2 and "user on story_facts, seed 1: there are two runs" in done.stderr


def test_the_papers_tables_alone():
    done = run("report", "--paper")
    assert done.returncode == 0 and "93.83 ± 0.70, 100" in done.stdout and "never tabulated" in done.stdout
    for printed in ("| SFT, Min | 87.20 |", " 4.30 |", "| 3.3 | 2.23 | 3.82 | 3.00 |", "| less the second best | +1.37,"):
        assert printed in done.stdout


def test_the_job_script_asks_for_what_is_set():
    done = run("slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30")
    assert done.returncode == 0, done.stderr
    for line in ("--partition=gpu", "--time=30", "--gpus-per-node=1", "--mem=48GB", "--array=0-1%2"):
        assert f"#SBATCH {line}" in done.stdout
    assert "--mem" not in run("slurm", "hydra.launcher.mem_gb=null").stdout


def test_a_job_of_several_tasks_or_gpus_is_refused():
    for key, what in (("tasks_per_node", "a run is one task on one node"), ("gpus_per_node", "a run uses 1;")):
        done = run("slurm", f"hydra.launcher.{key}=2")
        assert done.returncode == 2 and f"hydra.launcher.{key}=2: {what}" in done.stderr


def test_the_dashboard_is_built_and_nothing_is_sent():
    done = run("wandb_workspace", "--check")
    assert done.returncode == 0 and "3 sections, 10 panels" in done.stdout and "nothing was sent" in done.stdout
    unreachable = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_MODE": "online"}
    done = run("wandb_workspace", "--entity", "someone", **unreachable)
    assert done.returncode == 2 and "W&B did not take the workspace" in done.stderr and "Traceback" not in done.stderr
