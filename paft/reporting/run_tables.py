"""The tables of a run's page: its prompts and their families, the rows that split them, and the renderings to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paft.data.tasks.base import LETTERS, Example
from paft.evaluation.disagreement import Answers
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.statistics import Array, can_promise, mean_interval
from paft.evaluation.store import StoredCell, read_cells
from paft.evaluation.tail import Family, families_named
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.renderings import Reader, Rendering
from paft.reporting.results import Results

_WORST_PROMPTS, _MISTAKES = 3, 3  # the number of worst prompts on the page, and of mistakes for each
_ROWS = 8  # that split the prompts
_ANSWERS = 6  # to a row, that are shown
_NAMED = 6  # prompts that are named for an answer to a row
_MOST_FAMILIES = 20  # rows of a table
_DOT, _LEVELS = 1.1, 7  # of the strip: a dot's width in percent of the axis, and how many lie above each other on either side


class PromptRow(NamedTuple):
    """A test prompt: accuracy (None: rows without labels) and agreement with the majority in percent."""

    place: int  # in the pool
    template: PromptTemplate
    accuracy: float | None
    majority: float
    tokens: float
    seconds: float


class FamilyRow(NamedTuple):
    """A family of prompts: accuracies in percent; low and high are the mean's interval, None where none can be promised."""

    name: str
    prompts: int
    mean: float
    low: float | None
    high: float | None
    worst: float


class Vote(NamedTuple):
    """An answer to a row, and the prompts that give it: how many, and some of them by their places in the pool."""

    mark: str
    text: str
    right: bool
    prompts: int
    named: list[int]


class SplitRow(NamedTuple):
    """A row that prompts answer differently: its texts, and the answers, that of most prompts first.

    others counts the answers that are not among the votes, because these are many.
    """

    id: str
    where: str
    fields: list[tuple[str, str]]
    right: str
    votes: list[Vote]
    others: int


@dataclass(frozen=True)
class Strip:
    """A dot for each prompt on an axis from 0 to 100; dots are (x in percent, level), of which each is drawn once."""

    dots: list[tuple[float, int]]
    mean: float
    low: float
    high: float
    levels: int  # on either side


def prompt_rows(scored: Scored, answers: Answers, pool: PromptPool, labelled: bool) -> list[PromptRow]:
    """Return the test prompts in the order of the pool."""
    matrix = scored.matrix
    accuracy, majority, tokens = matrix.accuracy, answers.with_majority, matrix.output_tokens.mean(axis=1)
    return [
        PromptRow(
            i,
            template,
            100 * float(accuracy[i]) if labelled else None,
            100 * float(majority[i]),
            float(tokens[i]),
            scored.seconds.get(template.id, 0.0),
        )
        for i, template in enumerate(pool.templates)
    ]


def position(row: PromptRow) -> float:
    """Return what a prompt is ranked by: its accuracy, or without labels its agreement with the majority."""
    return row.majority if row.accuracy is None else row.accuracy


def family_tables(results: Results, matrix: ScoreMatrix, pool: PromptPool) -> list[tuple[str, list[FamilyRow], int]]:
    """Return the tables of families: what they are families of, the worst ones, and how many there are in all.

    There is none where each family is a single prompt.
    """
    names = families_named(pool)
    groups = matrix.group_numbers
    correct = matrix.correct.astype(float)
    tables = []
    for key, families in results.families.items():
        if max(family.prompts for family in families.values()) > 1:
            shown = list(families.items())[:_MOST_FAMILIES]
            rows = [_family(name, family, correct[[own == name for own in names[key]]], groups) for name, family in shown]
            tables.append((key, rows, len(families)))
    return tables


def _family(name: str, family: Family, correct: Array, groups: NDArray[np.int64]) -> FamilyRow:
    """Return the row of a family; correct is that of its prompts."""
    low = high = None
    if can_promise(correct, groups):
        interval = mean_interval(correct, groups, draws=2_000)
        low, high = interval.low, interval.high
    return FamilyRow(
        name,
        family.prompts,
        100 * family.mean,
        None if low is None else 100 * low,
        None if high is None else 100 * high,
        100 * family.worst,
    )


