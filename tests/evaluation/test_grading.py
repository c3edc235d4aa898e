"""Texts that a function of one's own scores once they are stored: no mistake of it loses one, and another scores them anew."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.evaluation.matrix import matrix_of, read_matrix
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


def stored(folder: Path, correct: object = None) -> MatrixStore:
    """Three batches in two windows: a prompt, then the examples of another in turn."""
    store = MatrixStore(folder, {"model": "a"})
    store.save_part(0, [cell(0, 1, correct, "a"), cell(0, 0, correct, "abc")], {"p0": 1.0})
    store.save_part(1, [cell(1, 1, correct, "abcdefgh")], {"p1": 1.0})
    store.save_part(2, [cell(1, 0, correct, "")], {"p1": 1.0})
    return store


def failing(example: int, text: str) -> float:
    if not text:
        raise InputError("one clear sentence")
    return 1.0


def test_texts_have_their_scores_in_the_end(tmp_path):
    store = stored(tmp_path)
    store.finish(WINDOWS, LENGTH)
    found = read_matrix(store.path)
    assert found.correct.tolist() == [[0.3, 0.1], [0.0, 0.8]] and found.correct.dtype == np.float64
    assert store.finished() and not store.parts.exists() and store.seconds() == {"p0": 1.0, "p1": 2.0}


def test_a_mistake_of_the_function_loses_no_text(tmp_path):
    store = stored(tmp_path)
    with pytest.raises(InputError, match="one clear sentence"):
        store.finish(WINDOWS, Grading("wrong", failing))
    assert not store.finished() and not store.path.exists()
    assert [row["output"] for batch in range(3) for row in store.load_part(batch) or []] == ["a", "abc", "abcdefgh", ""]
    store.finish(WINDOWS, LENGTH)
    assert read_matrix(store.path).correct.tolist() == [[0.3, 0.1], [0.0, 0.8]]


def test_another_function_scores_the_texts_anew(tmp_path):
    store = stored(tmp_path)
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
