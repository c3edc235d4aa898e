"""Reading rows from files: every format gives the same rows, and every defect has its place."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.data.files import file_of, read_rows
from paft.runtime.errors import InputError

TEXTS = [{"q": 'a "quoted",\ntext', "id": "007", "label": "1.0"}, {"q": "größer", "id": "x", "label": "yes"}]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def places(path: Path) -> list[str]:
    return [where.removeprefix(str(path)) for where, _ in read_rows(path)]


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        rows_of(path)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return str(error.value).removeprefix(str(path))


def test_every_format_gives_the_same_rows(tmp_path):
    frame = pd.DataFrame(TEXTS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "lines.json", orient="records", lines=True)
    written(tmp_path, "a.json", json.dumps(TEXTS, indent=2))
    for name in ("a.csv", "a.parquet", "a.jsonl", "a.json", "lines.json"):
        assert rows_of(tmp_path / name) == TEXTS, name


def test_numbers_of_a_csv_stay_as_they_are_written(tmp_path):
    path = written(tmp_path, "a.csv", "\ufeffn, m\n007,1.0\n1e3,\n")
    assert rows_of(path) == [{"n": "007", "m": "1.0"}, {"n": "1e3", "m": ""}]


def test_rows_are_named_by_the_line_on_which_they_begin(tmp_path):
    path = written(tmp_path, "a.csv", 'q,a\r\n"two\nlines",1\r\n\r\n"x",2\r\n')
    assert places(path) == [", line 2", ", line 5"]
    path = written(tmp_path, "a.json", '\n[\n {"q": 1},\n\n {"q":\n 2}\n , {"q": 3}]\n')
    assert places(path) == [", line 3", ", line 5", ", line 7"]
    assert places(written(tmp_path, "a.jsonl", '\n{"q": 1}\n')) == [", line 2"]
    pq.write_table(pa.table({"q": ["x", "y"]}), tmp_path / "a.parquet")
    assert places(tmp_path / "a.parquet") == [", row 1", ", row 2"]


BAD_CSV = {
    "more cells": ("a,b\n1,2\n1,2,3\n", ", line 3: the row has 3 cells and the header 2; put a cell that holds a comma into"),
    "fewer cells": ("a,b\n1\n", ", line 2: the row has 1 cell and the header 2; "),
    "a quotation mark that is not closed": ('a,b\n1,2\n"x,2\n3,4\n', ", line 3: this row is not valid CSV (unexpected end of"),
    "a quotation mark inside": ('a,b\n"x"y,2\n', ", line 2: this row is not valid CSV ("),
    "a column twice": ("a,b, a\n1,2,3\n", ", line 1: two columns are called 'a'; rename one of them."),
    "a column without a name": (",a\n0,1\n", ", line 1: column 1 has no name; give it one, or leave the column out (pandas: "),
    "semicolons": ("a;b\n1;2\n", ", line 1: the columns are separated by ';'; separate them by commas."),
    "no row": ("a,b\n", ": the data file is empty; it needs at least one row."),
    "nothing": ("", ": the data file is empty; it needs at least one row."),
    "no UTF-8": ("a,b\n1,2\n3,größer\n".encode("latin-1"), ", line 3: the file is not UTF-8 text; save it as UTF-8."),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_broken_csv_is_named_with_its_line(tmp_path, content, sentence):
    assert refused(written(tmp_path, "a.csv", content)).startswith(sentence)


def test_a_character_far_behind_is_found_on_its_line(tmp_path):
    """The file is decoded in blocks; the line is that of the character, not of the block."""
    rows = b"".join(b"%d,x\n" % i for i in range(30_000))
    assert refused(written(tmp_path, "a.csv", b"a,b\n" + rows + b"1,\xff\n")).startswith(", line 30002: the file is not UTF-8")


BAD_JSON = {
    "no list": ('"rows"', ", line 1: a row is a JSON object"),
    "no object": ('[\n{"q": 1},\n 3]', ", line 3: a row is a JSON object"),
    "no comma": ('[{"q": 1}\n{"q": 2}]', ", line 2: this is not valid JSON (after an item comes neither a comma nor the end)."),
    "cut off": ('[{"q": 1},\n', ", line 2: this is not valid JSON (Expecting value)."),
    "cut off in a row": ('[\n{"q": 1}, {"q":', ", line 2: this is not valid JSON (Expecting value)."),
    "something behind": ('[{"q": 1}]\n[]', ", line 1: this is not valid JSON"),
    "a key twice": ('[{"q": 1, "q": 2}]', ", line 1: the key 'q' occurs twice; give it once."),
    "no number": ('[{"q": NaN}]', ", line 1: this is not valid JSON (NaN is no number)."),
    "nesting": ("[" * 100_000, ", line 1: "),
    "empty": ("[ ]", ": the data file is empty; it needs at least one row."),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_JSON.values(), ids=BAD_JSON)
def test_a_broken_json_is_named_with_its_line(tmp_path, content, sentence):
    assert refused(written(tmp_path, "a.json", content)).startswith(sentence)


def test_values_of_a_parquet_are_those_of_json(tmp_path):
    table = pa.table({
        "text": ["x", None],
        "number": [0.5, float("nan")],
        "list": [["a", "b"], []],
        "nested": [{"label": ["A"], "text": ["x"]}, None],
        "day": [datetime.date(2024, 5, 1), None],
        "money": [decimal.Decimal("1.50"), None],
        "image": [b"\x00", None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = rows_of(tmp_path / "a.parquet")
    nested = {"label": ["A"], "text": ["x"]}
    assert first == {
        "text": "x", "number": 0.5, "list": ["a", "b"], "nested": nested, "day": "2024-05-01", "money": "1.50", "image": None,
    }  # fmt: skip
    assert second["number"] is None and second["list"] == []
    json.dumps([first, second])


def test_a_damaged_parquet_is_one_sentence(tmp_path):
    pq.write_table(pa.table({"q": ["x"] * 99}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for broken in (b"", b"PAR1", content[:-9]):
        assert refused(written(tmp_path, "a.parquet", broken)).startswith(": this is no readable parquet file (")


def test_the_file_of_a_split_is_found_in_any_format(tmp_path):
    assert file_of(tmp_path, "train") == tmp_path / "train.jsonl"
    written(tmp_path, "train.parquet", b"")
    assert file_of(tmp_path, "train") == tmp_path / "train.parquet"
    written(tmp_path, "train.csv", "")
    with pytest.raises(InputError, match=r"both train\.csv and train\.parquet are here; keep one of them"):
        file_of(tmp_path, "train")


def test_what_is_there_instead_is_said(tmp_path):
    missing = tmp_path / "train.jsonl"
    assert refused(missing) == ": there is no such data file, and no train.json, train.csv or train.parquet."
    written(tmp_path, "rows.csv", "a\n1\n")
    assert refused(missing) == ": there is no such data file, but rows.csv; rename it, or split it."
    written(tmp_path, "train.csv", "a\n1\n")
    assert refused(missing) == ": there is no such data file, but a train.csv."
    assert refused(tmp_path / "train.csv" / "test.csv").endswith("this is a file; give the folder that holds test.csv.")
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder") == ": this is a folder; name a file of rows in it."
    sheet = refused(written(tmp_path, "rows.xlsx", b"x"))
    assert sheet.startswith(": rows are read from .jsonl, .json, .csv or .parquet files; pandas turns it into CSV: read_excel(")
    assert "; pandas turns it into CSV: read_csv(" in refused(written(tmp_path, "rows.tsv", "a\tb\n"))


def test_built_in_data_sets_are_read_from_jsonl_alone(tmp_path):
    written(tmp_path, "train.csv", "goal\nx\n")
    with pytest.raises(InputError, match=r"train\.jsonl: there is no such data file"):
        list(read_rows(tmp_path / "train.jsonl"))
