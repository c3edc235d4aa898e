"""GSM8K: word problems of primary school, answered with a number (arXiv 2110.14168)."""

from collections.abc import Mapping
from typing import Any

from paft.data.tasks.base import RawExample, Task


def _read(row: Mapping[str, Any]) -> RawExample:
    return RawExample({"question": row["question"]}, row["answer"])


GSM8K = Task(
    "gsm8k",
    ("question",),
    about="a mathematical word problem of primary school is solved step by step, and the solution ends in a number",
    read=_read,
    published_rows=7_473,
)
