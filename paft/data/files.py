"""Reading rows from files of one's own: JSONL, a JSON list, CSV and parquet, each row with the place that it comes from."""

import csv
import datetime
import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from paft.runtime.errors import InputError
from paft.runtime.files import check_separator
from paft.runtime.jsonl import parse_list, parse_object

Rows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]  # each row with where it comes from

_SPLITS = ("train", "validation", "test")  # the names of files in a folder of rows
_LONGEST_ROW = 2**24  # characters; a file without line breaks is no JSONL
_WHAT = 'a row is a JSON object, e.g. {"question": ...}'


def read_rows(path: Path) -> Rows:
    """Yield (file and line, row) for each row of a file, in the format that its suffix names.

    Cells of a CSV file are texts as they are written ("007" stays "007").

    Raises InputError that names the file and the line.
    """
    if not path.is_file():
        raise InputError(no_file(path))
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: rows are read from {_listed(FORMATS)} files{_as_csv(path)}.")
    empty = True
    for where, row in FORMATS[path.suffix](path):
        empty = False
        yield where, row
    if empty:
        raise InputError(f"{path}: the data file is empty; it needs at least one row.")


def file_of(folder: Path, split: str) -> Path:
    """Return the file of a split in a folder, SPLIT.jsonl where there is none in any format.

    Raises InputError if there are several.
    """
    there = [path for suffix in FORMATS if (path := folder / f"{split}{suffix}").is_file()]
    if len(there) > 1:
        raise InputError(f"{folder}: both {there[0].name} and {there[1].name} are here; keep one of them.")
    return there[0] if there else folder / f"{split}.jsonl"


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number in itertools.count(1):
                line = file.readline(_LONGEST_ROW + 1)
                if not line:
                    break
                if len(line) > _LONGEST_ROW:
                    raise InputError(
                        f"{path}, line {number}: the row has more than {_LONGEST_ROW:,} characters; split the file."
                    )
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, parse_object(line, where, _WHAT)
        except UnicodeDecodeError:
            raise InputError(f"{path}: the file is not UTF-8 text.") from None


def _json(path: Path) -> Rows:
    """Yield the rows of a JSON list; a .json file of one object a line, as the hub has many, is JSONL."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: the file is not UTF-8 text.") from None
    if not text.lstrip().startswith("["):
        if _is_one_object(text):
            raise InputError(f"{path}: this is one JSON object over several lines; give a list, [...], or a row a line.")
        yield from _jsonl(path)
        return
    for line, row in parse_list(text, str(path), _WHAT):
        yield f"{path}, line {line}", row


def _is_one_object(text: str) -> bool:
    """Whether a text is one JSON object of which no line is one by itself."""
    try:
        return len(text.strip().splitlines()) > 1 and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _csv(path: Path) -> Rows:
    """Yield the rows of a CSV file with a header; a record may have several lines and is named by its first."""
    csv.field_size_limit(_LONGEST_ROW)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        first = 1
        try:
            names = [name.strip() for name in next(reader, [])]
            _check_header(path, names)
            first = reader.line_num + 1
            for cells in reader:
                where = f"{path}, line {first}"
                if len(cells) not in (0, len(names)):  # a blank line has none
                    raise InputError(
                        f"{where}: the row has {_cells(len(cells))} and the header {len(names)}; put a cell that holds a comma "
                        "into quotation marks, and check that those of the rows above are closed."
                    )
                if any(cell.strip() for cell in cells):  # Excel saves empty rows as ",,,"
                    yield where, dict(zip(names, cells, strict=True))
                first = reader.line_num + 1
        except UnicodeDecodeError:
            line = _line_outside_utf_8(path)
            raise InputError(f"{path}, line {line}: the file is not UTF-8 text; save it as UTF-8.") from None
        except csv.Error as error:
            if first == 1:
                check_separator(path)
            raise InputError(
                f"{path}, line {first}: this row is not valid CSV ({error}); close its quotation marks, and double those that "
                "stand inside of a cell."
            ) from None


def _check_header(path: Path, names: list[str]) -> None:
    """Refuse a header that does not name each column once."""
    if not names:
        return  # an empty file
    if names[0].startswith("sep="):
        raise InputError(f"{path}, line 1: this line ({names[0]},) is for Excel alone; leave it out.")
    if "" in names:
        raise InputError(
            f"{path}, line 1: column {names.index('') + 1} has no name; give it one, or leave the column out (pandas: "
            "index=False)."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}, line 1: two columns are called {twice!r}; rename one of them.")
    if len(names) == 1:
        check_separator(path)


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n} cells"


def _line_outside_utf_8(path: Path) -> int:
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return content.count(b"\n", 0, error.start) + 1
    return 1


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {name: as_json(value) for name, value in row.items()}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: this is no readable parquet file ({type(error).__name__}); write it again.") from None


def as_json(value: Any) -> Any:
    """Return a value of a table as JSON knows it: NaN and bytes are missing values, dates and the like are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | datetime.timedelta) else None


FORMATS: dict[str, Callable[[Path], Rows]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}

# Formats that people keep rows in besides, and what pandas reads them with.
_OTHER_FORMATS = {".tsv": "read_csv({!r}, sep='\\t')", ".xlsx": "read_excel({!r})"}


def no_file(path: Path) -> str:
    """Return a sentence about a data file that is not there, with what is there instead."""
    if path.parent.is_file():
        return f"{path.parent}: this is a file; give the folder that holds {path.name}."
    if path.is_dir():
        return f"{path}: this is a folder; name a file of rows in it."
    if not path.suffix and path.parent.is_dir():
        close = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
        return f"{path}: there is no such file or folder{f'; did you mean {path.with_name(close[0])}?' if close else '.'}"
    if there := [other for suffix in (*FORMATS, *_OTHER_FORMATS) if (other := path.with_suffix(suffix)).is_file()]:
        return f"{path}: there is no such data file, but a {there[0].name}{_as_csv(there[0])}."
    others = sorted(other.name for other in path.parent.glob("*") if other.suffix in FORMATS and other.stem not in _SPLITS)
    if others:
        use = "rename it, or split it" if path.stem in _SPLITS else "name one of them"
        return f"{path}: there is no such data file, but {', '.join(others[:5])}; {use}."
    same = [f"{path.stem}{suffix}" for suffix in FORMATS if suffix != path.suffix]
    return f"{path}: there is no such data file, and no {_listed(same)}."


def _as_csv(path: Path) -> str:
    """Return, as the end of a sentence, how a file of another format becomes CSV."""
    if path.suffix not in _OTHER_FORMATS:
        return ""
    reading = _OTHER_FORMATS[path.suffix].format(str(path))
    return f"; pandas turns it into CSV: {reading}.to_csv({str(path.with_suffix('.csv'))!r}, index=False)"


def _listed(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
