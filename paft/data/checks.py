"""Checks of data files that would make a measure meaningless: judged over a whole file, never over the rows that are drawn."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from paft.data.tasks.base import Example, Task
from paft.runtime.errors import InputError

FEWEST = 20  # labelled rows, below which a file is not judged
_MOST_LEFT_OUT = 0.01  # of one's own test rows
_ERROR = 0.001  # probability that a file of equally likely choices is remarked on


@dataclass(frozen=True)
class LeftOut:
    """The numbers of drawn test rows that are not scored.

    equal_choices counts those in which another choice equals the right one, so that no answer is right or wrong.
    training_rows counts those that are training rows, too; None: the training rows are not at hand.
    """

    equal_choices: int = 0
    training_rows: int | None = 0

    @property
    def total(self) -> int:
        """The number of rows that are left out."""
        return self.equal_choices + (self.training_rows or 0)


def check_answers(file: str, task: Task, examples: Sequence[Example]) -> None:
    """Refuse one's own rows in which the right answer is always the same, by its place or by its text.

    Args:
        file: what error messages call the rows.

    Raises InputError that names the file and the answer.
    """
    if len(examples) < FEWEST:
        return
    places, texts = {example.gold for example in examples}, {example.answer.strip() for example in examples}
    if task.choice_fields and not task.labels and len(places) == 1:
        same = f"the choice {task.choice_fields[min(places)]!r}"
    elif len(texts) == 1:
        same = f"the text {min(texts)[:40]!r}"
    else:
        return
    order = "" if task.labels else ", and choices in an order that differs from row to row"
    raise InputError(
        f"{file}: the right answer ({task.gold!r}) is {same} in all {len(examples):,} rows, so a model that always says it is "
        f"right without reading; give rows with other right answers{order}."
    )


def never_first(file: str, task: Task, examples: Sequence[Example]) -> list[str]:
    """Return a remark if the first choice is never right, though equally likely choices would make it so 999 times in 1,000.

    Indices that count from 1 look like this. So do labels of fixed meaning of which one does not occur, which is why it is no
    error.
    """
    n = len(examples)
    if not task.choice_fields or n < FEWEST or task.gold_forms == ("text",):
        return []
    if math.prod(1 - 1 / len(example.choices) for example in examples) >= _ERROR:
        return []
    if any(example.gold == 0 for example in examples):
        return []
    return [
        f"{file}: the first choice, {task.choice_fields[0]!r}, is right in none of {n:,} rows; does {task.gold!r} count from 1?"
    ]


def repeated(file: str, examples: Sequence[Example]) -> list[str]:
    """Return a remark if more than 1% of the rows of a file are copies of others, in all their fields and the answer."""
    different = len({_row(example, example.fields.keys()) for example in examples})
    n = len(examples) - different
    if len(examples) < FEWEST or n <= _MOST_LEFT_OUT * len(examples):
        return []
    return [
        f"{file}: {n:,} of {len(examples):,} rows repeat another one: intervals are too narrow, because they count rows as "
        "independent, and validation rows may be trained on; leave the copies out."
    ]


def leave_out(
    drawn: Sequence[Example], whole: Sequence[Example], trained: Iterable[Example] | None, shown: Collection[str], own: bool
) -> tuple[tuple[Example, ...], LeftOut]:
    """Return the drawn test rows that can be scored, in their order, and how many were left out and why.

    Args:
        drawn: some of `whole`.
        whole: all rows of the test file.
        trained: the rows of the training file; None: they are not at hand.
        shown: the fields that the test prompts show, besides the choices. Rows that agree in these, in their choices, whatever
            their order, and in their answer are one row.
        own: whether the rows are one's own: then more than 1% of them is an error of their file.

    Raises InputError that names the file and the line, and where no row is left.
    """
    equal = [example for example in whole if _has_equal_choices(example)]
    rows = {_row(example, shown) for example in trained or ()}
    seen = [example for example in whole if rows and _row(example, shown) in rows]
    if own and len(whole) >= FEWEST:
        _refuse_many(equal, len(whole), "another choice equals the right one, so that no answer is right or wrong")
        _refuse_many(seen, len(whole), "the row was trained or validated on, in what the prompts show and in its answer")
    equal_ids = {example.id for example in equal}
    without = equal_ids | {example.id for example in seen}
    kept = tuple(example for example in drawn if example.id not in without)
    if not kept:
        raise InputError(
            f"{drawn[0].where}: none of the {len(drawn):,} test rows can be scored, because they are training rows, or another "
            "choice equals the right one; give other test rows."
        )
    n_equal = sum(example.id in equal_ids for example in drawn)
    n_seen = len(drawn) - len(kept) - n_equal
    return kept, LeftOut(n_equal, None if trained is None else n_seen)


def _refuse_many(bad: Sequence[Example], n: int, why: str) -> None:
    if len(bad) > _MOST_LEFT_OUT * n:
        first = min(bad, key=lambda example: int(example.id.rsplit("-", 1)[1]))  # files are shuffled
        others = f" (and so are {len(bad) - 1:,} more of {n:,} rows)" if len(bad) > 1 else f" (one of {n:,} rows)"
        raise InputError(f"{first.where}: {why}{others}; up to 1% of such rows are left out of the score, so mend the file.")


def _has_equal_choices(example: Example) -> bool:
    """Return whether another choice is the right one again, but for white space."""
    return Counter(" ".join(choice.split()) for choice in example.choices)[" ".join(example.answer.split())] > 1


def _row(example: Example, shown: Collection[str]) -> bytes:
    """Return a digest of a row as prompts show it, with its answer and without its id."""
    fields = {name: example.fields[name] for name in shown if name in example.fields}
    content = json.dumps([fields, sorted(example.choices), example.answer], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()
