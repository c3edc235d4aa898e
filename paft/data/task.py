"""Tasks: what a row of each data set says, as an Example."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from paft.errors import InputError
from paft.prompts.pool import Answer, Form, Options

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


@dataclass(frozen=True)
class Task:
    """What the templates of a data set must and may hold, and how its rows are read."""

    name: str
    fields: tuple[str, ...]
    choice_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)  # the official sheets' names for our fields
    gold: str = "answer"  # where rows carry the answer
    gold_forms: tuple[GoldForm, ...] = ("name", "index", "text")  # tried in this order
    gold_words: str = "the letter, the index from 0 or the text"  # the same for people
    about: str = ""  # what is asked, in a sentence for someone who writes prompts

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
            fields, gold, group = self._read(row)
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

    def _read(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], Any, str]:
        """Return the fields, the gold answer and the group of a row."""
        match self.name:
            case "hellaswag":
                endings = row["endings"]
                if not isinstance(endings, list) or len(endings) != 4:
                    raise KeyError("endings (a list of 4)")
                texts = [_clean_hellaswag(text) for text in (row["ctx"], *endings)]
                return dict(zip(("ctx", *"ABCD"), texts, strict=True)), row["label"], ""
            case "piqa":
                return {name: row[name] for name in ("goal", "sol1", "sol2")}, row["label"], ""
            case "winogrande":
                # The hub counts the options from 1.
                gold = {"1": "A", "2": "B", "0": ""}.get(str(row["answer"]), row["answer"])
                return {name: row[name] for name in ("sentence", "option1", "option2")}, gold, ""
            case "race" | "race_middle" | "race_high":
                options = row["options"]
                if not isinstance(options, list) or len(options) != 4:
                    raise KeyError("options (a list of 4)")
                fields = {"article": row["article"], "question": row["question"]}
                # Questions of one article are no independent evidence, whether their rows name it or not.
                article = row.get("example_id") or hashlib.sha256(str(row["article"]).encode()).hexdigest()[:12]
                return fields | dict(zip("ABCD", options, strict=True)), row["answer"], str(article)
            case "gsm8k":
                return {"question": row["question"]}, row["answer"], ""
        fields = {name: row[name] for name in (*self.fields, *self.choice_fields)}
        fields |= {name: row[name] for name in self.optional_fields if name in row}
        return fields, row[self.gold], ""


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


def _clean_hellaswag(text: Any) -> Any:
    """Remove the WikiHow markers of a text, as evaluation harnesses do."""
    if not isinstance(text, str):
        return text  # which is refused later
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


_RACE = "an article is followed by a question about it, and one of four options answers it"

BUILT_IN = {
    task.name: task
    for task in (
        Task(
            "story_facts",
            ("story", "question"),
            tuple("ABCD"),
            about="a short story is followed by a question about it, and one of four options answers it",
        ),
        Task(
            "hellaswag",
            ("ctx",),
            tuple("ABCD"),
            gold="label",
            about="the beginning of a text about an everyday scene (ctx) is to be continued with the best of four endings",
        ),
        Task(
            "piqa",
            ("goal",),
            ("sol1", "sol2"),
            gold="label",
            about="a practical goal is given, and one of two solutions (sol1, sol2) really reaches it",
        ),
        Task(
            "winogrande",
            ("sentence",),
            ("option1", "option2"),
            aliases={"prompt": "sentence", "only_option1": "option1", "only_option2": "option2"},
            gold_words="the letter, the number from 1 or the text",
            about='one of two options (option1, option2) is what the blank, written "_", in a sentence stands for',
        ),
        Task("race", ("article", "question"), tuple("ABCD"), about=_RACE),
        Task("race_middle", ("article", "question"), tuple("ABCD"), about=_RACE),
        Task("race_high", ("article", "question"), tuple("ABCD"), about=_RACE),
        Task(
            "gsm8k",
            ("question",),
            about="a mathematical word problem of primary school is solved step by step, and the solution ends in a number",
        ),
    )
}
