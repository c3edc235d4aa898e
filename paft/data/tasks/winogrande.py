"""WinoGrande: what a blank in a sentence stands for (arXiv 1907.10641)."""

from collections.abc import Mapping
from typing import Any

from paft.data.tasks.base import RawExample, Task


def _read(row: Mapping[str, Any]) -> RawExample:
    # The hub counts the options from 1.
    gold = {"1": "A", "2": "B", "0": ""}.get(str(row["answer"]), row["answer"])
    return RawExample({name: row[name] for name in ("sentence", "option1", "option2")}, gold)


WINOGRANDE = Task(
    "winogrande",
    ("sentence",),
    ("option1", "option2"),
    aliases={"prompt": "sentence", "only_option1": "option1", "only_option2": "option2"},
    gold_words="the letter, the number from 1 or the text",
    about='one of two options (option1, option2) is what the blank, written "_", in a sentence stands for',
    read=_read,
    published_rows=40_398,  # of the largest of its training sets
)
