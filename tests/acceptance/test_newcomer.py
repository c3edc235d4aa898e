"""The way of a newcomer: own rows with labels as CSV, five own prompts, a verdict, and the trained model behind a server."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paft.evaluation.matrix import read_matrix
from paft.reporting.results import Results, read_results
from tests.served import TinyServer

ROOT = Path(__file__).parent.parent.parent

# Two ways to say the same for each team, of which the second is in no training row.
SENTENCES = {
    "shipping": ("My parcel has not arrived after {n} days.", "I have waited {n} days for the delivery of my {thing}."),
    "refund": ("I want my {n} dollars back for the {thing}.", "Please return the {n} dollars that I paid."),
    "account": ("I cannot log in since {n} o'clock.", "My password was not accepted {n} times."),
}
THINGS = ("lamp", "chair", "radio", "coat")
MINE = (
    "Customer: {text}\nTeam ({labels}):",
    "{text}\nWhich of {labels} is this about? It is",
    "Teams: {labels}\nMessage: {text}\nThe right team is",
    "Sort this message into one of {labels}.\n{text}\nAnswer:",
    "Options: {labels}. A customer writes: {text} That goes to",
)
UNSEEN = ("{text}\nChoose one: {labels}\nChoice:", "One of {labels} must answer this: {text}\nWho?", "[{labels}]\n{text}\n=>")


def write_rows(path: Path, n: int, way: int | None, numbers: range, labelled: bool = True) -> None:
    """Write n rows; way: of saying it, None: either; numbers: those that are in the texts."""
    draw = random.Random(numbers.start)
    names = ["text", "label"] if labelled else ["text"]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, names)
        rows.writeheader()
        for i in range(n):
            label = [*SENTENCES][i % len(SENTENCES)]
            said = SENTENCES[label][draw.randrange(2) if way is None else way]
            text = said.format(n=draw.choice(numbers), thing=draw.choice(THINGS))
            rows.writerow({"text": text, "label": label} if labelled else {"text": text})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "train.csv", 60, 0, range(2, 400))
    write_rows(tmp_path / "rows" / "test.csv", 24, None, range(400, 800))
    write_rows(tmp_path / "new.csv", 6, None, range(800, 900), labelled=False)
    for name, texts in (("mine", MINE), ("unseen", UNSEEN)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"prompts": [{"text": text} for text in texts]}))
    return tmp_path


def paft(workspace: Path, *arguments: str, expected: int = 0) -> str:
    """Run a command in the workspace; return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "paft", *arguments]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == expected, f"{arguments}\n{done.stdout[-1500:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def only(workspace: Path, pattern: str) -> Path:
    (found,) = workspace.glob(f"runs/{pattern}/results.json")
    return found.parent


def predicted(results: Results) -> NDArray[np.int32]:
    return read_matrix(results.folder / "matrix.parquet").predicted


def test_from_a_csv_to_a_verdict_and_to_a_server(workspace):
    task = ["dataset.path=rows", "dataset.labels=from_gold", "dataset.options=shown", "prompts.test=unseen.yaml"]
    there = ["output_root=runs", "trainer.progress=false"]
    here = [*there, "trainer.accelerator=cpu"]
    paft(workspace, "evaluate", "model=smollm2_135m", *task, *here)
    base = read_results(only(workspace, "eval-*"))
    assert base.robustness is not None and base.verdict is not None
    below = paft(workspace, "evaluate", "model=smollm2_135m", *task, *here, "fail_under.worst=100", expected=1)
    assert "is below fail_under.worst=100; the worst prompt is " in below and "Finished already" in below

    printed = paft(workspace, "train", *task, "prompts.train=mine.yaml", "preset=own_rows_small", *here)
    run = only(workspace, "*-paft-*")
    trained = read_results(run)
    assert trained.robustness is not None and trained.verdict is not None
    assert "Verdict: " in printed and trained.beside["base"].robustness == base.robustness
    assert trained.robustness.mean > base.robustness.mean + 0.2, trained.verdict
    assert trained.verdict.startswith("Better than the base model by "), trained.verdict

    said = paft(workspace, "compare", str(run), str(only(workspace, "jsonl-*-base-*")))
    assert "3 prompts x 24 examples" in said

    paft(workspace, "merge", str(run), "--out", "my_model")
    written = ["scoring=generate", "prompts.test=unseen.yaml", "model.dtype=fp32", *here]  # fp32, as the server computes
    paft(workspace, "evaluate", f"adapter={run / 'adapter'}", "dataset.path=rows", *written)
    local = read_results(only(workspace, "eval-*-paft-*generate-*"))
    server = TinyServer(workspace / "my_model", name="support", gives=("completions",))
    try:
        api = [f"model.api={server.url}", "model.name=support"]
        paft(workspace, "evaluate", *api, *task, "scoring=generate", *there)
        served = read_results(only(workspace, "eval-*support*"))
        same = predicted(served) == predicted(local)
        assert np.mean(same) >= 0.98, (np.mean(same), served.robustness, local.robustness)
    finally:
        server.close()

    paft(workspace, "evaluate", f"adapter={run / 'adapter'}", "dataset.path=new.csv", "output=predictions.jsonl", *here)
    rows = [json.loads(line) for line in (workspace / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["prediction"] in SENTENCES for row in rows)
