"""XStoryCloze: which of two sentences ends a story of four, in eleven languages (arXiv 2112.10668)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from paft.data.tasks.base import RawExample, RowError, Task

_SENTENCES = tuple(f"input_sentence_{number}" for number in range(1, 5))
_ENDINGS = ("sentence_quiz1", "sentence_quiz2")
_FIELDS = ("ending1", "ending2")  # what templates call them


def _read(row: Mapping[str, Any]) -> RawExample:
    story = " ".join(_sentence(row, name) for name in _SENTENCES)  # in every language, as evaluation harnesses do
    endings = (_sentence(row, name) for name in _ENDINGS)
    # The hub counts the endings from 1.
    gold = {"1": "A", "2": "B", "0": ""}.get(str(row["answer_right_ending"]), row["answer_right_ending"])
    return RawExample({"story": story, **dict(zip(_FIELDS, endings, strict=True))}, gold, names=_ENDINGS)


def _sentence(row: Mapping[str, Any], name: str) -> str:
    """Return a sentence of a row; raises KeyError if it is missing, RowError if it is no text."""
    if isinstance(value := row[name], list | dict):
        raise RowError(f"the field {name!r} is {'a list' if isinstance(value, list) else 'an object'}; it must be a text")
    return str(value)


XSTORYCLOZE = Task(
    "xstorycloze",
    ("story",),
    _FIELDS,
    aliases=dict(zip(_ENDINGS, _FIELDS, strict=True)),
    gold="answer_right_ending",
    gold_words="the letter, the number from 1 or the text",
    about="a story of four sentences (story) is given, and one of two sentences (ending1, ending2) is its right ending",
    read=_read,
)
IN_OTHER_LANGUAGES = tuple(
    replace(XSTORYCLOZE, name=f"xstorycloze_{language}", shares_pools_with="xstorycloze")
    for language in ("ru", "zh", "es", "ar", "hi", "id", "te", "sw", "eu", "my")
)
