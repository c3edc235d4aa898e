"""What a finished score matrix shows besides the accuracies: families of prompts, sensitivity, calibration."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.evaluator import Scored
from paft.evaluation.sensitivity import Array, Sensitivity, calibration, posix, pss
from paft.evaluation.statistics import agreement
from paft.evaluation.store import read_cells
from paft.evaluation.tail import Family, by_family, kind_of
from paft.prompts import PromptPool


def families_of(scored: Scored, pool: PromptPool) -> dict[str, dict[str, Family]]:
    """Return the accuracies by wording, by layout, and by kind of layout where layouts are named KIND/VARIANT."""
    accuracy = scored.matrix.correct.mean(axis=1)
    layouts = [template.layout for template in pool.templates]
    names = {"wording": [template.wording for template in pool.templates], "layout": layouts}
    if all("/" in layout for layout in layouts):
        names["kind"] = [kind_of(layout) for layout in layouts]
    found = {key: dict(by_family(accuracy, families)) for key, families in names.items()}
    return {key: families for key, families in found.items() if len(families) > 1}


def sensitivity_of(scored: Scored, encoder: Encoder, examples: Sequence[Example], labelled: bool = True) -> Sensitivity | None:
    """Return how sensitive the answers of a matrix are to the prompt; None for a single prompt and for free-form answers.

    Args:
        labelled: whether rows have right answers.
    """
    matrix = scored.matrix
    if len(matrix.prompt_ids) < 2 or min(matrix.n_choices) == 0:
        return None
    log_probs = _log_probs(scored.path, *matrix.correct.shape)
    likely = log_probs is not None and bool(np.isfinite(log_probs).any(axis=-1).all())
    tokens = _padded(encoder.answer_tokens(examples))
    return Sensitivity(
        posix=posix(log_probs, tokens) if log_probs is not None and likely else None,
        pss=pss(matrix.correct) if labelled else None,
        flip_rate=1 - agreement(matrix.predicted),
        calibration=calibration(log_probs, matrix.predicted, matrix.gold)
        if log_probs is not None and likely and labelled
        else None,
    )


def _log_probs(path: Path, n_prompts: int, n_examples: int) -> Array | None:
    """Return the log-probabilities (P, E, C) of a matrix; None where texts were generated."""
    values = read_cells(path, ["log_probs"])["log_probs"].to_pylist()
    if not all(values):
        return None
    return _padded(values, -np.inf).reshape(n_prompts, n_examples, -1)


def _padded(rows: Sequence[Sequence[float]], filler: float = 1.0) -> Array:
    """Return rows of unequal lengths as one array."""
    padded = np.full((len(rows), max(map(len, rows))), filler)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded
