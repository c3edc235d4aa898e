"""A metric of one's own: found, loaded as it is now, and its scores checked."""

import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from paft.config.schema import DatasetConfig
from paft.data.tasks.base import Example
from paft.evaluation.metrics import check_metric, metric_of
from paft.evaluation.own_metric import OwnFunction, load_function
from paft.runtime.errors import InputError

ROW = Example("0", {"q": "2 + 2?", "unit": "m"}, (), -1, "four", "0", "mine", "rows.jsonl, line 7", others=("4",))
SCORE = "def score(output, answer, row):\n    return {}\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """The working directory; paths that a test adds are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def returning(value: object) -> OwnFunction:
    return OwnFunction("m.py:score", "m.py", "0" * 16, lambda output, answer, row: value)


@pytest.mark.parametrize(
    "path", ["mine.py:score", "./mine.py:score", "mine:score", "folder.mine:score", "folder/mine.py:score"]
)
def test_files_and_modules_are_found_from_the_working_directory(here, path):
    (here / "folder").mkdir()
    for place in (here, here / "folder"):
        (place / "mine.py").write_text("from beside import HALF\n\n" + SCORE.format("HALF if row['q'] else 0"))
        (place / "beside.py").write_text("HALF = 0.5\n")
    (here / "inside").mkdir()
    (here / "inside" / "__init__.py").write_text("from .judge import score\n")
    (here / "inside" / "judge.py").write_text(SCORE.format("0.5"))
    function = load_function(path)
    assert function("four", ROW) == 0.5 and function.path == path and len(function.source) == 16


def test_an_absolute_path_is_found_from_anywhere(here, tmp_path_factory, monkeypatch):
    (here / "mine.py").write_text(SCORE.format("1"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_function(f"{here / 'mine.py'}:score")("x", ROW) == 1.0


@pytest.mark.parametrize("path", ["mine.py:score", "mine:score"])
def test_the_code_that_runs_is_that_whose_hash_is_recorded(here, path):
    """Also where a file changes twice within a second and keeps its size, which Python's own cache of code overlooks."""
    found = []
    for value in ("0.1", "0.2", "0.3", "0.1"):
        (here / "mine.py").write_text(SCORE.format(value))
        function = load_function(path)
        found.append((function("x", ROW), function.source))
    assert [score for score, _ in found] == [0.1, 0.2, 0.3, 0.1]
    assert found[0] == found[3] and len(set(found)) == 3
    assert not list(here.rglob("__pycache__"))


def test_a_job_keeps_its_function_and_the_next_one_reads_the_file_again(here):
    dataset = DatasetConfig(name="jsonl", answer="text", metric="mine.py:score")
    (here / "mine.py").write_text(SCORE.format("0.25"))
    check_metric(dataset, [ROW])
    (here / "mine.py").write_text(SCORE.format("0.75"))
    function = metric_of(dataset).function
    assert function is not None and function("x", ROW) == 0.25
    again = check_metric(dataset, [ROW]).function
    assert again is not None and again("x", ROW) == 0.75 and again.source != function.source


def test_classes_and_annotations_work_in_the_file(here):
    (here / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Judge:\n    weight: float\n"
        "    def __call__(self, output: str, answer: str, row: dict) -> float:\n        return self.weight\n\n"
        "judge = Judge(0.5)\n"
    )
    assert load_function("mine.py:judge")("x", ROW) == 0.5


def test_it_is_given_the_text_the_answer_and_the_row_and_the_best_answer_counts():
    given = []

    def score(output: str, answer: str, row: dict[str, str]) -> float:
        given.append((output, answer, row))
        row["q"] = "changed"  # its own copy
        return len(answer) / 10

    assert OwnFunction("m.py:score", "m.py", "0", score)("five", ROW) == 0.4
    assert given == [("five", "four", {"q": "changed", "unit": "m"}), ("five", "4", {"q": "changed", "unit": "m"})]
    assert ROW.fields["q"] == "2 + 2?"


@pytest.mark.parametrize(
    "value",
    [0.5, 1, 0, True, np.float32(0.5), np.float64(1), np.bool_(True), np.array(0.25), torch.tensor(0.5), Fraction(1, 2)],
)
def test_numbers_of_all_kinds_are_scores(value):
    found = returning(value)("x", ROW)
    assert type(found) is float and found == float(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "returned None (NoneType)"),
        ("0.5", "returned '0.5' (str)"),
        ([0.5], "returned [0.5] (list)"),
        (np.array([0.5]), "returned array([0.5]) (ndarray)"),
        (0.5j, "returned 0.5j (complex)"),
        (float("nan"), "returned nan"),
        (np.float32("nan"), "returned nan"),
        (float("inf"), "returned inf"),
        (-1e-9, "returned -1e-09"),
        (1.0000001, "returned 1.0000001"),
    ],
)
def test_anything_else_is_refused_with_the_row_and_the_text(value, said):
    with pytest.raises(
        InputError, match=re.escape(f"dataset.metric=m.py:score {said} for rows.jsonl, line 7 and the text 'x';")
    ):
        returning(value)("x", ROW)


def test_a_mistake_is_named_with_its_line(here):
    (here / "mine.py").write_text("def half(x):\n    return x['half']\n\n\n" + SCORE.format("half({})"))
    with pytest.raises(
        InputError, match=r"^dataset.metric=mine.py:score raised KeyError in line 2 \('half'\) for rows.jsonl, line"
    ):
        load_function("mine.py:score")("x", ROW)


def test_rows_without_labels_are_not_scored():
    unlabelled = Example("0", {"q": "?"}, (), -1, "", "0", "mine")
    assert returning(1.0)("x", unlabelled) == 0.0
