"""The records of results.json that are made of a score matrix or of a pool of prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paft.evaluation.labels import by_label
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import Consensus, con, consensus, robustness, uncertainty
from paft.evaluation.sensitivity import Sensitivity
from paft.evaluation.tail import Family, tail
from paft.prompts import PromptPool
from paft.reporting.results import AdversarialPrompts, Device, GitState, PoolRecord, ScoringSettings, Summary
from paft.reporting.warnings import warnings_of


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
