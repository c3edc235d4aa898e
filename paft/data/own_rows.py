"""One's own rows: what their fields mean, as the settings say or as the rows themselves show, and the task that they are."""

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from paft.config.schema import FROM_GOLD, DatasetConfig
from paft.data.chats import CHATS, is_chat, read_chat
from paft.data.chats import FIELDS as CHAT_FIELDS
from paft.data.checks import FEWEST
from paft.data.files import Rows
from paft.data.tasks.base import LABELS, LETTERS, GoldForm, RawExample, RowError, Task, gold_index
from paft.runtime.errors import InputError

GOLD_NAMES = ("answer", "label", "answerKey", "gold", "target", "output", "completion", "response")  # where none is named
LIST_NAMES = ("choices", "options")
_MOST_LABELS = 256  # each is scored after every rendering
_WORDS: dict[GoldForm, str] = {"text": "the text", "name": "the letter or the field name", "index": "the index from 0"}


class Source(NamedTuple):
    """Rows of one split, and what error messages call them; `rows` reads them anew each time."""

    name: str
    rows: Callable[[], Rows]


@dataclass(frozen=True)
class OwnRows:
    """Reads a row of one's own.

    gold is the field of the right answer, or of the turns of a chat. choices are the fields of the options; one alone lists
    them. labels are the options of every row. shown are the fields that templates may show. full says whether each row has a
    text for every field of an option; else those from the third on, C, D ..., may be missing at the end.
    """

    gold: str
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    full: bool = True

    def __call__(self, row: Mapping[str, Any]) -> RawExample:
        """Return a row in the field names that templates use; raises KeyError for a missing field, RowError otherwise."""
        options, names = self.options(row)
        row = dict(row)
        gold = row[self.gold]
        if self.gold in CHATS and not isinstance(gold, str):
            row, gold = _with_turns(self.gold, row)
        unshown = tuple(name for name in self.shown if isinstance(row.get(name), list | dict))
        fields = {name: row[name] for name in self.shown if name in row and name not in unshown}
        if self.labels:
            if LABELS in fields:
                raise RowError(f"the row has a field {LABELS!r} of its own, which {{{LABELS}}} needs; rename it")
            fields = {LABELS: ", ".join(self.labels), **dict(zip(LETTERS, self.labels, strict=False)), **fields}
            return RawExample(fields, label_text(gold), choices=self.labels, names=self.labels, unshown=unshown)
        if clash := options.keys() & fields.keys():
            raise RowError(f"the row has a field {min(clash)!r} of its own, which its listed choices need; rename it")
        choices = tuple(map(str, options.values()))
        return RawExample({**options, **fields}, gold, choices=choices, names=names, unshown=unshown)

    def options(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the options of a row, by the fields in which templates show them, and what the row calls them."""
        names = self.choices
        if len(names) == 1:
            return _listed(names[0], row[names[0]])
        if not self.full:
            filled = [name for name in names if str(row.get(name, "")).strip()]
            names = names[: max(2, len(filled))]
            if hole := next((name for name in filled if name not in names), ""):
                raise RowError(f"the choice {names[-1]!r} or one before it is empty, and {hole!r} is not; leave none out")
        return {name: row[name] for name in names}, names


def label_text(value: Any) -> str:
    """Return a label as a text; a truth value is written as JSON writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_turns(name: str, row: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a row with the turns of its chat as fields, and the answer."""
    turns, answer = read_chat(name, row[name])
    if clash := {"input", "history"} & row.keys():
        raise RowError(f"the row has a field {min(clash)!r} of its own, which the turns of its chat need; rename it")
    if not turns["system"] and isinstance(row.get("system"), str):
        turns["system"] = row["system"]
    return row | turns, answer


def _listed(name: str, value: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options that a field lists, by the letters that templates show, and what the row itself calls them.

    The list holds texts, or objects with a label and a text; or it is one object of two lists, as on the hub.
    """
    labels: Any = None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels, value = value.get("label"), value["text"]
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "text" in item for item in value):
        labels = [item.get("label") for item in value] if all("label" in item for item in value) else None
        value = [item["text"] for item in value]
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise RowError(f"{name!r} lists no choices; it should be a list of texts, or {{label: [...], text: [...]}}")
    if not 2 <= len(value) <= len(LETTERS):
        raise RowError(f"{name!r} lists {len(value)} choices; a row has 2 to {len(LETTERS)}")
    options = dict(zip(LETTERS, value, strict=False))
    if labels is None:
        return options, tuple(options)
    if not isinstance(labels, list) or len(labels) != len(value):
        raise RowError(f"{name!r} has not as many labels as texts")
    return options, tuple(map(str, labels))


def own_task(config: DatasetConfig, sample: Source, others: Sequence[Source], labelled: bool = True) -> tuple[Task, list[str]]:
    """Return the task that one's own rows are, and remarks on them.

    Args:
        sample: rows that show which fields there are and in which form their answers are.
        others: the rows of the other splits, which may hold other labels, or more choices.
        labelled: whether rows must have answers.

    Raises InputError that names the row, or the setting that is missing.
    """
    where, first = next(sample.rows())
    if config.labels is not None and config.choices:
        raise InputError("dataset.labels are the choices of every row; leave dataset.choices out, or the labels.")
    if config.gold is not None and config.gold in config.choices:
        raise InputError(
            f"dataset.gold={config.gold}: this is one of dataset.choices, so the same choice would be right in every row; name "
            "the field that says which choice is right."
        )
    gold, choices, notes = config.gold, tuple(config.choices), list[str]()
    if gold is None:
        gold, choices, notes = _inferred(config, sample, first, labelled)
    if labelled and gold not in first and config.path is not None and Path(config.path).is_file():  # only evaluations read one
        raise InputError(
            f"{where}: the row lacks the field {gold!r}; it has {', '.join(first)}; to predict answers, give "
            "output=predictions.jsonl."
        )
    _check_first(where, first, [*choices[: 2 if _lettered(choices) else None], *([gold] if labelled else [])])
    if len(choices) == 1 and isinstance(first[choices[0]], str | int | float):
        raise InputError(
            f"dataset.choices={choices[0]}: {where} holds one text there; name several fields, '[A,B]', or one that lists the "
            "options."
        )
    chat = is_chat(gold, first.get(gold))
    shown = tuple(dict.fromkeys(name for name in (*first, *(CHAT_FIELDS if chat else ())) if name not in {*choices, gold}))
    reader = OwnRows(gold, choices, (), shown)
    labels, more = _labels(config, reader, [sample, *others], labelled)
    reader = replace(reader, labels=labels, full=not _lettered(choices))
    counts = _n_choices(reader, [sample, *others]) if choices and (len(choices) == 1 or not reader.full) else Counter[int]()
    notes += [*more, *_say_counts(counts)]
    task = Task(
        config.name,
        (),
        _choice_fields(config, reader, counts, where, first),
        shown,
        gold=gold,
        read=reader,
        labels=labels,
        choices_vary=len(choices) == 1 or len(counts) > 1,
        uniform=len(counts) < 2,
        inferred={"gold": gold, "choices": list(choices)} | ({"labels": list(labels)} if labels else {}),
        notes=tuple(notes),
    )
    if labels:
        return replace(task, gold_forms=("text",)), []
    if not labelled or not choices:
        return task, []
    form, remarks = _gold_form(reader, sample)
    if form is None:
        return task, remarks
    words = _WORDS[form] if form != "name" or len(choices) > 1 else "the label or the letter"
    return replace(task, gold_forms=(form,), gold_words=words), remarks


def _check_first(where: str, first: Mapping[str, Any], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in first:
            raise InputError(f"{where}: the row lacks the field {name!r}; it has {', '.join(first)}.")


def _lettered(choices: Sequence[str]) -> bool:
    """Whether choices are the fields A, B, C ..., of which the last may be missing in a row."""
    return len(choices) > 2 and list(choices) == list(LETTERS[: len(choices)])


# What rows show about themselves.


def _inferred(
    config: DatasetConfig, sample: Source, first: Mapping[str, Any], labelled: bool
) -> tuple[str, tuple[str, ...], list[str]]:
    """Return the field of the right answer, the fields of the choices and what to say of both; raises InputError to ask."""
    full = set(first)  # the fields with a value in every row
    for _, row in sample.rows():
        full &= {name for name, value in row.items() if value is not None and str(value).strip()}
    named = [name for name in GOLD_NAMES if name in full and not isinstance(first[name], list | dict)]
    chats = [name for name in CHATS if name in full and is_chat(name, first[name])]
    if labelled and not chats and (usual := next((name for name in GOLD_NAMES if name in first), "")):
        _refuse_a_hole(sample, usual)
    alpaca = {"instruction", "output"} <= full
    found = [*chats, *(named if not alpaca else [name for name in named if name != "output"]), *(["output"] if alpaca else [])]
    if not found and not labelled:
        return "answer", tuple(config.choices) or _choices(config, sample, full, first), []
    if not found:
        raise InputError(
            f"{sample.name}: dataset.gold has no value, and none of {', '.join(GOLD_NAMES)} is in every row, which has "
            f"{', '.join(first)}; name the field that holds the right answer."
        )
    if len(found) > 1 and (chats or alpaca):
        raise InputError(
            f"{sample.name}: dataset.gold has no value, and the answer may be in {' or '.join(map(repr, found))}; name one."
        )
    gold = found[0]
    if chats:
        fields = "{input} is the user's last turn, {history} the turns before it, {system} the system's"
        return gold, tuple(config.choices), [f"rows are chats ({gold}): {fields}; the answer is the assistant's last turn"]
    others = f", not {' or '.join(found[1:])}" if len(found) > 1 else ""
    notes = [f"rows{' in the form of Alpaca' if alpaca else ''}: the right answer is in {gold!r} (dataset.gold){others}"]
    choices = tuple(config.choices) or _choices(config, sample, full - {gold}, first)
    if choices and not config.choices:
        notes.append(f"rows: the options are in {', '.join(map(repr, choices))} (dataset.choices)")
    return gold, choices, notes


def _refuse_a_hole(sample: Source, name: str) -> None:
    """Refuse rows of which most, but not all, have a value in the field of the answer or of a choice, by its usual name."""
    places = [where for where, row in sample.rows() if row.get(name) is None or not str(row[name]).strip()]
    if places and 2 * len(places) < sum(1 for _ in sample.rows()):
        more = f" (and in {len(places) - 1:,} more rows)" if len(places) > 1 else ""
        raise InputError(
            f"{places[0]}: {name!r} is empty or missing{more}; fill it in, or leave the row out, or name other fields with "
            "dataset.gold and dataset.choices."
        )


def _choices(config: DatasetConfig, sample: Source, full: set[str], first: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of the choices, where the settings ask for some and the rows have such fields."""
    if config.labels is not None or config.metric != "choice":
        return ()
    lists = [name for name in LIST_NAMES if name in full and isinstance(first[name], list | dict)]
    letters = []
    if {"A", "B"} <= {*first}:
        for name in "AB":
            _refuse_a_hole(sample, name)
    if {"A", "B"} <= full:
        there = {name for _, row in sample.rows() for name in row if len(name) == 1}
        letters = [name for i, name in enumerate(LETTERS) if {*LETTERS[: i + 1]} <= there]
    if len(lists) + bool(letters) > 1:
        both = " or ".join(map(repr, [*lists, *([",".join(letters)] if letters else [])]))
        raise InputError(f"{sample.name}: dataset.choices has no value, and the options may be {both}; name them.")
    return tuple(lists or letters)


def _labels(
    config: DatasetConfig, reader: OwnRows, sources: Sequence[Source], labelled: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Return the labels of a classification, and what to say of them; none where the settings name none."""
    if config.labels is None:
        return (), []
    if config.labels != FROM_GOLD and len(config.labels) > _MOST_LABELS:
        raise InputError(f"dataset.labels names {len(config.labels)} labels; at most {_MOST_LABELS} can be scored.")
    if not labelled:
        if config.labels == FROM_GOLD:
            raise InputError("dataset.labels=from_gold needs rows with answers, and these have none; name the labels.")
        return tuple(config.labels), []
    found = [[(where, label_text(raw.gold).strip()) for where, raw in _readable(reader, source)] for source in sources]
    there = Counter(label for pairs in found for _, label in pairs)
    del there[""]
    if not there:
        _refuse_first(reader, sources[0])
    if config.labels != FROM_GOLD:
        idle = [label for label in config.labels if label.strip() not in there]
        return tuple(config.labels), [f"labels that are right in no row: {', '.join(idle)}"] if idle else []
    if not 2 <= len(there) <= _MOST_LABELS:
        raise InputError(
            f"dataset.labels=from_gold: {reader.gold!r} holds {len(there):,} different answers, and a set of labels has 2 to "
            f"{_MOST_LABELS}; name them, or compare free-form answers, dataset.labels=null dataset.metric=exact."
        )
    labels = tuple(sorted(there, key=lambda label: (len(label), label) if all(map(str.isdecimal, there)) else label))
    _refuse_alike(reader.gold, labels)
    untrained = _only_elsewhere(sources[0].name, found, labels)
    least, most = min(there.values()), max(there.values())
    return labels, [f"labels: {', '.join(labels)}, of {least:,} to {most:,} rows each (from {reader.gold!r})", *untrained]


def _refuse_alike(gold: str, labels: Sequence[str]) -> None:
    """Refuse labels that differ in case, white space or Unicode form alone, or as 1 and 1.0 do: one label, written twice."""
    known: dict[str, str] = {}
    for label in labels:
        same = re.sub(r"(\d)\.0+$", r"\1", " ".join(unicodedata.normalize("NFC", label).casefold().split()))
        if (other := known.setdefault(same, label)) != label:
            alike = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", label)  # they would look the same
            shown = [ascii(one) if alike else repr(one) for one in (other, label)]
            raise InputError(
                f"dataset.labels=from_gold: {gold!r} is {shown[0]} in some rows and {shown[1]} in others; write one of them "
                "throughout, or name the labels."
            )


def _only_elsewhere(first: str, found: Sequence[Sequence[tuple[str, str]]], labels: Sequence[str]) -> list[str]:
    """Say which labels are in no row of the first source, which is trained on, and where they are.

    Args:
        first: the name of that source.
        found: of each source, the place and the label of each row.
    """
    trained = {label for _, label in found[0]}
    if not (missing := [label for label in labels if label not in trained]):
        return []
    where = next(where for pairs in found[1:] for where, label in pairs if label in missing)
    return [f"labels that are in no row of {first}: {', '.join(missing)} ({where}); are they misspelt?"]


def _readable(reader: OwnRows, source: Source) -> Iterator[tuple[str, RawExample]]:
    """Yield the rows that can be read; the others are refused later, each with its place."""
    for where, row in source.rows():
        try:
            yield where, reader({name: value for name, value in row.items() if value is not None})
        except (KeyError, RowError):
            continue


def _refuse_first(reader: OwnRows, source: Source) -> None:
    """Raise InputError with the reason for which the first row of a source cannot be read, if it cannot."""
    where, row = next(source.rows())
    try:
        reader(row)
    except RowError as error:
        raise InputError(f"{where}: {error}.") from None
    except KeyError:
        return


def _n_choices(reader: OwnRows, sources: Sequence[Source]) -> Counter[int]:
    """Count the rows by their number of choices."""
    counts = Counter[int]()
    for source in sources:
        for _, row in source.rows():
            with contextlib.suppress(KeyError, RowError):  # refused later, with its place
                counts[len(reader.options({name: value for name, value in row.items() if value is not None})[0])] += 1
    return counts


def _say_counts(counts: Counter[int]) -> list[str]:
    if len(counts) < 2:
        return []
    said = ", ".join(f"{n:,} rows have {k}" for k, n in sorted(counts.items()))
    return [f"rows differ in their number of choices, and prompts show as many as there are: {said}"]


def _choice_fields(
    config: DatasetConfig, reader: OwnRows, counts: Counter[int], where: str, first: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the fields by which templates show the options; raises InputError for one that no row has, or that is taken."""
    if reader.labels:
        letters = tuple(LETTERS[: len(reader.labels)]) if len(reader.labels) <= len(LETTERS) else ()
        if config.answer == "letter" and (taken := next((name for name in letters if name in reader.shown), "")):
            raise InputError(
                f"{where}: the row has a field {taken!r} of its own, which dataset.answer=letter needs for a label; rename it, "
                "or use dataset.answer=text."
            )
        return letters
    if len(reader.choices) == 1:
        return tuple(LETTERS[: max(counts, default=2)])
    if counts and max(counts) < len(reader.choices):
        _check_first(where, first, reader.choices)
        return reader.choices[: max(counts)]  # a column that is empty in every row
    return reader.choices


# The form of the answers.


def _gold_form(reader: OwnRows, sample: Source) -> tuple[GoldForm | None, list[str]]:
    """Return the form of answers that fits most rows of the sample, None if no form fits any row; and a remark.

    All rows have one form, so that a number is not a text in one row and an index in another. Other rows are refused later.

    Raises InputError if the answers are indices that are counted from 1.
    """
    gold = reader.gold
    places, rows, own = list[str](), list[tuple[Any, tuple[str, ...], tuple[str, ...]]](), False
    for where, raw in _readable(replace(reader, shown=()), sample):
        names, choices = raw.names or (), raw.choices or ()
        places.append(where)
        rows.append((raw.gold, names, choices))
        own = own or (len(reader.choices) == 1 and names != tuple(LETTERS[: len(names)]))
    forms: tuple[GoldForm, ...] = ("name", "text", "index") if own else ("text", "name", "index")
    read: dict[GoldForm, list[int | None]] = {
        form: [gold_index(answer, names, choices, [form]) for answer, names, choices in rows] for form in forms
    }
    fits = {form: len(rows) - indices.count(None) for form, indices in read.items()}
    best = max(forms, key=lambda form: fits[form])
    labels = [str(answer).strip() for answer, _, _ in rows]
    numbers = [int(label) for label in labels if label.isdecimal()]
    highest = max((len(choices) for _, _, choices in rows), default=0)
    if (
        (best == "index" or not fits[best])
        and rows
        and len(numbers) == len(rows)
        and min(numbers, default=0) > 0
        and max(numbers, default=0) == highest
    ):
        where = places[numbers.index(highest)]
        raise InputError(
            f"{where}: {gold!r} is {highest}, and 0 is in no row, so it counts from 1; count the {highest} choices from 0, or "
            "write letters."
        )
    both = len(rows) >= FEWEST and fits["text"] == fits["index"] == len(rows) and read["text"] != read["index"]
    remark = f"{sample.name}: {gold!r} is read as the text of a choice, though in every row it could be an index from 0, too."
    return best if fits[best] else None, [remark] if both and best == "text" else []
