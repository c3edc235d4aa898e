"""Random and hostile input for every reader of files that strangers wrote: no crash, no hang, nothing misread.

    python tests/reliability/fuzz.py [--inputs 100000] [--report experiments/results/fuzz]

Templates, pools (YAML, JSONL, CSV, xlsx), data rows, score matrices and configs are made by hypothesis: put together from
pieces that are nearly right, or real files with bytes changed. Each must be read as what it is, which an oracle of its own
checks, or be refused with an InputError.
"""

import argparse
import csv
import io
import json
import string
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.cli.hydra_app import run_plain
from paft.config.compose import CONF, from_dict, parse
from paft.data.files import read_rows
from paft.data.tasks.base import Task
from paft.evaluation.matrix import read_matrix
from paft.evaluation.store import SCHEMA, VERSION
from paft.prompts import PromptTemplate, TemplateError, load_pool
from paft.prompts.pool import Form
from paft.runtime.errors import InputError
from tests.reliability.page import write_page

_SECONDS = 5.0  # of this process's CPU: an input that takes longer, with an import, is a hang
_FORM = Form(frozenset({"question"}), frozenset({"A", "B"}), "letter")
_TASK = Task("jsonl", ("question",), ("A", "B"))

Check = Callable[[Path, Any], bool]  # of (folder, input): whether the input was taken; raises where something is wrong

_PIECES = st.sampled_from([
    "{", "}", "{{", "}}", "{question}", "{A}", "{B}", "{A.b}", "{A!r}", "{A:9}", "{0}", "%s", "\\n", "\n", "\r", "\x00",
    "\ud800", "\u202e", "🙂", "é", "ا", '"', "'", ",", ":", "- ", "text", "prompts:", "&a", "*a", "<<: ", "#", "null", "NaN",
    "!!python/object:os.system ", "1e999", "0x1F", "2001-99-99", "[", "]", "|-", "\t", "\ufeff", "=cmd|' /C calc'!A0",
])  # fmt: skip
_TEXT = st.lists(st.one_of(_PIECES, st.text(max_size=8)), max_size=12).map("".join)
_WORDS = st.one_of(
    st.just(""), st.text(max_size=10), st.sampled_from(["🙂", "é", "ا\u200f", "\u202e", "{{", "}}", "%s", ": ", "- "])
)
_GOOD = st.builds(lambda a, b, c: f"{a}{{question}}\n{b}A. {{A}}\nB. {{B}}\nAnswer{c}:", _WORDS, _WORDS, _WORDS)
_SCALAR = st.one_of(_TEXT, st.none(), st.booleans(), st.integers(), st.floats(), st.just("A"), st.just("1"))
_VALUE = st.recursive(
    _SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3), max_leaves=4
)
_PROMPT = st.dictionaries(st.sampled_from(["text", "id", "source", "wording", "layout", "other"]), _VALUE, max_size=4)
_PROMPT = st.one_of(
    st.builds(lambda text: {"text": text}, _GOOD),
    st.builds(lambda text, word: {"text": text, "source": word, "wording": word}, _GOOD, _WORDS),
    st.builds(lambda prompt, text: prompt | {"text": text}, _PROMPT, st.one_of(_GOOD, _TEXT)),
    _PROMPT,
)
_ROW = st.dictionaries(st.sampled_from(["question", "A", "B", "answer", "x"]), _VALUE, max_size=5)
_GOOD_ROW = st.builds(
    lambda row, a, b, gold: {"question": "?", "A": a, "B": b, "answer": gold} | row,
    st.dictionaries(st.sampled_from(["question", "A", "x"]), _VALUE, max_size=1),
    _SCALAR,
    _SCALAR,
    st.sampled_from(["A", "B", 0, 1, "C", 2, True, None]),
)


