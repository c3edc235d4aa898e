"""RACE: questions about an article, of middle and high schools (arXiv 1704.04683)."""

import hashlib
from collections.abc import Mapping
from typing import Any

from paft.data.tasks.base import RawExample, Task, four_options


def _read(row: Mapping[str, Any]) -> RawExample:
    options = dict(zip("ABCD", four_options(row, "options"), strict=True))
    # Questions about one article are not independent evidence, whether their rows name the article or not.
    article = row.get("example_id") or hashlib.sha256(str(row["article"]).encode()).hexdigest()[:12]
    return RawExample({"article": row["article"], "question": row["question"], **options}, row["answer"], str(article))


RACE, RACE_MIDDLE, RACE_HIGH = (
    Task(
        name,
        ("article", "question"),
        tuple("ABCD"),
        about="an article is followed by a question about it, and one of four options answers it",
        read=_read,
        shares_pools_with="race",
        published_rows=rows,
    )
    for name, rows in (("race", 87_866), ("race_middle", 25_421), ("race_high", 62_445))
)
