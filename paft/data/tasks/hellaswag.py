"""HellaSwag: the best of four endings of a text about an everyday scene (arXiv 1905.07830)."""

import re
from collections.abc import Mapping
from typing import Any

from paft.data.tasks.base import RawExample, Task, four_options


def _read(row: Mapping[str, Any]) -> RawExample:
    texts = [_without_markers(text) for text in (row["ctx"], *four_options(row, "endings"))]
    return RawExample(dict(zip(("ctx", *"ABCD"), texts, strict=True)), row["label"])


def _without_markers(text: Any) -> Any:
    """Remove the WikiHow markers from a text, as evaluation harnesses do."""
    if not isinstance(text, str):
        return text  # the task refuses it
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


HELLASWAG = Task(
    "hellaswag",
    ("ctx",),
    tuple("ABCD"),
    gold="label",
    about="the beginning of a text about an everyday scene (ctx) is to be continued with the best of four endings",
    read=_read,
    published_rows=39_905,
)
