"""Tasks: how a row of a data set becomes an Example, and the fields that its prompt templates hold."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from paft.prompts.pool import Answer, Form, Options
from paft.runtime.errors import InputError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
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
    others: tuple[str, ...] = ()  # further right answers of a free-form row, which count as well in scoring

    @property
    def answers(self) -> tuple[str, ...]:
        """Every right answer; the first is the one that is trained on."""
        return self.answer, *self.others


class RawExample(NamedTuple):
    """A row in the field names that templates use, not checked yet."""

    fields: dict[str, Any]
    gold: Any  # the right answer, in one of the task's gold_forms
    group: str = ""  # what the row shares with others; empty: nothing


@dataclass(frozen=True)
class Task:
    """A data set: the fields of its templates, and how its rows are read.

    read turns a row in the hub's field names into a RawExample and raises KeyError for a missing field; without it, rows have
    the field names of templates. generate yields the rows of a split of a data set that is generated, not read.
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

    @property
    def pools(self) -> str:
        """The name of the folder of the task's shipped pools."""
        return self.shares_pools_with or self.name

    def form(self, answer: Answer, options: Options) -> Form:
        """Return the form of this task's templates, given what they are answered with and whether they show the options."""
        fields, choices, optional = map(frozenset, (self.fields, self.choice_fields, self.optional_fields))
        return Form(fields, choices, answer, options, optional)

    def example(self, where: str, row: Mapping[str, Any], id_: str, part: str, labelled: bool = True) -> Example:
        """Turn a row in the hub's field names into an Example.

        Args:
            where: the file and line of the row.
            labelled: False leaves the answer unread: gold is -1 and the answer empty.

        Raises InputError that begins with `where` if a field is missing or null, or the answer is none of the choices.
        """
        row = {name: value for name, value in row.items() if value is not None}
        if not labelled:
            row |= {self.gold: ""}
        try:
            fields, gold, group = self._as_named(row) if self.read is None else self.read(row)
        except KeyError as error:
            raise InputError(f"{where}: the row lacks the field {error.args[0]!r}, which {self.name} needs.") from None
        fields = {name: _text(value, f"{where}: the field {name!r}") for name, value in fields.items()}
        choices = tuple(fields[name] for name in self.choice_fields)
        if not choices:
            if not labelled:
                return Example(id_, fields, (), -1, "", group or id_, part, where)
            several = gold if isinstance(gold, list) else [gold]
            if not several or not all(str(answer).strip() for answer in several):
                raise InputError(f"{where}: {self.gold!r} is empty; a free-form row needs its answer.")
            first, *others = dict.fromkeys(_text(answer, f"{where}: {self.gold!r}") for answer in several)
            return Example(id_, fields, (), -1, first, group or id_, part, where, tuple(others))
        if empty := [name for name in self.choice_fields if not fields[name].strip()]:
            raise InputError(f"{where}: the choice {empty[0]!r} is empty; every choice needs a text.")
        if not labelled:
            return Example(id_, fields, choices, -1, "", group or id_, part, where)
        index = gold_index(gold, self.choice_fields, choices, self.gold_forms)
        if index is None:
            raise InputError(
                f"{where}: {self.gold!r} is {row[self.gold]!r}; it must be {self.gold_words} of one of the {len(choices)} "
                "choices."
            )
        return Example(id_, fields, choices, index, choices[index], group or id_, part, where)

    def _as_named(self, row: Mapping[str, Any]) -> RawExample:
        """Read a row whose field names are already those of the templates."""
        fields = {name: row[name] for name in (*self.fields, *self.choice_fields)}
        fields |= {name: row[name] for name in self.optional_fields if name in row}
        return RawExample(fields, row[self.gold])


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
