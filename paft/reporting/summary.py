"""The records of results.json that are made of a score matrix or of a pool of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paft.config.schema import DatasetConfig
from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.disagreement import Answers, free_form_answers
from paft.evaluation.evaluator import Scored
from paft.evaluation.labels import by_label
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.robustness import Consensus, con, consensus, robustness, uncertainty
from paft.evaluation.sensitivity import Sensitivity, calibration, posix, pss
from paft.evaluation.statistics import Array
from paft.evaluation.store import read_cells
from paft.evaluation.tail import Family, by_family, families_named, tail
from paft.prompts import PromptPool
from paft.reporting.results import AdversarialPrompts, Device, GitState, PoolRecord, ScoringSettings, Summary
from paft.reporting.warnings import warnings_of


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


def summarise(
    matrix: ScoreMatrix,
    threshold: float | None,
    settings: Mapping[str, Any],
    labelled: bool = True,
    warnings: Sequence[str] = (),
    free_form: NDArray[np.int32] | None = None,
    families: Mapping[str, Mapping[str, Family]] | None = None,
    sensitivity: Sensitivity | None = None,
    labels: Sequence[str] = (),
) -> Summary:
    """Return the summary of a score matrix.

    Args:
        threshold: the accuracy that a prompt must reach to count for Top; None: no Top.
        settings: those of ScoringSettings, in plain types.
        labelled: whether rows have labels; False leaves out what depends on the right answers.
        warnings: what was known before scoring; what the matrix shows is added.
        free_form: the numbers (P, E) of free-form answers, -1 where a text holds none; None: rows have choices.
        families, sensitivity: those of Summary.
        labels: of a classification, in the order of the choices.
    """
    has_choices = min(matrix.n_choices) > 0
    without = (matrix.predicted if free_form is None else free_form) < 0
    agree = consensus(matrix) if has_choices and len(matrix.prompt_ids) > 1 else None
    names = list(dict.fromkeys(matrix.parts))
    if agree is not None and not labelled:
        agree = Consensus(agree.agreement, None)
    how = ScoringSettings.model_validate(settings)
    interval = uncertainty(matrix) if labelled else None
    mean = None if interval is None else interval.mean
    shown = warnings_of(matrix, mean, how.max_new_tokens, without, labelled, how.called, labels)
    return Summary(
        robustness=robustness(matrix, threshold) if labelled else None,
        uncertainty=interval,
        parts={name: robustness(matrix.part(name), threshold) for name in names} if labelled and len(names) > 1 else {},
        consensus=agree,
        chance=matrix.chance if labelled else None,
        threshold=threshold,
        ties=int(matrix.tied.sum()),
        unanswered=int(without.sum()) if has_choices else 0,
        test_prompts_truncated=int(matrix.truncated.sum()),
        scoring=how,
        warnings=[*warnings, *shown],
        tail=tail(matrix) if labelled else None,
        families={key: dict(own) for key, own in (families or {}).items()} if labelled else {},
        sensitivity=sensitivity,
        constant=matrix.constant if labelled else None,
        given=matrix.given,
        labels=by_label(matrix, labels),
    )


def adversarial_prompts(
    matrix: ScoreMatrix, pool: PromptPool, settings: Mapping[str, Any], git: GitState, device: Device
) -> AdversarialPrompts:
    """Return the record of Con from the matrix of the adversarial prompts.

    Args:
        settings: those of ScoringSettings, in plain types.
    """
    overall = con(matrix)
    return AdversarialPrompts(
        mean=overall.mean,
        worst=overall.worst,
        parts={part: con(matrix.part(part)) for part in dict.fromkeys(matrix.parts)},
        pool=describe_pool(pool),
        scoring=ScoringSettings.model_validate(settings),
        git=git,
        device=device,
    )


def describe_pool(pool: PromptPool) -> PoolRecord:
    """Return the record of a pool for results.json."""
    return PoolRecord(
        name=pool.name,
        prompts=len(pool.templates),
        wordings=pool.n_wordings,
        fingerprint=pool.fingerprint,
        notes=list(pool.notes),
    )


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
    answers = Answers(matrix.predicted if free_form is None else free_form)
    log_probs = _log_probs(scored.path, *matrix.correct.shape) if free_form is None else None
    found = Sensitivity(None, pss(matrix.correct) if labelled else None, 1 - answers.agreement, None)
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
