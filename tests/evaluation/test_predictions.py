"""Predictions: what most prompts answer, in the words of the first of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paft.data.tasks.base import Task
from paft.evaluation.disagreement import answers_of
from paft.evaluation.metrics import Metric
from paft.evaluation.predictions import predictions
from paft.evaluation.store import SCHEMA, VERSION
from tests.evaluation.test_robustness import matrix

TASK = Task("jsonl", (), (), ("question",))


def predicted(path: Path, outputs: list[list[str]]) -> list[tuple[str | None, float]]:
    """Return the prediction for each example, and how many prompts agree, from a matrix of texts (E, P) in a file."""
    n_prompts = len(outputs[0])
    cells = [
        dict.fromkeys(SCHEMA.names) | {"prompt": prompt, "example": example, "predicted": -1, "output": texts[prompt]}
        for prompt in range(n_prompts)
        for example, texts in enumerate(outputs)
    ]
    pq.write_table(pa.Table.from_pylist(cells, schema=SCHEMA.with_metadata({"version": str(VERSION)})), path)
    free_form = replace(matrix(np.zeros((n_prompts, len(outputs)))), n_choices=(0,) * len(outputs))
    answers = answers_of(free_form, path, Metric("last_number"))
    found = predictions(answers, TASK, [{"question": "2 - 3?"}] * len(outputs))
    return [(row["prediction"], row["prediction_agreement"]) for row in found]


def test_minus_one_is_a_number_like_others(tmp_path):
    outputs = ["so it is\n#### -1", "the answer is -1", "3"]
    assert predicted(tmp_path / "matrix.parquet", [outputs]) == [(outputs[0], 0.6667)]


def test_free_form_predictions_are_what_most_prompts_write(tmp_path):
    outputs = [["so 4", "is 4.", "5"], ["none", "", "no"], ["7", "8", "8"]]
    assert predicted(tmp_path / "matrix.parquet", outputs) == [("so 4", 0.6667), (None, 0.0), ("8", 0.6667)]
