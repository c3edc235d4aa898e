"""PIQA: which of two solutions reaches a practical goal (arXiv 1911.11641)."""

from collections.abc import Mapping
from typing import Any

from paft.data.tasks.base import RawExample, Task


def _read(row: Mapping[str, Any]) -> RawExample:
    return RawExample({name: row[name] for name in ("goal", "sol1", "sol2")}, row["label"])


PIQA = Task(
    "piqa",
    ("goal",),
    ("sol1", "sol2"),
    gold="label",
    about="a practical goal is given, and one of two solutions (sol1, sol2) really reaches it",
    read=_read,
    published_rows=16_113,
)