_FINE_ROW = st.builds(
    lambda question, a, b, gold: {"question": question, "A": f"a {a}", "B": f"b {b}", "answer": gold},
    st.one_of(_WORDS, st.integers(), st.just("{A}")),
    _WORDS,
    _WORDS,
    st.sampled_from(["A", "B", 0, 1, "1"]),
)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _harmed(content: bytes) -> st.SearchStrategy[bytes]:
    """Return a file with some bytes changed, or cut off."""
    change = st.tuples(st.integers(0, max(0, len(content) - 1)), st.binary(min_size=0, max_size=4))

    def harm(changes: list[tuple[int, bytes]], end: int | None) -> bytes:
        harmed = bytearray(content[:end])
        for place, new in changes:
            harmed[place : place + len(new)] = new
        return bytes(harmed)

    return st.builds(harm, st.lists(change, min_size=1, max_size=3), st.one_of(st.none(), st.integers(0, len(content))))


def check_template(folder: Path, text: str) -> bool:
    """A template is refused, or it renders as Python's own reading of such a format says, with every value untouched."""
    try:
        template = PromptTemplate(text, "x")
    except TemplateError:
        return False
    values = {name: f"\x01{i}{{A}}%s\\n\x01" for i, name in enumerate(sorted(template.fields))}
    pieces = string.Formatter().parse(text)
    assert template.render(values) == "".join(literal + (values[name] if name else "") for literal, name, _, _ in pieces)
    return True


def check_pool(folder: Path, file: tuple[str, bytes]) -> bool:
    """A pool is refused, or each of its prompts holds the task's fields and renders."""
    suffix, content = file
    path = folder / f"pool{suffix}"
    path.write_bytes(content)
    pool = load_pool(path, _FORM, {})
    assert pool.templates and len({t.id for t in pool.templates}) == len(pool.templates)
    for template in pool.templates:
        assert template.fields == _FORM.required
        shown = template.render({"question": "Q-value", "A": "A-value", "B": "B-value"})
        assert "Q-value" in shown and "A-value" in shown and "B-value" in shown
        shown.encode()
    return True


def check_rows(folder: Path, content: bytes) -> bool:
    """Rows are refused, or each example says what its row says."""
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    rows = list(read_rows(path))
    for i, (where, row) in enumerate(rows):
        example = _TASK.example(where, row, str(i), "part")
        assert example.fields == {name: str(row[name]) for name in ("question", "A", "B")}
        assert all(isinstance(row[name], str | int | float) for name in ("question", "A", "B"))
        assert 0 <= example.gold < 2 and example.answer == str(row["AB"[example.gold]])
        means = {"A": 0, "B": 1, "0": 0, "1": 1}.get(str(row["answer"]).strip())
        assert example.gold == (
            means if means is not None else [str(row[n]).strip() for n in "AB"].index(str(row["answer"]).strip())
        )
        "".join(example.fields.values()).encode()
    return bool(rows)


def check_matrix(folder: Path, content: bytes) -> bool:
    """A matrix is refused, or it is whole: every cell of every prompt and example."""
    path = folder / "matrix.parquet"
    path.write_bytes(content)
    matrix = read_matrix(path)
    shape = (len(matrix.prompt_ids), len(matrix.example_ids))
    assert all(getattr(matrix, name).shape == shape for name in ("correct", "predicted", "tied", "truncated", "output_tokens"))
    assert matrix.correct.dtype == bool and 0 <= matrix.correct.mean() <= 1 and 0 <= matrix.chance <= 1
    return True


def check_config(folder: Path, content: Mapping[str, Any]) -> bool:
    """A config is refused, or it is one that survives being written and read."""
    config = from_dict(content)
    assert from_dict(json.loads(json.dumps(config.model_dump()))) == config and config.run_name
    assert config.K > 0 and config.T > 0 and config.optim.lr > 0 and np.isfinite(config.optim.lr)
    return True


