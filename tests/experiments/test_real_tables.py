"""The paper's tables on real data, within a time limit: the order of the runs, what is cut off, and what is resumed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from experiments.real_tables import DATASETS, RECIPES, cells, main, reading
from paft.cli.hydra_app import run_plain
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
from tests.conftest import small_run
from tests.reliability.bad_input import ROOT


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["real_tables", *map(str, arguments)])
    run_plain(main)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "piqa").mkdir(parents=True)
    for split, n in (("train", 40), ("validation", 24)):
        rows = [{"goal": f"open jar {split} {i}", "sol1": f"turn {i}", "sol2": f"hit {i}", "label": i % 2} for i in range(n)]
        (tmp_path / "data" / "piqa" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def without_root(model: Path, folder: Path) -> list[str]:
    """The settings of a small run but for where runs lie, which this command is told by --runs."""
    return [one for one in small_run(model, folder) if not one.startswith("output_root")]


@pytest.mark.parametrize(
    ("recipe", "model", "n_datasets"),
    [
        *((recipe, "qwen2_5_coder_0_5b_gguf", 2) for recipe in RECIPES),
        ("table1", "qwen2_5_coder_0_5b", 1),
        ("table1", "qwen3_0_6b", 1),
    ],
)
def test_every_recipe_goes_with_the_models_of_a_card(recipe, model, n_datasets):
    found = cells(recipe, [*DATASETS][:n_datasets], [f"model={model}"])
    assert len({cell.name for cell in found}) == len(found) >= 6 * n_datasets
    hidden = [any("dataset.options=hidden" in one for one in cell.overrides) for cell in found]
    assert hidden == ["dataset=race" not in cell.overrides for cell in found]
    assert all("dataset.balanced=true" in cell.overrides for cell in found)
    assert all("scale=gpu" in cell.overrides for cell in found)


def test_the_first_table_is_that_of_paft_and_one_prompt_on_race_and_hellaswag():
    found = [cell.overrides for cell in cells("table1", [*DATASETS][:3], [])]
    first = [{one.split("=")[0]: one.split("=")[1] for one in overrides} for overrides in found[:14]]
    assert {(one["method"], one["dataset"], one["seed"]) for one in first if one["method"] != "base"} == {
        (method, dataset, seed) for method in ("paft", "user") for dataset in ("race", "hellaswag") for seed in ("0", "1", "2")
    }
    searches = [any(one in overrides for one in ("method=top_accuracy", "method=robust", "method=zopo")) for overrides in found]
    assert searches == sorted(searches)


def test_that_options_had_to_be_hidden_is_said_only_of_data_sets_that_were_tried():
    hidden = ["dataset.answer=text", "dataset.options=hidden"]
    typed, *_ = reading(cells("table1", ["race"], hidden))
    assert typed == "Options hidden: race."
    ours, *_ = reading(cells("table1", ["race", "hellaswag"], []))
    assert ours.startswith("Options hidden: hellaswag. With options shown, on hellaswag a model of 0.5 billion weights was not")


def test_what_the_tables_sweep_is_not_typed():
    with pytest.raises(InputError, match="give --datasets for others"):
        cells("table1", [*DATASETS], ["seed=3"])


def test_the_time_is_kept_a_run_that_fails_is_said_and_what_is_left_is_resumed(data, tiny_llama, tmp_path, monkeypatch, capsys):
    typed = [*without_root(tiny_llama, tmp_path), "method=user", "eval_prompts=10"]
    what = ["table1", *typed, "--datasets", "piqa", "--data", data, "--at-a-time", "2"]
    place = ["--runs", tmp_path / "runs", "--report", tmp_path / "report"]
    call(monkeypatch, *what, *place, "--minutes", "0.01")
    said = capsys.readouterr().out
    ended = [line.split(": ", 1)[1] for line in said.splitlines() if line.startswith("piqa-")]
    assert "0 of 3 runs are finished" in said and len(ended) == 3
    assert set(ended) <= {"stopped; the same command resumes it", "not started: the time was up"}

    in_the_way = tmp_path / "runs" / cells("table1", ["piqa"], [f"data_root={data.absolute()}", *typed])[1].name
    shutil.rmtree(in_the_way, ignore_errors=True)
    in_the_way.write_text("no folder")
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, *what, *place)
    said = capsys.readouterr().out
    assert exit_.value.code == 1 and "2 of 3 runs are finished" in said and f"{in_the_way.name}: failed: " in said
    page = (tmp_path / "report" / "README.md").read_text()
    assert "Options hidden: piqa." in page and "WinoGrande is left out" in page and "as many test rows: piqa." in page

    in_the_way.unlink()
    call(monkeypatch, *what, *place, "--keep")
    said = capsys.readouterr().out
    assert "3 of 3 runs are finished" in said and said.count("finished before") == 2
    assert sorted(read_results(path.parent).config["seed"] for path in tmp_path.glob("report/runs/*/results.json")) == [0, 1, 2]


def test_rows_that_are_not_there_are_one_sentence_before_anything_runs(data, tiny_llama, tmp_path, monkeypatch, capsys):
    small = without_root(tiny_llama, tmp_path)
    place = ["--data", data, "--runs", tmp_path / "runs", "--report", tmp_path / "report"]
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "table1", *small, "method=user", "--datasets", "piqa", "hellaswag", *place)
    assert exit_.value.code == 2 and "hellaswag/train.jsonl: there is no such data file" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_command_leaves_no_run_behind_and_is_resumed(data, tiny_llama, tmp_path):
    small = without_root(tiny_llama, tmp_path)
    place = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--report", str(tmp_path / "report")]
    command = [sys.executable, "-m", "experiments.real_tables", "table1", *small, "method=user", "eval_prompts=10", "T=2000"]
    process = subprocess.Popen(
        [*command, "--datasets", "piqa", "--at-a-time", "1", *place], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        for _ in range(3000):  # until a run trains
            if list(tmp_path.glob("runs/*/log/*/metrics.csv")) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and said.count("stopped; the same command resumes it") >= 1
    assert not list(tmp_path.glob("runs/*/results.json"))
    for folder in tmp_path.glob("runs/*-user-*"):
        with FileLock(folder / ".lock", timeout=0):  # nobody is at work there
            pass


def test_a_model_that_cannot_be_had_is_one_sentence(data, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "table1", "model=nothing", "--data", data, "--runs", tmp_path / "runs", "--plan")
    assert exit_.value.code == 2 and "nothing" in capsys.readouterr().err
