"""Tasks: how a row of a data set becomes an Example, and the fields that its prompt templates hold."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple, TypeAlias

from paft.prompts.pool import Answer, Form, Options
from paft.runtime.errors import InputError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

LETTERS = ascii_uppercase
LABELS = "labels"  # the field that shows all labels of a classification: {labels}
GoldForm: TypeAlias = Literal["name", "index", "text"]  # how a row states its right answer; a letter is a name, too


@dataclass(frozen=True)
class Example:
    """One row of a task, checked."""

    id: str
    fields: Mapping[str, str]  # what templates may show, the options included
    choices: tuple[str, ...]  # the option texts; empty for free-form answers
    gold: int  # index of the right choice; -1 for free-form answers and unlabelled rows
    answer: str  # text of the right answer; empty for unlabelled rows
    group: str  # what the row shares with others (RACE: its article), else its id
    part: str  # the subset that is reported separately
    where: str = ""  # file and line, for error messages
    names: tuple[str, ...] = ()  # what the row calls its choices: their labels, else their fields
    choices_vary: bool = False  # whether rows of its task may differ in the number of choices, which are the fields A, B, C ...
    unshown: tuple[str, ...] = ()  # the fields that hold a list or an object, which no template can show
    others: tuple[str, ...] = ()  # further right answers of a free-form row, which count as well in scoring

    @property
    def answers(self) -> tuple[str, ...]:
        """Every right answer; the first is the one that is trained on."""
        return self.answer, *self.others


class RowError(Exception):
    """Something about a row that cannot be used: the end of a sentence that begins with the place of the row."""


class RawExample(NamedTuple):
    """A row in the field names that templates use, not checked yet."""

    fields: dict[str, Any]
    gold: Any  # the right answer, in one of the task's gold_forms
    group: str = ""  # what the row shares with others; empty: nothing
    choices: tuple[str, ...] | None = None  # None: the task's choice fields hold them
    names: tuple[str, ...] | None = None  # as in Example; None: the names of the task's choice fields
    unshown: tuple[str, ...] = ()  # as in Example


@dataclass(frozen=True)
class Task:
    """A data set: the fields of its templates, and how its rows are read.

    read turns a row in the hub's field names into a RawExample and raises KeyError for a missing field, RowError for another
    defect; without it, rows have the field names of templates. generate yields the rows of a split of a data set that is
    generated, not read.
    """

    name: str
    fields: tuple[str, ...]  # in every template
    choice_fields: tuple[str, ...] = ()  # the options, in order; none: free-form answers
    optional_fields: tuple[str, ...] = ()  # templates may show them
    aliases: Mapping[str, str] = field(default_factory=dict)  # the field names in the authors' sheets -> ours
    gold: str = "answer"  # the field of the right answer
    gold_forms: tuple[GoldForm, ...] = ("name", "index", "text")  # tried in this order
    gold_words: str = "the letter, the index from 0 or the text"  # the same, for error messages
    about: str = ""  # the task in a sentence, for the writer of prompts
    read: Callable[[Mapping[str, Any]], RawExample] | None = None
    generate: Callable[[str], Iterator[dict[str, str]]] | None = None
    shares_pools_with: str | None = None  # the task whose shipped prompts it uses
    published_rows: int | None = None  # of the whole training split; None: not known
    labels: tuple[str, ...] = ()  # the choices, where they are the same for every row
    choices_vary: bool = False  # whether rows may differ in the number of choices, which are the fields A, B, C ...
    uniform: bool = True  # whether each row at hand has as many as there are choice_fields
    inferred: Mapping[str, Any] = field(default_factory=dict)  # settings of the data set that were read off its rows
    notes: tuple[str, ...] = ()  # the same in words, for the plan

    @property
    def has_choices(self) -> bool:
        """Whether an answer is one of several choices; else it is free-form."""
        return bool(self.choice_fields or self.labels)

    @property
    def pools(self) -> str:
        """The name of the folder of the task's shipped pools."""
        return self.shares_pools_with or self.name

    def form(self, answer: Answer, options: Options) -> Form:
        """Return the form of this task's templates, given what they are answered with and whether they show the options."""
        fields, choices, optional = map(frozenset, (self.fields, self.choice_fields, self.optional_fields))
        if not self.labels:
            return Form(fields, choices, answer, options, optional, choices_vary=self.choices_vary, uniform=self.uniform)
        if answer == "text" and options == "hidden":  # a prompt need not show the labels, but may
            return Form(fields, frozenset(), answer, options, optional, extra_fields=choices | {LABELS})
        whole_list = LABELS if answer == "text" else None
        return Form(fields, choices, answer, options, optional, extra_fields=frozenset({LABELS}), whole_list=whole_list)

    def example(self, where: str, row: Mapping[str, Any], id_: str, part: str, labelled: bool = True) -> Example:
        """Turn a row in the hub's field names into an Example.

        Args:
            where: the file and line of the row.
            labelled: False leaves the answer unread: gold is -1 and the answer empty.

        Raises InputError that begins with `where` if a field is missing or null, or the answer is none of the choices.
        """
        row = {name: value for name, value in row.items() if value is not None}
        if not labelled:
            row = {self.gold: "", **row}
        try:
            raw = self._as_named(row) if self.read is None else self.read(row)
        except KeyError as error:
            raise InputError(f"{where}: the row lacks the field {error.args[0]!r}, which {self.name} needs.") from None
        except RowError as error:
            raise InputError(f"{where}: {error}.") from None
        fields = {name: _text(value, f"{where}: the field {name!r}") for name, value in raw.fields.items()}
        names = self.choice_fields if raw.names is None else raw.names
        choices = tuple(fields[name] for name in self.choice_fields) if raw.choices is None else raw.choices
        common = partial(
            Example, id_, fields, choices, group=raw.group or id_, part=part, where=where, names=names,
            choices_vary=self.choices_vary, unshown=raw.unshown,
        )  # fmt: skip
        gold = raw.gold
        if not choices:
            if not labelled:
                return common(gold=-1, answer="")
            several = gold if isinstance(gold, list) else [gold]
            if not several or not all(str(answer).strip() for answer in several):
                turns = isinstance(row.get(self.gold), list) and not isinstance(gold, list)
                empty_is = "ends without an answer" if turns else "is empty"
                raise InputError(f"{where}: {self.gold!r} {empty_is}; a free-form row needs its answer.")
            first, *others = dict.fromkeys(_text(answer, f"{where}: {self.gold!r}") for answer in several)
            return common(gold=-1, answer=first, others=tuple(others))
        if empty := [name for name, choice in zip(names, choices, strict=True) if not choice.strip()]:
            raise InputError(f"{where}: the choice {empty[0]!r} is empty; every choice needs a text.")
        if not labelled:
            return common(gold=-1, answer="")
        index = gold_index(gold, names, choices, self.gold_forms)
        if index is None and self.labels:
            raise InputError(f"{where}: {self.gold!r} is {gold!r}, which is {_none_of(str(gold), self.labels)}.")
        if index is None:
            raise InputError(
                f"{where}: {self.gold!r} is {row[self.gold]!r}; it must be {self.gold_words} of one of the {len(choices)} "
                "choices."
            )
        return common(gold=index, answer=choices[index])

    def _as_named(self, row: Mapping[str, Any]) -> RawExample:
        """Read a row whose field names are already those of the templates."""
        fields = {name: row[name] for name in (*self.fields, *self.choice_fields)}
        fields |= {name: row[name] for name in self.optional_fields if name in row}
        return RawExample(fields, row[self.gold])