def _pools() -> st.SearchStrategy[tuple[str, bytes]]:
    prompts = st.lists(_PROMPT, min_size=0, max_size=3)
    header = st.sampled_from([{}, {"answer": "letter"}, {"answer": "text"}, {"answer": 3}, {"options": "hidden"}, {"more": 1}])

    def as_yaml(head: dict[str, Any], rows: list[Any]) -> tuple[str, bytes]:
        return ".yaml", _bytes(json.dumps(head | {"prompts": rows}, ensure_ascii=False))  # JSON is YAML, nearly

    def as_jsonl(rows: list[Any]) -> tuple[str, bytes]:
        return ".jsonl", _bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def as_csv(names: list[str], rows: list[list[str]]) -> tuple[str, bytes]:
        text = io.StringIO()
        csv.writer(text).writerows([names, *rows])
        return ".csv", _bytes(text.getvalue())

    names = st.lists(st.sampled_from(["text", "id", "source", "answer", "x"]), min_size=1, max_size=3)
    cells = st.lists(st.lists(st.one_of(_GOOD, _TEXT), max_size=3), max_size=3)
    suffixes = st.sampled_from([".yaml", ".jsonl", ".csv"])
    return st.one_of(
        st.builds(as_yaml, header, prompts),
        st.builds(as_yaml, st.just({}), st.lists(st.builds(lambda text: {"text": text}, _GOOD), min_size=1, max_size=3)),
        st.builds(as_jsonl, prompts),
        st.builds(as_csv, names, cells),
        st.tuples(suffixes, _TEXT.map(_bytes)),
        st.tuples(suffixes, st.binary(max_size=60)),
        st.tuples(st.just(".yaml"), _harmed(_YAML)),
    )


_YAML = b"""answer: letter
prompts:
  - {id: a, text: "{question} A. {A} B. {B} Answer:"}
  - text: |-
      {question}
      A. {A}
      B. {B}
      Letter:
"""


def _sheet() -> bytes:
    import openpyxl

    book, content = openpyxl.Workbook(), io.BytesIO()
    assert book.active is not None
    for row in (["text", "id"], ["{question} A. {A} B. {B} Answer:", "a"], ["Q {question}\nA. {A}\nB. {B}\nAnswer:", "b"]):
        book.active.append(row)
    book.save(content)
    return content.getvalue()


def _sheets() -> st.SearchStrategy[tuple[str, bytes]]:
    """Sheets with changed bytes outside and, since a zip's checksum would notice these alone, inside."""
    whole = _sheet()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def packed(name: str, content: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for member, old in members.items():
                archive.writestr(member, content if member == name else old)
        return out.getvalue()

    inside = st.sampled_from(sorted(members)).flatmap(lambda name: _harmed(members[name]).map(lambda new: packed(name, new)))
    return st.tuples(st.just(".xlsx"), st.one_of(_harmed(whole), inside))


def _matrices() -> st.SearchStrategy[bytes]:
    def cell(prompt: int, example: int) -> dict[str, Any]:
        ids = {
            "prompt_id": f"p{prompt}",
            "prompt_digest": f"d{prompt}",
            "example_id": f"e{example}",
            "example_digest": f"f{example}",
        }
        numbers = {"n_choices": 2, "log_probs": [-1.0, -2.0], "predicted": 0, "gold": example % 2, "output_tokens": 0}
        said = {"correct": example % 2 == 0, "tied": False, "truncated": False, "output": None, "group": "g", "part": "p"}
        return {"prompt": prompt, "example": example, **ids, **numbers, **said}

    def written(rows: list[dict[str, Any]], drop: list[str], version: str) -> bytes:
        table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"digest": "x", "version": version}))
        out = io.BytesIO()
        pq.write_table(table.drop_columns(drop), out)
        return out.getvalue()

    whole = [cell(p, e) for p in range(2) for e in range(3)]
    rows = st.lists(st.builds(cell, st.integers(-1, 3), st.integers(-1, 3)), max_size=8)
    drop = st.lists(st.sampled_from(SCHEMA.names), max_size=1)
    version = st.sampled_from([str(VERSION), str(VERSION), "1", "99", ""])
    return st.one_of(
        _harmed(written(whole, [], str(VERSION))), st.builds(written, st.one_of(st.just(whole), rows), drop, version)
    )


