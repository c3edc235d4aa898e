"""The paper's tables on real data: the order of the runs, what a page may say, and what is refused."""

import json
import sys
from pathlib import Path

import pytest

from experiments.real_tables import DATASETS, RECIPES, cells, main, reading
from paft.cli.hydra_app import run_plain
from paft.runtime.errors import InputError
from tests.conftest import small_run


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["real_tables", *map(str, arguments)])
    run_plain(main)


def write_piqa(folder: Path) -> None:
    """Write a few rows of PIQA for training and for the test."""
    (folder / "piqa").mkdir(parents=True)
    for split, n in (("train", 40), ("validation", 24)):
        rows = [{"goal": f"open jar {split} {i}", "sol1": f"turn {i}", "sol2": f"hit {i}", "label": i % 2} for i in range(n)]
        (folder / "piqa" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_piqa(tmp_path / "data")
    return tmp_path / "data"


def without_root(model: Path, folder: Path) -> list[str]:
    """The settings of a small run but for where runs lie, which this command is told by --runs."""
    return [one for one in small_run(model, folder) if not one.startswith("output_root")]


@pytest.mark.parametrize(
    ("recipe", "model", "datasets"),
    [
        ("table1", "qwen2_5_coder_0_5b_gguf", ["race", "hellaswag"]),
        *((recipe, "qwen2_5_coder_0_5b_gguf", ["hellaswag"]) for recipe in RECIPES if recipe != "table1"),
        ("table1", "qwen2_5_coder_0_5b", ["race"]),
        ("table1", "qwen3_0_6b", ["race"]),
    ],
)
def test_every_recipe_goes_with_the_models_of_a_card(recipe, model, datasets):
    found = cells(recipe, datasets, [f"model={model}"])
    assert len({cell.name for cell in found}) == len(found) >= 6 * len(datasets)
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


def test_rows_that_are_not_there_are_one_sentence_before_anything_runs(data, tiny_llama, tmp_path, monkeypatch, capsys):
    small = without_root(tiny_llama, tmp_path)
    place = ["--data", data, "--runs", tmp_path / "runs", "--report", tmp_path / "report"]
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "table1", *small, "method=user", "--datasets", "piqa", "hellaswag", *place)
    assert exit_.value.code == 2 and "hellaswag/train.jsonl: there is no such data file" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_model_that_cannot_be_had_is_one_sentence(data, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "table1", "model=nothing", "--data", data, "--runs", tmp_path / "runs", "--plan")
    assert exit_.value.code == 2 and "nothing" in capsys.readouterr().err
