"""The summary of a finished score matrix, and whether a run has one: robustness, families of prompts, sensitivity."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paft.config.schema import DatasetConfig
from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import read_matrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.predictions import free_form_answers
from paft.evaluation.sensitivity import Sensitivity, calibration, posix, pss
from paft.evaluation.statistics import Array, agreement
from paft.evaluation.store import MatrixStore, read_cells
from paft.evaluation.tail import Family, by_family, families_named
from paft.prompts import PromptPool
from paft.reporting.results import Summary, read_results
from paft.reporting.summary import summarise
from paft.runtime import ranks
from paft.runtime.run_folder import RunFolder


def summary_of(
    scored: Scored,
    dataset: DatasetConfig,
    pool: PromptPool,
    encoder: Encoder | None,
    examples: Sequence[Example],
    labelled: bool = True,
    warnings: Sequence[str] = (),
) -> Summary:
    """Return the summary of a matrix of prompts and examples.

    Args:
        encoder: tells the tokens of an answer, which POSIX needs; None, of a served model: there is no POSIX.
        labelled: whether rows have right answers.
        warnings: what was known before scoring.
    """
    matrix, free_form = scored.matrix, None
    if min(matrix.n_choices) == 0:
        free_form = free_form_answers(scored.path, metric_of(dataset), len(matrix.prompt_ids))
    return summarise(
        matrix,
        dataset.threshold,
        scored.settings,
        labelled,
        warnings,
        free_form=free_form,
        families=_by_family(scored, pool),
        sensitivity=_sensitivity(scored, free_form, encoder, examples, labelled),
        labels=() if dataset.labels is None else examples[0].choices,
    )


def scored_before(folder: Path, settings: dict[str, Any]) -> Scored:
    """Return the score matrix that a finished run left in its folder; raises InputError if it is missing or damaged.

    Args:
        settings: by which it was scored, in plain types.
    """
    store = MatrixStore(folder, {})
    return Scored(read_matrix(store.path), store.path, store.seconds(), settings)


# What a training run says once its texts are scored by a function that was changed after the run had finished.
CHOSEN_BEFORE = (
    "The checkpoint was chosen by an earlier version of the function that is dataset.metric; only the test is scored anew."
)


def has_results(folder: RunFolder, dataset: DatasetConfig) -> bool:
    """Return whether a run has its results, which one that another version of its metric's function has scored has not.

    The first rank decides for all, because another process may finish the run right now.
    """
    return ranks.gather(folder.results.is_file() and not outdated(folder.results, dataset))[0]


def outdated(results: Path, dataset: DatasetConfig) -> bool:
    """Return whether a run has finished, but another version of the function that is its metric has scored it.

    Args:
        results: the path of the run's results.json, which may be missing.
    """
    function = metric_of(dataset).function
    if function is None or not results.is_file():
        return False
    recorded = read_results(results).scoring.metric
    return recorded is None or recorded.source != function.source


def _by_family(scored: Scored, pool: PromptPool) -> dict[str, dict[str, Family]]:
    """Return the accuracies by wording, by layout, and by kind of layout where layouts are named KIND/VARIANT."""
    accuracy = scored.matrix.accuracy
    found = {key: dict(by_family(accuracy, families)) for key, families in families_named(pool).items()}
    return {key: families for key, families in found.items() if len(families) > 1}


def _sensitivity(
    scored: Scored, free_form: NDArray[np.int32] | None, encoder: Encoder | None, examples: Sequence[Example], labelled: bool
) -> Sensitivity | None:
    """Return how sensitive the answers are to the prompt; None for a single prompt.

    Args:
        free_form: the numbers (P, E) of free-form answers; None: rows have choices.
    """
    matrix = scored.matrix
    if len(matrix.prompt_ids) < 2:
        return None
    answers = matrix.predicted if free_form is None else free_form
    log_probs = _log_probs(scored.path, *matrix.correct.shape) if free_form is None else None
    found = Sensitivity(None, pss(matrix.correct) if labelled else None, 1 - agreement(answers), None)
    if log_probs is None:
        return found
    sure = calibration(log_probs, matrix.predicted, matrix.gold) if labelled else None
    by_token = None
    if encoder is not None:
        by_token = posix(log_probs, _padded(encoder.answer_tokens(examples)), matrix.predicted)
    return replace(found, posix=by_token, calibration=sure)


def _log_probs(path: Path, n_prompts: int, n_examples: int) -> Array | None:
    """Return the log-probabilities (P, E, C) of a matrix; None where texts were generated, or no option has a probability."""
    values = read_cells(path, ["log_probs"])["log_probs"].to_pylist()
    if not all(values):
        return None
    log_probs = _padded(values, -np.inf).reshape(n_prompts, n_examples, -1)
    return log_probs if np.isfinite(log_probs).any(axis=-1).all() else None


def _padded(rows: Sequence[Sequence[float]], filler: float = 1.0) -> Array:
    """Return rows of unequal lengths as one array."""
    padded = np.full((len(rows), max(map(len, rows))), filler)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded
