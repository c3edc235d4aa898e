"""The report of a sweep, from real runs of the tiny Llama: its numbers are those of the runs."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from paft.config.compose import compose_evaluation, compose_training
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.reporting.collect import collect
from paft.reporting.runs import frame
from paft.reporting.sweep import differing, report, table_of
from paft.runtime.errors import InputError


@pytest.fixture(scope="module")
def sweep(tiny_llama, tmp_path_factory) -> Path:
    """K=1,4 x seed=0,1, the base model, two evaluations, a run that is not finished, and jobs that failed."""
    root = tmp_path_factory.mktemp("sweep") / "outputs"
    machine = [f"output_root={root}", "trainer.accelerator=cpu", "trainer.progress=false"]
    sizes = ["model.dtype=fp32", "eval_examples=12", "eval_prompts=10"]
    shared = [
        f"model.path={tiny_llama}",
        *machine,
        *sizes,
        "train_examples=16",
        "validation.prompts=1",
        "validation.examples=2",
    ]
    runs = [run_training(compose_training([*shared, f"K={k}", f"seed={seed}"])) for k in (1, 4) for seed in (0, 1)]
    run_training(compose_training([*shared, "method=base"]))
    for run in runs[:2]:
        run_evaluation(compose_evaluation([f"adapter={run.folder / 'adapter'}", *machine, *sizes]))
    failed = root / "sweeps" / "2026-01-01" / "failed"
    failed.mkdir(parents=True)
    for i, (typed, reason) in enumerate([
        ([*shared, "train_prompts=61"], "train_prompts=61: the training pool has 60 prompts."),
        ([*shared, "K=1", "seed=0"], "another run's reason: finished since"),
        (["adapter=RUN/adapter"], "another run's reason: an evaluation"),
        (["K=0"], "K=0: this is no number of updates"),
        (["no_such_key=1"], "there is no such key"),
    ]):  # fmt: skip
        (failed / f"{i}.json").write_text(json.dumps({"typed": typed, "reason": reason}))
    (failed / "cut.json").write_text('{"typed": ["K')
    (root / "unfinished").mkdir()
    (root / "unfinished" / "run.json").write_text("{}")
    return root


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").open()))


def changed(sweep: Path, to: Path, change: Callable[[dict], None]) -> Path:
    """Copy the runs of a sweep and change the results of one."""
    shutil.copytree(sweep, to, ignore=shutil.ignore_patterns("sweeps"))
    (path,) = to.glob("*-K4-*seed1-*/results.json")
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))
    return to


def test_the_numbers_of_the_table_are_those_of_the_runs(sweep, tmp_path):
    report([sweep], tmp_path)
    rows = table(tmp_path)
    assert {(row["method"], row["K"]) for row in rows} == {("paft", "1"), ("paft", "4"), ("base", "")} and "T" not in rows[0]
    assert [float(row["mean"]) for row in rows] == sorted((float(row["mean"]) for row in rows), reverse=True)
    found = [json.loads(path.read_text()) for path in sweep.glob("story_facts-*/results.json")]
    for row in rows:
        method = row["method"]
        same = [
            r["robustness"]
            for r in found
            if r["config"]["method"]["name"] == method and (method == "base" or str(r["config"]["K"]) == row["K"])
        ]
        for column, key in {"mean": "mean", "std": "std", "worst": "min", "Top": "top"}.items():
            assert float(row[column]) == pytest.approx(100 * np.mean([r[key] for r in same]), abs=0.051), (row, column)
        if method == "paft":
            assert (row["seeds"], row["seeds: n"]) == ("0 1", "2")
            assert float(row["std of seeds"]) == pytest.approx(100 * np.std([r["mean"] for r in same], ddof=1), abs=0.051)
        if row["mean low"]:
            assert float(row["mean low"]) <= float(row["mean"]) <= float(row["mean high"])


def test_the_page_says_what_was_left_out_and_why(sweep, tmp_path):
    report([sweep], tmp_path, notes=["a note"])
    page = (tmp_path / "README.md").read_text()
    assert "unfinished: not finished" in page and "an evaluation, no training run" in page and "* a note" in page
    assert "train_prompts=61: the training pool has 60" in page and "another run's reason" not in page
    assert "\n* K=0: K=0: this is no number of updates\n* no_such_key=1: there is no such key\n" in page
    assert "failed/cut.json: this record of a failed job is damaged" in page and f"output_root={sweep}" not in page
    html = (tmp_path / "index.html").read_text()
    assert "<table>" in html and 'src="data:image/png;base64,' in html


def run_with(**settings: object) -> Any:
    """What the columns of a table are chosen by."""
    shown = {"method.name": "paft", **{key.replace("_", "."): value for key, value in settings.items()}}
    return SimpleNamespace(dataset="piqa", settings=shown, results=SimpleNamespace(kind="training"))


def test_a_setting_that_some_runs_of_a_method_lack_is_a_column():
    lora = run_with(K=4, model_lora_r=8)
    assert differing([lora, run_with(K=4, model_lora_r=8, model_lora_dora=True)]) == ["model.lora.dora"]
    assert differing([lora, run_with(K=4, model_lora=None)]) == ["model.lora.r", "model.lora"]
    base = run_with()
    base.settings["method.name"] = "base"
    assert differing([lora, base]) == ["method.name"]  # a base model has no K


def test_the_table_is_sorted_by_a_column(sweep):
    runs = collect([sweep], "training").runs
    stds = [one.number("std") for one in table_of(runs, "std")[1]]
    assert stds == sorted(stds)
    assert [one.settings.get("K") for one in table_of(runs, "K")[1]] == [1, 4, None]
    tails = [one.number("cvar10") for one in table_of(runs, "cvar10")[1]]
    assert tails == sorted(tails, reverse=True)
    for one in table_of(runs, "mean")[1]:
        assert one.number("worst") <= one.number("cvar10") <= one.number("mean")
    with pytest.raises(InputError, match=r"--sort lr: the table has no such column; it has mean, .* Top, cvar10, method, K\."):
        table_of(runs, "lr")


def test_what_is_kept_of_the_runs_gives_the_same_report(sweep, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    report([sweep], one, keep=True)
    pools = {path.stem for path in (one / "pools").iterdir()}
    run = collect([one / "runs"]).runs[0]
    assert set(run.pools.values()) <= pools and run.pool_file("test") == one.resolve() / "pools" / f"{run.pools['test']}.yaml"
    assert not list(one.glob("runs/*/adapter")) and not list(one.glob("runs/*/prompts"))
    assert str(sweep) not in "".join(path.read_text() for path in one.rglob("*.json"))
    before = {path: path.read_bytes() for path in one.rglob("results.json")}
    report([one / "runs"], one, keep=True)  # in its own place
    report([one / "runs"], two)
    assert {path: path.read_bytes() for path in before} == before
    for name in ("README.md", "sweep.csv"):  # what was left out, too
        assert (one / name).read_text() == (two / name).read_text()


def test_evaluations_are_reported_where_there_is_no_training_run(sweep, tmp_path):
    for folder in sweep.glob("eval-*"):
        shutil.copytree(folder, tmp_path / "runs" / folder.name)
    report([tmp_path / "runs"], tmp_path / "out", keep=True)
    rows = table(tmp_path / "out")
    trained = {run.name: json.loads((run / "results.json").read_text()) for run in sweep.glob("*-K1-*")}
    assert {row["adapter"] for row in rows} == set(trained)
    for row in rows:
        assert float(row["mean"]) == pytest.approx(100 * trained[row["adapter"]]["robustness"]["mean"], abs=0.051)
    kept = "".join(path.read_text() for path in (tmp_path / "out").rglob("results.json"))
    assert str(sweep) not in kept


def test_the_frame_has_a_row_for_each_run_and_its_settings_as_columns(sweep):
    runs = collect([sweep]).runs
    cells = frame(runs)
    assert len(cells) == len(runs) == 5 and set(cells["part"]) == {"story_facts"}
    base = cells[cells["method.name"] == "base"].iloc[0]
    assert pd.isna(base["K"]) and pd.isna(base["seed"]) and pd.isna(base["training.tokens"])
    assert sorted(cells.query("`method.name` == 'paft' and `optim.lr` > 0 and K == 4")["seed"]) == [0, 1]
    for place, row in cells.iterrows():
        assert row["run"] == runs[place].results.run and row["mean"] == runs[place].results.robustness.mean


def test_what_makes_a_number_mean_less_is_said_with_its_runs(sweep, tmp_path):
    report([sweep], tmp_path / "sound")
    page = (tmp_path / "sound" / "README.md").read_text()
    assert (
        "over 10 unseen prompts" in page and "Accuracy over unseen prompts" in page and "trained on word for word" not in page
    )
    assert "BEWARE: on story_facts nothing shows that training made the base model better" in page

    def change(results: dict) -> None:
        results["warnings"] = ["this number means little."]
        results["test_prompts_seen"] = {"copies": 3, "near_copies": 1}
        results["test_rows_left_out"] = {"equal_choices": 2, "training_rows": 0}

    runs = changed(sweep, tmp_path / "runs", change)
    report([runs], tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    (name,) = (path.name for path in runs.glob("*-K4-*seed1-*"))
    assert f"* BEWARE: this number means little. ({name})" in page
    assert f"* Of the 10 test prompts 3 were trained on word for word, and 1 nearly (at least 90% alike). ({name})" in page
    assert f"because another choice equals the right one: 2. ({name})" in page
    assert "unseen" not in page and "over 10 test prompts" in page


def test_runs_that_were_tested_otherwise_are_said_and_not_averaged(sweep, tmp_path):
    other = {"fingerprint": "another"}
    mixed = changed(sweep, tmp_path / "mixed", lambda results: results["fingerprints"]["pools"]["test"].update(other))
    report([mixed], tmp_path / "out", sort="worst")
    rows = table(tmp_path / "out")
    assert [(row["data set"], row["K"], row["seeds"]) for row in rows if row["method"] == "paft" and row["K"] == "4"] == [
        ("story_facts", "4", "0"),
        ("story_facts (2)", "4", "1"),
    ]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "BEWARE: runs on story_facts differ in test prompts, so that their numbers cannot be compared" in page
    assert "* **story_facts (2)**: " in page and "distribution_story_facts_2_.png" in page
    for name in ("story_facts", "story_facts (2)"):
        worst = [float(row["worst"]) for row in rows if row["data set"] == name]
        assert worst == sorted(worst, reverse=True) and worst


def test_a_run_that_is_there_twice_is_refused(sweep, tmp_path):
    twice = changed(sweep, tmp_path / "twice", lambda results: None)
    shutil.copytree(next(twice.glob("*-K4-*seed1-*")), twice / "copy")
    with pytest.raises(InputError, match=r"story_facts, method.name=paft, K=4, seed 1: there are two runs"):
        report([twice], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_other_devices_and_versions_are_reported_with_a_warning(sweep, tmp_path):
    def change(results: dict) -> None:
        results["device"]["name"] = "another"
        results["versions"]["torch"] = "0"

    report([changed(sweep, tmp_path / "runs", change)], tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "with 2 sets of library versions and on 2 kinds of devices or numbers of threads" in page


def test_a_run_of_another_version_or_damaged_is_left_out(sweep, tmp_path):
    old = collect([changed(sweep, tmp_path / "old", lambda results: results.update(version=0))])
    assert [why for why in old.left_out.values() if "written by another version of paft" in why] and len(old.runs) == 4
    damaged = collect([changed(sweep, tmp_path / "damaged", lambda results: results.pop("plan") and results.pop("device"))])
    assert [why for why in damaged.left_out.values() if "it is damaged; run it again" in why]
    without_key = collect([changed(sweep, tmp_path / "key", lambda results: results["config"].pop("K"))])
    assert "K has no value; give one with K=..." in without_key.left_out.values()


def test_where_there_is_nothing_to_report_the_reason_is_given(sweep, tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"there is no finished run here\."):
        collect([tmp_path])
    shutil.copytree(sweep / "sweeps", tmp_path / "runs" / "sweeps")
    with pytest.raises(InputError, match=r"there is no finished run here \(.*K=0: this is no number of updates"):
        collect([tmp_path / "runs"])
    (tmp_path / "left_out.json").write_text('{"left_out": {')
    with pytest.raises(InputError, match=r"left_out.json: this file is damaged"):
        collect([tmp_path])
