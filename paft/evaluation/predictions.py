"""Predictions for rows without labels: the answer that most prompts give."""

from collections.abc import Sequence
from typing import Any

from paft.data.tasks.base import Task
from paft.evaluation.disagreement import Answers


def predictions(answers: Answers, task: Task, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each row with the prediction of most prompts, and the share of the prompts that agree on it.

    Where rows have choices, `prediction` is what the row calls the choice (its label, or its field) and `prediction_text` its
    text. A free-form prediction is a text; of texts that count as equal the first is given. Of several answers with equal votes
    the first is taken. `prediction` is None where no prompt answers.

    Args:
        answers: those of the prompts to the rows, in their order.
    """
    shares = answers.votes.max(axis=1) / len(answers.codes)
    texts = answers.texts or ((),) * len(rows)
    return [
        row | _prediction(int(winner), own, task, row) | {"prediction_agreement": round(float(share), 4)}
        for row, winner, share, own in zip(rows, answers.majority, shares, texts, strict=True)
    ]


def _prediction(winner: int, texts: Sequence[str], task: Task, row: dict[str, Any]) -> dict[str, Any]:
    if winner < 0:
        return {"prediction": None}
    if not task.has_choices:
        return {"prediction": texts[winner]}
    example = task.example("", row, "", "", labelled=False)
    return {"prediction": example.names[winner], "prediction_text": example.choices[winner]}
