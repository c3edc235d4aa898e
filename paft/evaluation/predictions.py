"""Predictions for rows without labels: the answer that most prompts give."""

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paft.data.tasks.base import Task
from paft.evaluation.metrics import Metric
from paft.evaluation.store import read_cells


def predictions(matrix: Path, task: Task, rows: Sequence[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    """Return each row with the prediction of most prompts, and the share of the prompts that agree on it.

    Where rows have choices, `prediction` is what the row calls the choice (its label, or its field) and `prediction_text` its
    text. A free-form prediction is a text; of texts that count as equal the first is given. Of several answers with equal votes
    the first is taken. `prediction` is None where no prompt answers.

    Args:
        matrix: the file of the finished matrix, whose examples are the rows in their order.
        metric: which free-form texts count as equal (see Metric.read).
    """
    cells = read_cells(matrix, ["example", "predicted", "output"])
    votes: list[Counter[Any]] = [Counter() for _ in rows]
    texts: list[dict[Any, str]] = [{} for _ in rows]
    n_prompts = len(cells) // len(rows)
    for example, predicted, output in zip(*(cells[name].to_pylist() for name in cells.column_names), strict=True):
        answer = predicted if task.has_choices else metric.read(output)
        if answer != -1 if task.has_choices else answer not in (None, ""):
            votes[example][answer] += 1
            texts[example].setdefault(answer, output)
    return [row | _prediction(vote, text, task, row, n_prompts) for row, vote, text in zip(rows, votes, texts, strict=True)]


def free_form_answers(matrix: Path, metric: Metric, n_prompts: int) -> NDArray[np.int32]:
    """Return a number (P, E) for the free-form answer of each cell: of an example, the same for texts that count as equal.

    It is -1 where a text holds no answer: no number (last_number), no match (regex), no token that counts (f1), or nothing.

    Args:
        matrix: the file of a finished matrix.
    """
    cells = read_cells(matrix, ["example", "output"])
    numbers: dict[int, dict[Hashable, int]] = {}  # by example
    found = []
    for example, output in zip(cells["example"].to_pylist(), cells["output"].to_pylist(), strict=True):
        own = numbers.setdefault(example, {})
        answer = metric.read(output or "")
        found.append(-1 if answer in (None, "") else own.setdefault(answer, len(own)))
    return np.array(found, dtype=np.int32).reshape(n_prompts, -1)


def _prediction(votes: Counter[Any], texts: dict[Any, str], task: Task, row: dict[str, Any], n_prompts: int) -> dict[str, Any]:
    if not votes:
        return {"prediction": None, "prediction_agreement": 0.0}
    most = max(votes.values())
    if task.has_choices:
        winner = min(choice for choice, count in votes.items() if count == most)
        example = task.example("", row, "", "", labelled=False)
        prediction = {"prediction": example.names[winner], "prediction_text": example.choices[winner]}
    else:
        winner = next(answer for answer, count in votes.items() if count == most)
        prediction = {"prediction": texts[winner]}
    return prediction | {"prediction_agreement": round(most / n_prompts, 4)}
