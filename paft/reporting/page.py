"""The page writer: Markdown tables, the same numbers as CSV, and one HTML file with its pictures in it."""

import base64
import csv
import html
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from paft.evaluation.statistics import Estimate
from paft.runtime.files import write_atomically

_SHORT = 40  # characters


@dataclass(frozen=True)
class Entry:
    """One cell of a table: its text on the page, and its values in CSV.

    values: the ending of a column's name -> a plain number or text; a mean with its interval fills three columns.
    """

    text: str
    values: Mapping[str, str]


@dataclass
class Section:
    """A section of a page: a table with its figures and notes. Its CSV file is called name.csv.

    figures: the name of a PNG file -> what it shows.
    """

    name: str
    title: str
    headings: list[str]
    rows: list[list[Entry]] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the section as Markdown."""
        lines = [f"## {self.title}", "", *(table(self.headings, self.rows) if self.rows else [])]
        for file, what in self.figures.items():
            lines += [f"![{what}]({file})", ""]
        return [*lines, *bullets(self.notes)]


def table(headings: Sequence[str], rows: Iterable[Sequence[Entry | str]]) -> list[str]:
    """Return a Markdown table and a blank line; a column that holds nothing but - is left out."""
    shown = ([cell.text if isinstance(cell, Entry) else cell for cell in row] for row in rows)
    texts = [[text.replace("|", r"\|") for text in row] for row in shown]  # what somebody's rows hold ends no cell
    columns = [column for column in zip(headings, *texts, strict=True) if set(column[1:]) != {"-"}]
    first, *others = ("|" + "".join(f" {text} |" if text else " |" for text in row) for row in zip(*columns, strict=True))
    return [first, f"|---|{'---:|' * (len(columns) - 1)}", *others, ""]


def show(section: Section) -> None:
    """Print a section on the terminal: its table without empty columns, and its notes."""
    columns = [(heading, [row[i].text for row in section.rows]) for i, heading in enumerate(section.headings)]
    shown = [(heading, texts) for heading, texts in columns if set(texts) != {"-"}]
    printed = Table(title=section.title, title_justify="left")
    for heading, texts in shown:
        are_numbers = all(text[:1].isdigit() for text in texts if text != "-")
        printed.add_column(escape(heading), justify="right" if are_numbers else "left")
    for row in zip(*(texts for _, texts in shown), strict=True):
        printed.add_row(*map(escape, row))
    console = Console()
    if not console.is_terminal:  # a file has lines as long as they need to be
        needed = Measurement.get(console, console.options.update(max_width=1000), printed).maximum
        console = Console(width=max(console.width, needed))
    console.print(printed)
    for note in section.notes:
        console.print(note, highlight=False, markup=False)


def bullets(lines: Iterable[str]) -> list[str]:
    """Return a Markdown list and a blank line; nothing for an empty one."""
    listed = [f"* {line}" for line in lines]
    return [*listed, ""] if listed else []


def words(text: str) -> Entry:
    """Return a cell that holds no number; - stands for nothing."""
    return Entry(text, {"": "" if text == "-" else text})


def number(value: float | None, spec: str) -> Entry:
    """Return a number in the given format; thousands have commas on the page alone."""
    text = "-" if value is None else f"{value:{spec}}"
    return words(text) if value is None else Entry(text, {"": text.replace(",", "")})


def percent(value: float | None, sign: str = "") -> str:
    """Return a fraction as a percentage; - for None."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def p_value(p: float) -> str:
    """Return a p-value as a page shows it, small ones as a bound."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def short(text: str) -> str:
    """Return a text of somebody's rows for a sentence or a cell: on one line, and cut."""
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}…"


def counted(n: int, what: str) -> str:
    """Return a number of things, in the plural unless it is one."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def unit(called: str) -> str:
    """Return what the numbers of a page are: percent, of which others than accuracies (F1, score) are named."""
    return "Percent" if called == "accuracy" else f"{called[0].upper()}{called[1:]} in percent"


def percentage(value: float | None) -> Entry:
    """Return a cell that holds a fraction as a percentage."""
    return words(percent(value))


def bracketed(estimate: Estimate, sign: str = "") -> str:
    """Return an estimate in percent with its interval, if it has one."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value, sign)
    return f"{percent(estimate.value, sign)} [{percent(estimate.low, sign)}, {percent(estimate.high, sign)}]"


def interval(estimate: Estimate, sign: str = "", after: str = "") -> Entry:
    """Return a cell that holds an estimate in percent with its interval.

    Args:
        after: what the page alone shows behind it.
    """
    ends = {" low": estimate.low, " high": estimate.high}
    values = {name: "" if end is None else percent(end, sign) for name, end in ends.items()}
    return Entry(bracketed(estimate, sign) + after, {"": percent(estimate.value, sign), **values})


def file_name(*parts: str) -> str:
    """Return a name for a file, without its suffix."""
    return re.sub(r"\W+", "_", "_".join(parts))


def write(folder: Path, lines: Sequence[str]) -> None:
    """Write a page as README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "README.md", "\n".join(lines).rstrip("\n") + "\n")


def write_html(folder: Path, lines: Sequence[str]) -> None:
    """Write a page as index.html, one file with the PNG files of the folder in it."""

    def embedded(source: re.Match[str]) -> str:
        data = base64.b64encode((folder / html.unescape(source[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render("\n".join(lines))
    title = html.escape(lines[0].removeprefix("# "))
    body = re.sub(r'src="([^"]+\.png)"', embedded, body)
    write_atomically(folder / "index.html", _HTML.format(title=title, body=body))


def write_csv(folder: Path, section: Section) -> None:
    """Write the table of a section as CSV: a value, the ends of its interval and counts are columns of their own."""
    text = io.StringIO()
    columns = [_columns(heading, [row[i] for row in section.rows]) for i, heading in enumerate(section.headings)]
    csv.writer(text, lineterminator="\n").writerows(zip(*(column for group in columns for column in group), strict=True))
    write_atomically(folder / f"{section.name}.csv", text.getvalue())


def write_json(folder: Path, content: Any) -> None:
    """Write results.json beside a page; records (pydantic) become plain types."""
    text = json.dumps(content, indent=1, default=lambda record: record.model_dump())
    write_atomically(folder / "results.json", text + "\n")


def _columns(heading: str, entries: Sequence[Entry]) -> list[list[str]]:
    endings = dict.fromkeys(ending for entry in entries for ending in entry.values)
    return [[heading + ending, *(entry.values.get(ending, "") for entry in entries)] for ending in endings]


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
code {{ background: #f4f4f4; padding: 0.1rem 0.3rem; }}
</style></head><body>
{body}</body></html>
"""