def _none_of(answer: str, labels: Sequence[str]) -> str:
    """Return, as a clause, that an answer is none of the labels, and the one that is nearest."""
    by_case = {label.strip().casefold(): label for label in reversed(labels)}
    near = difflib.get_close_matches(answer.strip().casefold(), list(by_case), n=1, cutoff=0.6)
    shown = ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
    meant = f"write {by_case[near[0]]!r} if that is meant" if near else "mend the row, or name the label in dataset.labels"
    return f"none of the {len(labels)} labels ({shown}); {meant}"


def four_options(row: Mapping[str, Any], name: str) -> list[Any]:
    """Return the four options that a row holds in a list; raises KeyError if they are not four."""
    options = row[name]
    if not isinstance(options, list) or len(options) != 4:
        raise KeyError(f"{name} (a list of 4)")
    return options


def _text(value: Any, what: str) -> str:
    """Return a field's value as a text; raises InputError for a list, an object, or half a surrogate pair."""
    if not isinstance(value, str | int | float):
        raise InputError(f"{what} is {'a list' if isinstance(value, list) else 'an object'}; it must be a text or a number.")
    if match := _LONE_SURROGATE.search(text := str(value)):
        raise InputError(f"{what} holds half a character (U+{ord(match[0]):04X}); write the whole one.")
    return text


def place_name(place: int) -> str:
    """Return the name of a choice by its place, from 0: its letter, and after Z its number, from 27."""
    return LETTERS[place] if place < len(LETTERS) else str(place + 1)


def gold_index(gold: Any, names: Sequence[str], choices: Sequence[str], forms: Sequence[GoldForm]) -> int | None:
    """Return the index of the choice that `gold` means in the first form that fits, else None."""
    text = str(gold).strip()
    for form in forms:
        if form == "name" and text in names:
            return names.index(text)
        if form == "name" and len(text) == 1 and text in LETTERS[: len(choices)]:
            return LETTERS.index(text)
        if form == "index" and text.isdecimal() and int(text) < len(choices):
            return int(text)
        if form == "text" and text in (texts := [choice.strip() for choice in choices]):
            return texts.index(text)
    return None
