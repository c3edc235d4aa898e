"""The paper's numbers (published.yaml), as it prints them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from paft.reporting.page import Entry, bullets, table, words


class _AsPrinted(yaml.SafeLoader):
    """Leaves numbers as they are written: 4.30 stays 4.30."""


for _tag in ("int", "float"):
    _AsPrinted.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda _, node: node.value)

PAPER: dict[str, Any] = yaml.load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"), _AsPrinted)
NAMES: Mapping[str, str] = PAPER.pop("names")  # how keys are shown


def published(name: str, row: str, column: str) -> Any:
    """Return what a table of the paper prints: a number, or mean, std and Top, as text; None where it prints nothing."""
    entry = PAPER[name]
    if not entry.get("rows") or column not in entry["columns"] or row not in entry["rows"]:
        return None
    return entry["rows"][row][entry["columns"].index(column)]


def model_of(name: str, column: str) -> str:
    """Return the model that a number of the paper is of."""
    entry = PAPER[name]
    return str(entry["models"][entry["columns"].index(column)] if "models" in entry else entry["model"])


def beside(theirs: Any, ours: float) -> list[Entry]:
    """Return what the paper prints for a row (mean, std and perhaps Top), and ours (a fraction) minus its mean."""
    if not isinstance(theirs, list):
        return [words("-"), words("-")]
    mean, std, *top = theirs
    values = {" mean": mean, " std": std} | ({" Top": top[0]} if top else {})
    return [Entry(f"{mean} ± {std}" + (f", Top {top[0]}" if top else ""), values), minus(ours, mean)]


def minus(ours: float, theirs: str) -> Entry:
    """Return ours, a fraction, minus a percentage of the paper."""
    return words(f"{100 * ours - float(theirs):+.1f}")


def hours(theirs: str | None, of: str | None) -> list[Entry]:
    """Return the paper's hours, and how many times those of another row they are."""
    ratio = "-" if theirs is None or of is None else f"{float(theirs) / float(of):.2f}"
    return [words(theirs or "-"), words(ratio)]


def paper_tables() -> list[str]:
    """Return the paper's own tables as Markdown, with sources and flaws."""
    page = []
    for entry in PAPER.values():
        page += [f"### {entry['title']}", "", f"{entry['source']}.", ""]
        if rows := list(_rows(entry)):
            page += table(["", *map(_name, entry["columns"])], rows)
        page += bullets([*entry.get("notes", ()), *entry.get("flaws", ())])
    return page


def _rows(entry: Mapping[str, Any]) -> Iterable[list[str]]:
    """Lay out the rows of an entry, and below them the differences that are printed there."""
    if "models" in entry:
        yield ["model", *entry["models"]]
    for row, values in (entry.get("rows") or {}).items():
        yield [_name(row), *map(_mean_std_top, values)]
    for row, values in entry.get("differences", {}).items():
        yield [_name(row), *(", ".join(value) if isinstance(value, list) else _mean_std_top(value) for value in values)]


def _name(key: str) -> str:
    return NAMES.get(key, key)


def _mean_std_top(value: Any) -> str:
    if not isinstance(value, list):
        return "not printed" if value is None else str(value)
    mean, std, *top = value
    return f"{mean} ± {std}" + (f", {top[0]}" if top else "")
