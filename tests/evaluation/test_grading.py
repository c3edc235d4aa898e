"""Texts that a function of one's own scores once they are stored: no mistake of it loses one, and another scores them anew."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.evaluation.matrix import matrix_of, read_matrix
from paft.evaluation.scoring import grade
from paft.evaluation.store import GRADED, SCHEMA, Grading, MatrixStore, StoredCell, read_cells, schema_of
from paft.runtime.errors import InputError

LENGTH = Grading("length", lambda example, text: len(text) / 10)
HALF = Grading("half", lambda example, text: 0.5)
WINDOWS = [[0], [1, 2]]


def cell(prompt: int, example: int, correct: object, text: str | None = "four") -> StoredCell:
    names = {
        "prompt_id": f"p{prompt}",
        "prompt_digest": f"{prompt}",
        "example_id": f"e{example}",
        "example_digest": f"{example}",
    }
    answer = {"log_probs": [], "predicted": -1, "gold": -1, "correct": correct, "tied": False, "output": text}
    rest = {"group": f"g{example}", "part": "all", "n_choices": 0, "output_tokens": 1, "truncated": False}
    return {"prompt": prompt, "example": example, **names, **answer, **rest}


def stored(folder: Path, correct: object = None, grading: Grading | None = None) -> MatrixStore:
    """Three batches in two windows: a prompt, then the examples of another in turn; their texts are scored, too."""
    store = MatrixStore(folder, {"model": "a"})
    for batch, cells in enumerate(([(0, 1, "a"), (0, 0, "abc")], [(1, 1, "abcdefgh")], [(1, 0, "")])):
        rows = [cell(prompt, example, correct, text) for prompt, example, text in cells]
        store.save_part(batch, rows, {f"p{cells[0][0]}": 1.0})
        if grading is not None:
            grade(rows, grading, store, batch)
    return store


def failing(example: int, text: str) -> float:
    if not text:
        raise InputError("one clear sentence")
    return 1.0


def test_texts_have_their_scores_in_the_end(tmp_path):
    store = stored(tmp_path, grading=LENGTH)
    store.finish(WINDOWS, LENGTH)
    found = read_matrix(store.path)
    assert found.correct.tolist() == [[0.3, 0.1], [0.0, 0.8]] and found.correct.dtype == np.float64
    assert store.finished() and not store.parts.exists() and store.seconds() == {"p0": 1.0, "p1": 2.0}


def test_a_mistake_of_the_function_loses_neither_texts_nor_scores(tmp_path):
    wrong = Grading("wrong", failing)
    with pytest.raises(InputError, match="one clear sentence"):
        stored(tmp_path, grading=wrong)
    store = MatrixStore(tmp_path, {"model": "a"})
    parts = [store.load_part(batch, wrong) for batch in range(3)]
    assert [[row["correct"] for row in part] for part in parts] == [[1.0, 1.0], [1.0], [None]]
    mended = [store.load_part(batch, LENGTH) for batch in range(3)]
    assert [row["output"] for part in mended for row in part] == ["a", "abc", "abcdefgh", ""]
    assert {row["correct"] for part in mended for row in part} == {None}, "scores of another version are none"
    for batch, part in enumerate(mended):
        grade(part, LENGTH, store, batch)
    grade(store.load_part(0, LENGTH), wrong, None, 0)  # they have their scores: nothing is called
    store.finish(WINDOWS, LENGTH)
    assert read_matrix(store.path).correct.tolist() == [[0.3, 0.1], [0.0, 0.8]]
    assert store.seconds() == {"p0": 1.0, "p1": 2.0}, "the time of the function is none of generation"


def test_another_function_scores_the_texts_anew(tmp_path):
    store = stored(tmp_path, grading=LENGTH)
    store.finish(WINDOWS, LENGTH)
    before = read_cells(store.path).drop_columns("correct")
    first = store.path.read_bytes()
    store.grade(LENGTH)
    assert store.path.read_bytes() == first, "the same function: nothing is written"
    store.grade(HALF)
    assert (read_matrix(store.path).correct == 0.5).all() and read_cells(store.path).drop_columns("correct").equals(before)
    with pytest.raises(InputError, match="one clear sentence"):
        store.grade(Grading("wrong", failing))
    assert (read_matrix(store.path).correct == 0.5).all(), "a mistake leaves the scores as they were"
    store.grade(LENGTH)
    assert store.path.read_bytes() == first and store.finished()


def test_right_and_wrong_are_stored_as_ever(tmp_path):
    store = stored(tmp_path, correct=True)
    store.finish(WINDOWS)
    schema = pq.read_schema(store.path)
    assert schema.equals(SCHEMA) and set(schema.metadata) == {b"digest", b"version"} and schema.metadata[b"version"] == b"3"
    assert read_matrix(store.path).correct.dtype == bool
    assert schema_of([cell(0, 0, True), cell(0, 1, 1.0)]) is GRADED and schema_of([cell(0, 0, None)]) is GRADED
    assert [field.name for field in GRADED] == [field.name for field in SCHEMA]


def test_scores_that_are_missing_are_no_matrix():
    with pytest.raises(InputError, match="some cells have no value; evaluate the run again"):
        matrix_of(pa.Table.from_pylist([cell(0, 0, None)], schema=GRADED))
