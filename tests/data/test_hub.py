"""Rows by a hub id, from a local server of the hub's endpoints (hub_server.py), by `datasets` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.hub_server import COMMIT, serving
from tests.reliability.bad_inputs.files import about

_LOAD = """
import json, sys
from paft.config.compose import compose_training
from paft.data.rows import load_examples
from paft.runtime.errors import InputError
for overrides in json.loads(sys.argv[1]):
    try:
        found = load_examples(compose_training(["dataset=jsonl", *overrides]).dataset, None, None, None)
        first = min(found.test, key=lambda example: example.id)
        sizes = [len(found.train), len(found.validation), len(found.test)]
        print(json.dumps([sizes, first.where, {**first.fields}, first.choices, first.answer, found.task.notes]))
    except InputError as error:
        print(json.dumps(str(error)))
from paft.config.compose import compose_evaluation
from paft.data.inputs import load_evaluation_inputs
print(json.dumps(len(load_evaluation_inputs(compose_evaluation([f"adapter={sys.argv[2]}"])).examples)))
"""
LABELS = ["refund", "shipping"]
CONFIGS = """---
configs:
- config_name: easy
  data_files: [{split: train, path: easy/train.jsonl}, {split: test, path: easy/test.jsonl}]
- config_name: hard
  data_files: [{split: train, path: hard.jsonl}]
---
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for name in ("me/tickets/data", "me/parts/easy", "me/classes"):
        (root / name).mkdir(parents=True)
    for split, n in (("train", 30), ("test", 12)):
        rows = "".join(f"Ticket {split} {i},{LABELS[i % 2]}\n" for i in range(n))
        (root / "me" / "tickets" / "data" / f"{split}.csv").write_text(f"ticket,label\n{rows}")
        nested = [_arc(f"{split} {i}", 3 + i % 2) for i in range(n)]
        (root / "me" / "parts" / "easy" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nested))
    (root / "me" / "parts" / "hard.jsonl").write_text(json.dumps(_arc("hard", 3)) + "\n")
    (root / "me" / "parts" / "README.md").write_text(CONFIGS)
    kinds = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": LABELS, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": kinds}})}
    for split, n in (("train", 20), ("validation", 10)):
        columns = {"text": [f"{split} {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, root / "me" / "classes" / f"{split}-00000-of-00001.parquet")
    return root


def _arc(question: str, n: int) -> dict[str, Any]:
    choices = {"text": [*"wxyz"[:n]], "label": [*"ABCD"[:n]]}
    return {"question": question, "choices": choices, "answerKey": "ABC"[len(question) % 3]}


ASKED = {
    "csv": ["dataset.path=hub:me/tickets", "dataset.labels=from_gold"],
    "pinned": [f"dataset.path=hub:me/tickets@{COMMIT}", "dataset.labels=from_gold"],
    "arc": ["dataset.path=hub:me/parts:easy"],
    "classes": ["dataset.path=hub:me/classes", "dataset.test_split=validation", "dataset.labels=from_gold"],
    "no test split": ["dataset.path=hub:me/classes", "dataset.labels=from_gold"],
    "no configuration": ["dataset.path=hub:me/parts"],
    "no data set": ["dataset.path=hub:me/none"],
}
BY_ADAPTER = "by an adapter that was trained on them"


@pytest.fixture(scope="module")
def said(hub, tmp_path_factory) -> dict[str, Any]:
    """What is loaded, or said, by a process that knows no other hub."""
    adapter = tmp_path_factory.mktemp("run") / "adapter"
    for name, content in {
        "adapter/paft.json": about("dataset=jsonl", *ASKED["csv"]),
        "adapter/adapter_config.json": "{}",
        "adapter/adapter_model.safetensors": "",
        "prompts/test.yaml": "answer: text\nprompts:\n  - text: '{ticket} Team:'\n",
    }.items():
        (adapter.parent / name).parent.mkdir(exist_ok=True)
        (adapter.parent / name).write_text(content)
    own = {"HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "0", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    with serving(hub) as endpoint:
        command = [sys.executable, "-c", _LOAD, json.dumps([*ASKED.values()]), str(adapter)]
        environment = os.environ | own | {"HF_ENDPOINT": endpoint}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", '"')) or line.isdecimal()]
    return dict(zip([*ASKED, BY_ADAPTER], lines, strict=True))


def test_data_sets_of_the_hub(said):
    csv, pinned, arc, classes = (said[name] for name in ("csv", "pinned", "arc", "classes"))
    assert csv[:3] == [[27, 3, 12], "hub:me/tickets, test row 0", {**csv[2], "ticket": "Ticket test 0"}]
    assert csv[3:5] == [LABELS, "refund"] and pinned[0] == csv[0] and pinned[2:5] == csv[2:5]
    assert arc[0] == [27, 3, 12] and arc[2:5] == [{"question": "test 0", "A": "w", "B": "x", "C": "y"}, ["w", "x", "y"], "w"]
    assert any(note.startswith("rows differ in their number of choices") for note in arc[5])
    # Classes by their names; the validation split is scored, so that another part of the training rows chooses the checkpoint.
    assert classes[:2] == [[18, 2, 10], "hub:me/classes, validation row 0"] and classes[3:5] == [LABELS, "refund"]


def test_an_adapter_that_was_trained_on_them_needs_no_path(said):
    assert said[BY_ADAPTER] == 12


def test_what_is_not_on_the_hub(said):
    assert said["no test split"] == (
        "dataset.path=hub:me/classes: there is no split test, but train, validation; choose the one to score with "
        "dataset.test_split=validation."
    )
    assert said["no configuration"] == (
        "dataset.path=hub:me/parts: name a configuration, hub:me/parts:CONFIG, one of easy, hard."
    )
    assert said["no data set"].startswith("dataset.path=hub:me/none: the data set could not be loaded from the hub (")
