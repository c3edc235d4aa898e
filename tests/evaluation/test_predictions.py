"""Predictions: what most prompts answer, -1 as a number included."""

import pyarrow as pa
import pyarrow.parquet as pq

from paft.data.tasks.base import Task
from paft.evaluation.metrics import Metric
from paft.evaluation.predictions import predictions
from paft.evaluation.store import SCHEMA, VERSION


def test_minus_one_is_a_number_like_others(tmp_path):
    outputs = ["so it is\n#### -1", "the answer is -1", "3"]
    cells = [
        dict.fromkeys(SCHEMA.names) | {"prompt": i, "example": 0, "predicted": -1, "output": text}
        for i, text in enumerate(outputs)
    ]
    path = tmp_path / "matrix.parquet"
    pq.write_table(pa.Table.from_pylist(cells, schema=SCHEMA.with_metadata({"version": str(VERSION)})), path)
    task = Task("jsonl", (), (), ("question",))
    (found,) = predictions(path, task, [{"question": "2 - 3?"}], Metric("last_number"))
    assert found["prediction"] == outputs[0] and found["prediction_agreement"] == 0.6667
