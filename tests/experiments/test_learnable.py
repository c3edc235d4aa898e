"""Which data set and model can show what: the page, from real runs of the tiny Llama on rows of the test."""

import json
import sys
from pathlib import Path

import pytest

from experiments.learnable import can_show, main
from paft.cli.hydra_app import run_plain
from paft.evaluation.statistics import Estimate
from tests.conftest import small_run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """PIQA's files, with rows of the test, of which the first choice is right three times in four."""
    (tmp_path / "data" / "piqa").mkdir(parents=True)
    for split, n in (("train", 40), ("validation", 24)):
        rows = [
            {"goal": f"open jar {split} {i}", "sol1": f"turn lid {i}", "sol2": f"hit lid {i}", "label": int(i % 4 == 0)}
            for i in range(n)
        ]
        (tmp_path / "data" / "piqa" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["learnable", *map(str, arguments)])
    run_plain(main)


def test_the_page_has_both_accuracies_beside_what_is_right_without_reading(data, tiny_llama, tmp_path, monkeypatch):
    small = [one for one in small_run(tiny_llama, tmp_path / "runs") if not one.startswith(("score_base", "eval_", "output"))]
    place = ["--data", data, "--runs", tmp_path / "runs", "--report", tmp_path / "page"]
    what = ["--models", "smollm2_135m", "--datasets", "piqa", "--seeds", "0", "1"]
    call(monkeypatch, *small, "eval_prompts=10", "eval_examples=24", *place, *what)
    page = (tmp_path / "page" / "README.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| piqa |"))
    assert "| smollm2_135m | 0, 1 | 50.0 | 75.0 |" in row and "A " in row
    (numbers,) = json.loads((tmp_path / "page" / "results.json").read_text())["rows"]
    assert numbers["constant"] == 0.75 and sum(numbers["given"]) == pytest.approx(1)
    first = page
    call(monkeypatch, *small, "eval_prompts=10", "eval_examples=24", *place, *what, "--page")
    assert (tmp_path / "page" / "README.md").read_text() == first


def test_what_is_not_finished_is_one_sentence(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "--data", data, "--runs", tmp_path / "runs", "--page")
    assert exit_.value.code == 2 and "there is no finished" in capsys.readouterr().err


GAIN, NONE = Estimate(0.1, 0.05, 0.15), Estimate(0.1, -0.05, 0.25)


@pytest.mark.parametrize(
    ("tuned", "gain", "says"),
    [
        (Estimate(0.6, 0.55, 0.65), GAIN, "yes"),
        (Estimate(0.6, 0.55, 0.65), NONE, "no: training is not shown to have taught it anything"),
        (Estimate(0.6, 0.45, 0.75), GAIN, "no: not told from answering without reading"),
        (Estimate(0.4, 0.35, 0.45), GAIN, "no: not told from answering without reading"),
        (Estimate(0.6), GAIN, "not known: too few prompts or rows for an interval"),
        (Estimate(0.6, 0.55, 0.65), Estimate(0.1), "not known: too few prompts or rows for an interval"),
    ],
)
def test_a_cell_shows_something_above_chance_above_one_letter_and_above_the_untuned_model(tuned, gain, says):
    assert can_show(tuned, 0.5, gain) == says
