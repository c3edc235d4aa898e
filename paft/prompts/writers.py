"""Writing pools: YAML, JSONL, CSV and xlsx, each of which readers.py reads back without loss."""

import csv
import io
import json
from pathlib import Path

from paft.prompts.pool import PromptPool
from paft.runtime.errors import InputError
from paft.runtime.files import scratch_path, write_atomically

_COLUMNS = ("id", "source", "wording", "layout", "answer", "options", "text")


def write_pool(pool: PromptPool, path: Path) -> None:
    """Write a pool in the format that the suffix names; raises InputError if the suffix is unknown or the folder missing."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first.")
    match path.suffix:
        case ".yaml" | ".yml":
            write_atomically(path, pool.to_yaml())
        case ".jsonl":
            write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(pool)))
        case ".csv":
            table = io.StringIO(newline="")
            writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(_rows(pool))
            write_atomically(path, table.getvalue())
        case ".xlsx":
            _write_xlsx(pool, path)
        case _:
            raise InputError(f"{path}: a prompt pool is a .yaml, .jsonl, .csv or .xlsx file.")


def _rows(pool: PromptPool) -> list[dict[str, str]]:
    kind = {"answer": pool.answer, "options": pool.options}
    return [
        {"id": t.id, "source": t.source, "wording": t.wording, "layout": t.layout, **kind, "text": t.text}
        for t in pool.templates
    ]


def _write_xlsx(pool: PromptPool, path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(list(_COLUMNS))
    for number, row in enumerate(_rows(pool), 2):
        for position, column in enumerate(_COLUMNS, 1):
            cell = sheet.cell(number, position, row[column])
            cell.data_type = "s"  # a text that begins with = is no formula
    scratch = scratch_path(path)
    book.save(scratch)
    scratch.replace(path)
