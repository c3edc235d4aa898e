"""The paper's numbers (paper.yaml), as it prints them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.paper.page import Entry, words


class _AsPrinted(yaml.SafeLoader):
    """Leaves numbers as they are written: 4.30 stays 4.30."""


for _tag in ("int", "float"):
    _AsPrinted.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda _, node: node.value)


def _load() -> dict[str, Any]:
    path = Path(__file__).parent / "paper.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), _AsPrinted)


PAPER = _load()
NAMES: Mapping[str, str] = PAPER.pop("names")  # how keys are shown


def published(table: str, row: str, column: str) -> Any:
    """Return what the paper prints: a number, or mean, std and Top, as text; None where it prints nothing."""
    entry = PAPER[table]
    if not entry.get("rows") or column not in entry["columns"] or row not in entry["rows"]:
        return None
    return entry["rows"][row][entry["columns"].index(column)]


def model_of(table: str, column: str) -> str:
    """Return the model that a number of the paper is of."""
    entry = PAPER[table]
    return str(entry["models"][entry["columns"].index(column)] if "models" in entry else entry["model"])


def beside(theirs: Any, ours: float) -> list[Entry]:
    """Return what the paper prints for a row (mean, std and perhaps Top), and ours (a fraction) less its mean."""
    if not isinstance(theirs, list):
        return [words("-"), words("-")]
    mean, std, *top = theirs
    shown = Entry(_mean_std_top([mean, std]) + (f", Top {top[0]}" if top else ""), {" mean": mean, " std": std})
    return [Entry(shown.text, {**shown.values, " Top": top[0]} if top else shown.values), less(ours, mean)]


def less(ours: float, theirs: str) -> Entry:
    """Return ours, a fraction, less a percentage of the paper."""
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
        columns, rows = list(entry.get("columns", ())), list(_rows(entry))
        if rows:
            page += [f"| | {' | '.join(map(_name, columns))} |", f"|---|{'---:|' * len(columns)}"]
            page += [f"| {' | '.join(row)} |" for row in rows] + [""]
        said = [*entry.get("notes", ()), *entry.get("flaws", ())]
        page += [f"* {line}" for line in said] + ([""] if said else [])
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