def strip_of(values: Array) -> Strip:
    """Lay out the dots of prompts so that they do not cover each other, as far as there is room."""
    ends = {0: -np.inf} | {level: -np.inf for n in range(1, _LEVELS + 1) for level in (n, -n)}  # where each level is free
    dots: dict[tuple[float, int], None] = {}
    for value in sorted(values.tolist()):
        level = next((level for level, end in ends.items() if end <= value), None)
        if level is None:
            level = min(ends, key=lambda one: ends[one])
        ends[level] = value + _DOT
        dots[round(value, 1), level] = None
    used = max(abs(level) for _, level in dots)
    return Strip(list(dots), float(values.mean()), float(values.min()), float(values.max()), used)


def split_rows(answers: Answers, pool: PromptPool, examples: Sequence[Example], letters: bool) -> list[SplitRow]:
    """Return the rows on which the prompts disagree most, by the entropy of their answers."""
    entropy = answers.entropy
    order = [int(i) for i in np.argsort(-entropy, kind="stable")[:_ROWS] if entropy[i] > 0]
    shown = frozenset[str]().union(*(template.fields for template in pool.templates))
    return [_split_row(answers, examples[i], i, shown, letters) for i in order]


def _split_row(answers: Answers, example: Example, index: int, shown: frozenset[str], letters: bool) -> SplitRow:
    codes = answers.codes[:, index]
    given, counts = np.unique(codes, return_counts=True)
    votes = []
    for code in given[np.argsort(-counts, kind="stable")][:_ANSWERS].tolist():
        own = np.flatnonzero(codes == code).tolist()
        mark, text = "", "no answer"
        if code >= 0 and answers.texts:
            text = answers.texts[index][code]
        elif code >= 0:
            mark, text = LETTERS[code] if letters else "", example.choices[code]
        right = code >= 0 and not answers.texts and code == example.gold
        votes.append(Vote(mark, text, right, len(own), own[:_NAMED]))
    fields = [(name, text) for name, text in example.fields.items() if name in shown and text not in example.choices]
    right = " or ".join(example.answers) if answers.texts else ""
    return SplitRow(example.id, example.where, fields, right, votes, len(given) - len(votes))


def worst_renderings(
    scored: Scored,
    prompts: Sequence[PromptRow],
    wrong: Array,
    pool: PromptPool,
    examples: Sequence[Example],
    reader: Reader,
) -> list[tuple[PromptRow, list[Rendering]]]:
    """Return the worst prompts, each with some renderings of its own that were answered wrongly, or unlike the majority.

    Args:
        wrong: (P, E), from 0 to 1.
    """
    order = [row.place for row in sorted(prompts, key=position)[:_WORST_PROMPTS]]
    chosen = choose_examples(wrong, order, _MISTAKES)
    return [(prompts[prompt], _renderings(scored.path, prompt, own, pool, examples, reader)) for prompt, own in chosen.items()]


def some_renderings(scored: Scored, pool: PromptPool, examples: Sequence[Example], reader: Reader) -> list[Rendering]:
    """Return two renderings of the test, of different prompts and rows as far as there are several."""
    places = {0: 0, len(pool.templates) // 2: len(examples) // 2}
    return [
        rendering
        for prompt, example in places.items()
        for rendering in _renderings(scored.path, prompt, [example], pool, examples, reader)
    ]


def _renderings(
    path: Path, prompt: int, rows: Sequence[int], pool: PromptPool, examples: Sequence[Example], reader: Reader
) -> list[Rendering]:
    """Read some cells of a prompt and return their renderings, in the order of the rows."""
    cells: list[StoredCell] = read_cells(path, where=[("prompt", "=", prompt), ("example", "in", list(rows))]).to_pylist()
    by_row = {cell["example"]: cell for cell in cells}
    template, letters = pool.templates[prompt], pool.answer == "letter"
    return [reader.tested(by_row[row], template, examples[row], letters) for row in rows]


def choose_examples(wrong: Array, prompts: Sequence[int], n: int) -> dict[int, list[int]]:
    """Return up to n examples for each prompt, of those that are wrong under it; a prompt that has none is left out.

    One that is right under other prompts comes first, because it shows what this prompt changes; one that an earlier prompt has
    comes last.

    Args:
        wrong: (P, E), from 0 to 1.
    """
    mean = wrong.mean(axis=0)
    used: set[int] = set()
    chosen = {}
    for prompt in prompts:
        own = wrong[prompt]
        found = np.flatnonzero(own).tolist()
        if found:
            chosen[prompt] = sorted(found, key=lambda example: (example in used, -own[example], mean[example], example))[:n]
            used |= {*chosen[prompt]}
    return chosen
