"""A task: what a row of a data set says, as an Example, and what its prompt templates hold."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from paft.prompts.pool import Answer, Form, Options
from paft.runtime.errors import InputError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GoldForm: TypeAlias = Literal["name", "index", "text"]  # what a right answer is given as; a letter is a name too


@dataclass(frozen=True)
class Example:
    """One row of a task.

    fields holds what templates may show, the options included. choices are the option texts (empty
    for free-form answers) and gold the index of the right one; answer is the text of the right
    answer. group is what the row shares with others (RACE: its article), part the reported subset,
    where the file and line.
    """

    id: str
    fields: Mapping[str, str]
    choices: tuple[str, ...]
    gold: int
    answer: str
    group: str
    part: str
    where: str = ""


class RawExample(NamedTuple):
    """A row in the names that templates use.

    fields are not checked yet, gold is the right answer in one of the task's forms, group what the row shares with others
    (empty: nothing).
    """

    fields: dict[str, Any]
    gold: Any
    group: str = ""


@dataclass(frozen=True)
class Task:
    """A data set: what its templates must and may hold, and how its rows are read.

    read turns a row in the hub's field names into a RawExample and raises KeyError for a field that is missing; None takes the
    fields as they are named. generate yields the rows of a split where nothing is read.
    """

    name: str
    fields: tuple[str, ...]
    choice_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)  # the official sheets' names for our fields
    gold: str = "answer"  # where rows carry the answer
    gold_forms: tuple[GoldForm, ...] = ("name", "index", "text")  # tried in this order
    gold_words: str = "the letter, the index from 0 or the text"  # the same for people
    about: str = ""  # what is asked, in a sentence for someone who writes prompts
    read: Callable[[Mapping[str, Any]], RawExample] | None = None
    generate: Callable[[str], Iterator[dict[str, str]]] | None = None
    shares_pools_with: str | None = None  # the task whose shipped prompts it uses

    @property
    def pools(self) -> str:
        """The folder of its shipped pools."""
        return self.shares_pools_with or self.name

    def form(self, answer: Answer, options: Options) -> Form:
        """Return what templates of this task hold, if they are to be answered so."""
        fields, choices, optional = map(frozenset, (self.fields, self.choice_fields, self.optional_fields))
        return Form(fields, choices, answer, options, optional)

    def example(self, where: str, row: Mapping[str, Any], id_: str, part: str, labelled: bool = True) -> Example:
        """Turn a row in the hub's field names into an Example.

        Args:
            labelled: False leaves its answer unread; gold is then -1 and the answer empty.

        Raises InputError that names `where` the row stands, if a field is lacking (or null) or the answer is
        none of the choices.
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
            if not str(gold).strip():
                raise InputError(f"{where}: {self.gold!r} is empty; a free-form row needs its answer.")
            return Example(id_, fields, (), -1, _text(gold, f"{where}: {self.gold!r}"), group or id_, part, where)
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
        """Return the fields of a row whose names are those of the templates."""
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
    """Return a field as a text; raises InputError for a list, an object, or what no text file can hold."""
    if not isinstance(value, str | int | float):
        raise InputError(f"{what} is {'a list' if isinstance(value, list) else 'an object'}; it must be a text or a number.")
    if found := _LONE_SURROGATE.search(text := str(value)):
        raise InputError(f"{what} holds half a character (U+{ord(found[0]):04X}); write the whole one.")
    return text


def gold_index(gold: Any, names: Sequence[str], choices: Sequence[str], forms: Sequence[GoldForm]) -> int | None:
    """Return which choice `gold` means in the first form that fits: letter or field name, index from 0, text; else None."""
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
