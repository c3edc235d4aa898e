"""Rows and prompts that live in Python, written to files that are named by their content.

A run is named by what it reads, so that the same rows and prompts, given again, are the same run: it resumes, or is skipped
where it has finished.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from paft.data.files import FORMATS, as_json, read_rows
from paft.prompts import PromptPool
from paft.runtime.errors import InputError
from paft.runtime.files import check_place, disk_full_is_an_input_error, write_atomically

if TYPE_CHECKING:
    import pandas as pd

Rows: TypeAlias = Union[Iterable[Mapping[str, Any]], "pd.DataFrame", str, PathLike[str]]
Prompts: TypeAlias = Sequence[str] | PromptPool | str | PathLike[str]


def rows_folder(splits: Mapping[str, Rows | None], output_root: Path) -> Path:
    """Write the rows of each split into a folder of their own, as SPLIT.jsonl, and return it.

    Args:
        splits: dicts, a data frame or a file each; None is left out.

    Raises InputError for rows that are none.
    """
    names = {"train": "rows", "validation": "validation_rows", "test": "test_rows"}
    texts = {split: rows_as_jsonl(rows, names[split]) for split, rows in splits.items() if rows is not None}
    digest = _digest(*(part for item in texts.items() for part in item))
    for split, text in texts.items():
        _write(output_root / "data" / digest / f"{split}.jsonl", text)
    return output_root / "data" / digest


def rows_file(rows: Rows, output_root: Path) -> Path:
    """Write rows to a file of their own and return it; a path is returned as it is."""
    if isinstance(rows, str | PathLike):
        return Path(rows)
    text = rows_as_jsonl(rows, "rows")
    return _write(output_root / "data" / f"{_digest(text)}.jsonl", text)


def prompts_file(prompts: Prompts, what: str, output_root: Path) -> str:
    """Write templates to a file of their own and return its path; a path or the name of a shipped pool is returned as it is.

    Args:
        what: the parameter's name.

    Raises InputError for prompts that are no texts.
    """
    if isinstance(prompts, str):
        if "{" in prompts or "\n" in prompts:
            raise InputError(f"{what}: this is one template; give a list of them, or the path of a file of prompts.")
        return prompts
    if isinstance(prompts, PathLike):
        return str(prompts)
    lines: list[dict[str, str]] = []
    if isinstance(prompts, PromptPool):
        kind = {"answer": prompts.answer, "options": prompts.options}
        keys = ("id", "source", "wording", "layout", "text")
        lines = [{key: getattr(t, key) for key in keys} | kind for t in prompts.templates]
    else:
        for place, text in enumerate(prompts):
            if not isinstance(text, str):
                raise InputError(f"{what}[{place}]: a prompt is a text with fields in braces, not a {type(text).__name__}.")
            lines.append({"text": text})
    if not lines:
        raise InputError(f"{what}: the list is empty; give at least one template, e.g. '{{question}} Answer:'.")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return str(_write(output_root / "data" / f"prompts-{_digest(text)}.jsonl", text))


def rows_as_jsonl(rows: Rows, what: str) -> str:
    """Return rows as JSONL.

    Args:
        what: the parameter's name.

    Raises InputError for anything but dicts with texts as keys and JSON's values, a data frame, or a readable file.
    """
    if isinstance(rows, str | PathLike):
        return _read(Path(rows), what)
    if isinstance(rows, Mapping):
        raise InputError(f"{what}: this is one mapping; give a list of rows, each a dict with its fields.")
    is_frame = hasattr(rows, "to_dict") and hasattr(rows, "columns")
    records: Iterable[Any] = rows.to_dict("records") if is_frame else rows  # type: ignore[union-attr]
    lines = []
    for place, row in enumerate(records):
        if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
            raise InputError(f"{what}[{place}]: a row is a dict with the names of its fields as keys.")
        plain = {key: _plain(value, f"{what}[{place}][{key!r}]") for key, value in row.items()}
        lines.append(json.dumps(plain, ensure_ascii=False) + "\n")
    if not lines:
        raise InputError(f"{what}: there are no rows; give at least one.")
    return "".join(lines)


def _read(path: Path, what: str) -> str:
    if path.is_dir():
        raise InputError(f"{what}={str(path)!r}: this is a folder; give it as rows alone, or a file for each split.")
    if path.suffix not in FORMATS or not path.is_file():
        raise InputError(f"{what}={str(path)!r}: there is no such file of rows, in JSONL, JSON, CSV or parquet.")
    if path.suffix == ".jsonl":  # as it is, so that error messages give its lines
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{what}={str(path)!r}: the file is not UTF-8 text.") from None
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in read_rows(path))


def _plain(value: Any, where: str) -> Any:
    """Return a value as JSON knows it, the same as if it had been read from a file; a data frame's NaN is a missing value."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float | date | time | timedelta | Decimal):
        return as_json(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if hasattr(value, "tolist"):  # of NumPy
        return _plain(value.tolist(), where)
    raise InputError(f"{where}: a {type(value).__name__} is no value of a row; give a text or a number.")


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> Path:
    """Write a file unless it is there; its name says what it holds."""
    if not path.is_file():
        check_place(f"output_root={path.parent}", path.parent)
        with disk_full_is_an_input_error(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
    return path