def _configs() -> st.SearchStrategy[dict[str, Any]]:
    with initialize_config_dir(CONF, version_base="1.3"):
        good = parse(compose("train")).model_dump()
    paths = [(key,) for key in good] + [
        (key, inner) for key, value in good.items() if isinstance(value, dict) for inner in value
    ]

    def changed(changes: list[tuple[tuple[str, ...], Any]], unknown: str | None) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(json.dumps(good))
        for path, value in changes:
            section = config if len(path) == 1 else config[path[0]]
            if isinstance(section, dict):
                section[path[-1]] = value
        return config | ({unknown: 1} if unknown else {})

    values = st.one_of(
        _VALUE, st.sampled_from(["piqa", "paft", "user", "base", "row", "text", "letter", -1, 0, 1, 2**70, 1e-4, []])
    )
    return st.builds(changed, st.lists(st.tuples(st.sampled_from(paths), values), max_size=3), st.one_of(st.none(), _TEXT))


def _kinds() -> dict[str, tuple[int, st.SearchStrategy[Any], Check]]:
    """Return kind -> (its share of the inputs in percent, how they are made, what is checked)."""
    some = st.one_of(st.lists(_FINE_ROW, max_size=4), st.lists(st.one_of(_FINE_ROW, _ROW, _GOOD_ROW), max_size=3))
    lines = some.map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows))
    rows = st.one_of(
        lines.map(_bytes),
        _TEXT.map(_bytes),
        st.binary(max_size=60),
        _harmed(b'{"question": "?", "A": 1, "B": 2, "answer": "A"}\n'),
    )
    return {
        "templates": (40, _TEXT, check_template),
        "pools: YAML, JSONL, CSV": (15, _pools(), check_pool),
        "pools: xlsx": (5, _sheets(), check_pool),
        "data rows": (20, rows, check_rows),
        "score matrices": (10, _matrices(), check_matrix),
        "configs": (10, _configs(), check_config),
    }


@contextmanager
def _no_hang(kind: str) -> Iterator[None]:
    started = time.process_time()
    yield
    took = time.process_time() - started
    assert took < _SECONDS, f"{kind}: an input took {took:.1f} s"


def fuzz(kind: str, inputs: int, strategy: st.SearchStrategy[Any], check: Check, number: int) -> int:
    """Check some inputs; return how many were taken. Raises whatever is not an InputError."""
    taken = 0
    with tempfile.TemporaryDirectory() as scratch:

        @seed(number)
        @settings(
            max_examples=inputs,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(drawn: Any) -> None:
            nonlocal taken
            with _no_hang(kind):
                try:
                    taken += check(Path(scratch), drawn)
                except InputError as error:
                    assert str(error) and "\n" not in str(error).strip()

        run()
    return taken


def main() -> None:
    """Fuzz every kind, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("outputs/fuzz"))
    arguments = parser.parse_args()
    rows = []
    for kind, (share, strategy, check) in _kinds().items():
        inputs, started = max(1, arguments.inputs * share // 100), time.perf_counter()
        taken = fuzz(kind, inputs, strategy, check, arguments.seed)
        rows.append({"input": kind, "inputs": inputs, "taken": taken, "seconds": round(time.perf_counter() - started, 1)})
        print(rows[-1], flush=True)
    page = ["# Random and hostile input", "", f"| {' | '.join(rows[0])} |", "|---|---:|---:|---:|"]
    page += [f"| {row['input']} | {row['inputs']:,} | {row['taken']:,} | {row['seconds']} |" for row in rows]
    page += [
        "",
        "None crashed, hung or was misread; those that were not taken were refused in one sentence.",
        "",
    ]
    page += ["Made by `python tests/reliability/fuzz.py`. Versions and device: results.json.", ""]
    write_page(arguments.report, page, {"rows": rows, "seed": arguments.seed})


if __name__ == "__main__":
    run_plain(main)
