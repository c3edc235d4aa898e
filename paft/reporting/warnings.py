"""Warnings: what a score matrix shows that makes its accuracies mean less, each in a sentence with what to try."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paft.data.checks import FEWEST
from paft.data.tasks.base import place_name
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.statistics import Estimate
from paft.evaluation.wording import working_prompts
from paft.reporting.page import short

_NEARLY_ALL = 0.95  # share of a prompt's answers from which they count as always the same
_MOST = 0.5  # share of a prompt's texts without an answer above which the prompt is counted
_MANY = 0.1  # share of the generated texts from which what is wrong with them decides the accuracy
_BY_LUCK = 0.05  # the probability of finding a prompt above chance where none is
FEWEST_TEMPLATES = 5  # that method=paft should show in training


def warnings_of(
    matrix: ScoreMatrix,
    mean: Estimate | None,
    max_new_tokens: int | None,
    unanswered: NDArray[np.bool_],
    labelled: bool,
    called: str = "accuracy",
    labels: Sequence[str] = (),
) -> list[str]:
    """Return the warnings of a score matrix.

    Args:
        mean: with its interval, where there is one.
        max_new_tokens: the limit of generated texts; None: nothing was generated.
        unanswered: whether the generated text of each cell (P, E) holds no answer.
        labelled: whether rows have right answers.
        called: what a mean of the matrix is called.
        labels: of a classification, in the order of the choices.
    """
    lines = [*_one_choice(matrix, labels), *_truncated(matrix)]
    if max_new_tokens is not None:
        lines += _texts(matrix, max_new_tokens, unanswered, called, labelled)
    return [*_chance(matrix, mean, called), *lines] if labelled else lines


def _truncated(matrix: ScoreMatrix) -> list[str]:
    """Say that many renderings lost their beginning, so that the model did not see the whole row."""
    share = float(matrix.truncated.mean())
    if share < _MANY:
        return []
    return [f"{100 * share:.0f}% of the renderings lost their beginning, because they are longer than cutoff; raise it."]


def few_templates(shown: int, k: int) -> list[str]:
    """Return a warning for a training run of method=paft that shows fewer than five templates.

    Args:
        shown: the number of different templates that training draws.
        k: K, which cannot be lowered where it is 1.
    """
    if shown >= FEWEST_TEMPLATES:
        return []
    templates = "one template" if shown == 1 else f"{shown} templates"
    draw = "raise T or give more rows" if k == 1 else "lower K, raise T or give more rows"
    return [
        f"Training shows {templates} only, which is hardly more than a fixed prompt; for more draws {draw}, and see that the "
        "training pool has more prompts."
    ]


def _chance(matrix: ScoreMatrix, mean: Estimate | None, called: str) -> list[str]:
    """Say that the mean is at or below chance, by its 95% interval.

    Where it has no interval, a mean up to chance is at chance, and only a mean of zero is below. Free-form answers have no
    chance; of them it is said that none is right, or that a metric tells no answer from another.
    """
    value, chance = float(matrix.correct.mean()), matrix.chance
    if chance == 0:
        if 0 < value < 1 and matrix.correct.min() == matrix.correct.max():
            return [
                f"All {matrix.correct.size:,} answers have the same {called}, {value:.3g}, so it says nothing of the model or "
                "of how prompts differ; see whether dataset.metric reads the text and the right answer."
            ]
        if value > 0:
            return []
        return ["Not one answer is right: see in report.html what the model writes, and whether dataset.metric reads it."]
    low, high = (value, chance) if value else (0.0, 0.0)  # without an interval, only no right answer at all is below chance
    if mean is not None and mean.low is not None and mean.high is not None:
        low, high = mean.low, mean.high
    figures = f"mean {100 * value:.1f}, chance {100 * chance:.1f}"
    if low <= chance and (works := _working(matrix)).any():
        return [
            f"Nothing shows that the accuracy over all prompts is above chance ({figures}), but under {works.sum()} of "
            f"{len(works)} it is; look at the renderings of the others in report.html."
        ]
    if high < chance:
        return [
            f"The accuracy is below chance ({figures}), as it is where the right answers are named wrongly or the model "
            "answers alike whatever the row says; look at the worst renderings in report.html and at dataset.gold."
        ]
    if low <= chance:
        return [
            f"The accuracy cannot be told from chance ({figures}), so it says nothing of how prompts differ; try a larger "
            "model, or train longer or with a larger optim.lr."
        ]
    return []


def _working(matrix: ScoreMatrix) -> NDArray[np.bool_]:
    """Say (P,) which prompts are better than guessing, and than one choice throughout, while others are not."""
    constant = None if matrix.commonest is None else (matrix.gold == matrix.commonest).astype(float)
    return working_prompts(matrix.correct.astype(float), matrix.chance, constant, matrix.group_numbers, _BY_LUCK)


def _one_choice(matrix: ScoreMatrix, labels: Sequence[str]) -> list[str]:
    """Say that under half of the prompts or more nearly all answers are the same choice."""
    if not min(matrix.n_choices) or matrix.predicted.shape[1] < FEWEST:
        return []
    counts = np.stack([(matrix.predicted == choice).mean(axis=1) for choice in range(max(matrix.n_choices))])
    alike = counts.max(axis=0) >= _NEARLY_ALL
    if alike.mean() < 0.5:
        return []
    choices = sorted({int(choice) for choice in counts.argmax(axis=0)[alike]})
    names = " or ".join(short(labels[choice]) if labels else place_name(choice) for choice in choices)
    named = names if labels else f"{names}, by its place"
    return [
        f"Under {alike.sum()} of {len(alike)} prompts nearly all answers are one choice, whatever the row says ({named}), "
        "so their accuracy is the share of rows in which that choice is right; try a larger model, or train "
        "longer or with a larger optim.lr."
    ]


def _texts(matrix: ScoreMatrix, max_new_tokens: int, unanswered: NDArray[np.bool_], called: str, labelled: bool) -> list[str]:
    """Say that many generated texts hold no answer, of all prompts or of some, or were cut off before they ended.

    Args:
        unanswered: whether the text of each cell (P, E) holds no answer.
    """
    lines = []
    instead = "scoring=likelihood, or " if min(matrix.n_choices) else ""
    wrong = " and count as wrong" if labelled and called == "accuracy" else ""
    by_prompt = unanswered.mean(axis=1)
    without = int((by_prompt > _MOST).sum())
    worst = f"{matrix.prompt_ids[int(by_prompt.argmax())]} {100 * by_prompt.max():.1f}%"
    some = f"under {without} of {len(by_prompt)} prompts most" if 0 < without < len(by_prompt) else ""
    if unanswered.mean() > _MANY:
        of = f" ({some}, under {worst})" if some else ""
        lines.append(
            f"{100 * unanswered.mean():.1f}% of the generated texts hold no answer{of}{wrong}, so the {called} is as much "
            f"about the form of an answer as about the task; try {instead}prompts that say how to answer, or training."
        )
    elif some:
        lines.append(
            f"{some.capitalize()} of the generated texts hold no answer{wrong} (under {worst}); see in report.html what the "
            "model writes there, and whether that prompt says how to answer."
        )
    cut = float((matrix.output_tokens >= max_new_tokens).mean())
    if cut > _MANY:
        lines.append(
            f"{100 * cut:.1f}% of the generated texts were cut off at max_new_tokens={max_new_tokens} before the model had "
            "ended them; their answers may come later: raise it."
        )
    return lines
