"""A table of the report: entries that read well on a page and are plain numbers in a CSV file."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.paper.collect import Cell
from experiments.paper.rows import Found
from paft.evaluation.statistics import Estimate
from paft.runtime.files import write_atomically


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table."""

    text: str  # as it reads on the page
    values: Mapping[str, str]  # for CSV: what follows the heading in a column's name -> value; empty for none


@dataclass
class Table:
    """A table of the report, with its figures and notes."""

    name: str  # of its file
    title: str
    recipe: str  # that makes its runs; empty where it needs none of its own
    headings: list[str]
    rows: list[list[Entry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)  # name of a PNG file -> what it shows
    curve: dict[str, Found] = field(default_factory=dict)  # over the size of the pool, by what the size is called
    commands: list[str] = field(default_factory=list)  # that make its runs
    cells: list[Cell] = field(default_factory=list)  # that it was made from


def file_name(*parts: str) -> str:
    """Return a name for a file, without its suffix."""
    return re.sub(r"\W+", "_", "_".join(parts))


def words(text: str) -> Entry:
    """Return an entry that is no number; - stands for nothing."""
    return Entry(text, {"": "" if text == "-" else text})


def number(value: float | None, spec: str) -> Entry:
    """Return a number in the given format; thousands have commas on the page alone."""
    text = "-" if value is None else f"{value:{spec}}"
    return words(text) if value is None else Entry(text, {"": text.replace(",", "")})


def percent(value: float | None, sign: str = "") -> str:
    """Return a fraction as a percentage; - for None."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def percentage(value: float | None) -> Entry:
    """Return a fraction as a percentage."""
    return words(percent(value))


def bracketed(estimate: Estimate, sign: str = "") -> str:
    """Return an estimate in percent with its interval, if it has one."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value, sign)
    return f"{percent(estimate.value, sign)} [{percent(estimate.low, sign)}, {percent(estimate.high, sign)}]"


def interval(estimate: Estimate, sign: str = "", after: str = "") -> Entry:
    """Return an estimate in percent with its interval.

    Args:
        after: what else is to be read behind it.
    """
    ends = {" low": estimate.low, " high": estimate.high}
    values = {name: "" if end is None else percent(end, sign) for name, end in ends.items()}
    return Entry(bracketed(estimate, sign) + after, {"": percent(estimate.value, sign), **values})


def markdown(table: Table) -> list[str]:
    """Lay out a table with its figures and notes."""
    lines = [f"## {table.title}", ""]
    if table.rows:  # without columns in which there is nothing; the notes name what the paper does not print
        texts = [[entry.text for entry in row] for row in table.rows]
        columns = [c for c in zip(table.headings, *texts, strict=True) if set(c[1:]) != {"-"}]
        headings, *rows = zip(*columns, strict=True)
        lines += [f"| {' | '.join(headings)} |", f"|---|{'---:|' * (len(headings) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    elif not table.figures:
        lines += ["No runs. " + " ".join(f"`{command}`" for command in table.commands), ""]
    for figure, what in table.figures.items():
        lines += [f"![{what}]({figure})", ""]
    notes = table.notes if table.rows or table.figures else []
    made = [f"Runs: {', '.join(f'`{command}`' for command in table.commands)}"] if table.commands and table.rows else []
    said = [f"* {note}" for note in (*notes, *made)]
    return [*lines, *said, ""] if said else lines


def write_csv(table: Table, out: Path) -> None:
    """Write the rows of a table as CSV: a value, the ends of its interval and counts are columns of their own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [_columns(heading, [row[i] for row in table.rows]) for i, heading in enumerate(table.headings)]
    writer.writerows(zip(*(column for group in columns for column in group), strict=True))
    write_atomically(out / f"{table.name}.csv", text.getvalue())


def _columns(heading: str, entries: Sequence[Entry]) -> list[list[str]]:
    endings = dict.fromkeys(ending for entry in entries for ending in entry.values)
    return [[heading + ending, *(entry.values.get(ending, "") for entry in entries)] for ending in endings]
