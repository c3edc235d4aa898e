"""The first gate: do the losses of templates and of families last over 25 updates, on other rows?"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from paft.evaluation.statistics import Array
from paft.prompts import PromptTemplate

EVERY = 25  # updates between two states
FLOOR = 0.05  # nats of an answer token, mean over templates: below, an answer is right with 95% and more
PERSISTS = 0.5  # rank correlation, as a share of about the most that there can be, below which no learnt sampler can work
LEAST = 0.3  # rank correlation of both halves of the rows at one update, below which they say too little of templates
BY_FAMILY = 0.3  # share of the spread over templates below which families cannot stand for them


@dataclass(frozen=True)
class Lasting:
    """How far losses of templates or families last: their rank correlation with those on other rows, later and at once."""

    later: Array  # at the next state, EVERY updates later (S - 1,)
    at_once: Array  # at the same state, which is about the most that can be expected (S,)

    @classmethod
    def of(cls, by_half: Array) -> "Lasting":
        """Return how far losses last.

        Args:
            by_half: (S, P, 2), of templates or of families.
        """
        return cls(persistence(by_half), np.array([across(one, one) for one in by_half]))


def persistence(by_half: Array) -> Array:
    """Return the rank correlation of losses at each state, on half of the rows, with those at the next on the other (S - 1,).

    Args:
        by_half: (S, P, 2), of templates or of families.
    """
    return np.array([across(a, b) for a, b in itertools.pairwise(by_half)])


def across(one: Array, other: Array) -> float:
    """Return the rank correlation of (P, 2) with (P, 2), each half with the other half, which are other rows."""
    found = [stats.spearmanr(one[:, half], other[:, 1 - half]).statistic for half in (0, 1)]
    return float(np.mean(found))


def of_families(by_half: Array, families: Sequence[str]) -> Array:
    """Return the mean loss of each family (S, F, 2).

    Args:
        by_half: (S, P, 2).
        families: of each template.
    """
    names = sorted(set(families))
    members = [[i for i, name in enumerate(families) if name == other] for other in names]
    return np.stack([by_half[:, own].mean(1) for own in members], axis=1)


def explained(by_template: Array, templates: Sequence[PromptTemplate]) -> float:
    """Return the share of the spread over templates that wording and layout explain, additively, adjusted for their number.

    Not a number where there are hardly more templates than families.

    Args:
        by_template: the loss of each template (P,).
    """
    columns = [np.ones(len(templates))]
    for key in ("wording", "layout"):
        names = [getattr(template, key) for template in templates]
        columns += [np.array([name == other for name in names], dtype=float) for other in sorted(set(names))[1:]]
    design = np.stack(columns, axis=1)
    rank = int(np.linalg.matrix_rank(design))
    left = by_template - design @ np.linalg.lstsq(design, by_template, rcond=None)[0]
    free = len(templates) - rank
    if free < 1:
        return float("nan")
    return float(1 - (left @ left / free) / np.var(by_template, ddof=1))
