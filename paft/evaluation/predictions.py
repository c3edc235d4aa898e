"""Predictions for rows without labels: the answer that most prompts give."""

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paft.data.tasks.base import Task
from paft.evaluation.answers import Metric, last_number
from paft.evaluation.store import read_cells


def predictions(matrix: Path, task: Task, rows: Sequence[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    """Return each row with the prediction of most prompts, and the share of the prompts that agree on it.

    Where rows have choices, `prediction` is the name of the choice's field and `prediction_text` its text. A free-form
    prediction is a text; of texts that count as equal the first is given. Of several answers with equal votes the first is
    taken. `prediction` is None where no prompt answers.

    Args:
        matrix: the file of the finished matrix, whose examples are the rows in their order.
        metric: how free-form answers are compared.
    """
    cells = read_cells(matrix, ["example", "predicted", "output"])
    votes: list[Counter[Any]] = [Counter() for _ in rows]
    texts: list[dict[Any, str]] = [{} for _ in rows]
    n_prompts = len(cells) // len(rows)
    for example, predicted, output in zip(*(cells[name].to_pylist() for name in cells.column_names), strict=True):
        answer = predicted if task.choice_fields else _key(output, metric)
        if answer != -1 if task.choice_fields else answer not in (None, ""):
            votes[example][answer] += 1
            texts[example].setdefault(answer, output)
    return [row | _prediction(vote, text, task, row, n_prompts) for row, vote, text in zip(rows, votes, texts, strict=True)]


def count_unread(matrix: Path, metric: Metric) -> int:
    """Count the free-form texts of a finished matrix that hold no answer: no number, or for metric exact nothing at all.

    Args:
        matrix: the file.
    """
    return sum(_key(output or "", metric) in (None, "") for output in read_cells(matrix, ["output"])["output"].to_pylist())


def free_form_answers(matrix: Path, metric: Metric, n_prompts: int) -> NDArray[np.int32]:
    """Return a number (P, E) for the free-form answer of each cell: of an example, the same for texts that count as equal.

    It is -1 where a text holds no answer.

    Args:
        matrix: the file of a finished matrix.
    """
    cells = read_cells(matrix, ["example", "output"])
    numbers: dict[int, dict[Hashable, int]] = {}  # by example
    found = []
    for example, output in zip(cells["example"].to_pylist(), cells["output"].to_pylist(), strict=True):
        own = numbers.setdefault(example, {})
        answer = _key(output or "", metric)
        found.append(-1 if answer in (None, "") else own.setdefault(answer, len(own)))
    return np.array(found, dtype=np.int32).reshape(n_prompts, -1)


def _key(output: str, metric: Metric) -> Any:
    """Return a key that is the same for free-form answers that count as equal."""
    return last_number(output) if metric == "last_number" else " ".join(output.split()).casefold()


def _prediction(votes: Counter[Any], texts: dict[Any, str], task: Task, row: dict[str, Any], n_prompts: int) -> dict[str, Any]:
    if not votes:
        return {"prediction": None, "prediction_agreement": 0.0}
    most = max(votes.values())
    if task.choice_fields:
        winner = min(choice for choice, count in votes.items() if count == most)
        prediction = {"prediction": task.choice_fields[winner], "prediction_text": _text(task, row, winner)}
    else:
        winner = next(answer for answer, count in votes.items() if count == most)
        prediction = {"prediction": texts[winner]}
    return prediction | {"prediction_agreement": round(most / n_prompts, 4)}


def _text(task: Task, row: dict[str, Any], choice: int) -> str:
    return task.example("", row, "", "", labelled=False).choices[choice]
