"""Reading prompt files: YAML, JSONL, CSV, and xlsx in the form of the paper's authors."""

import csv
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from paft.runtime.errors import InputError
from paft.runtime.files import check_separator
from paft.runtime.jsonl import parse_object

KEYS = {"text", "id", "source", "wording", "layout"}  # of a prompt; only text is required
HEADER = {"answer": ("letter", "text"), "options": ("shown", "hidden")}  # of a pool; in tables, columns of one value

_DEEPEST = 20  # levels of nested YAML; a pool has three
_MOST_BYTES = 2**26  # of a file; a sheet may unpack to four times as much

Entry: TypeAlias = tuple[str, Mapping[str, Any]]  # the place it comes from, its keys


@dataclass(frozen=True)
class PromptFile:
    """The content of a prompt file, not checked against any task."""

    header: Mapping[str, Any]  # of the whole pool: answer and options, where the file states them
    rows: Sequence[Entry]
    blank: tuple[str, ...] = ()  # the empty rows of a sheet
    unescaped: int = 0  # prompts of a sheet in which a literal backslash-n was turned into a line break


def read_prompts(path: Path) -> PromptFile:
    """Read a prompt file in the format that its suffix names.

    Raises InputError that names the file and the line.
    """
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".jsonl": _read_jsonl, ".csv": _read_csv, ".xlsx": _read_xlsx}
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; name a file of prompts in it.")
    if not path.is_file():
        raise InputError(f"{path}: there is no such prompt file.")
    if path.suffix not in readers:
        raise InputError(f"{path}: a prompt pool is a .yaml, .jsonl, .csv or .xlsx file.")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise InputError(f"{path}: the file has {size / 2**20:.0f} MiB, at most {_MOST_BYTES // 2**20} are read; is it a pool?")
    return readers[path.suffix](path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: the file is not UTF-8 text.") from None


def _read_yaml(path: Path) -> PromptFile:
    import yaml

    text = _read_text(path)
    try:
        _check_flat(path, text)
        loader = _loader()(text)
        root = loader.get_single_node()
        content = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError, KeyError, AttributeError, IndexError) as error:
        # Those that are not YAML's own come of an impossible date, or of a tag such as !!bool before something else.
        raise InputError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("prompts"), list):
        raise InputError(f"{path}: a YAML pool has a key `prompts` with a list of prompts.")
    if unknown := set(content) - {"answer", "options", "prompts"}:
        raise InputError(f"{path}: unknown key {sorted(map(str, unknown))[0]!r}; a pool has answer, options and prompts.")
    for key in HEADER:
        if key in content:
            _check_header(path, key, content[key])
    assert isinstance(root, yaml.MappingNode)
    if len(root.value) != len(content):
        raise InputError(f"{path}: a key occurs twice; answer, options and prompts are given once.")
    nodes = next(value for key, value in root.value if key.value == "prompts").value
    places = [f"line {node.start_mark.line + 1}" for node in nodes]
    for place, node, row in zip(places, nodes, content["prompts"], strict=True):
        if not isinstance(row, dict):
            raise InputError(f"{path}, {place}: a prompt is a mapping with at least a `text`.")
        if len(node.value) != len(row):
            raise InputError(f"{path}, {place}: a key occurs twice in this prompt; give it once.")
    return PromptFile(content, list(zip(places, content["prompts"], strict=True)))


def _loader() -> Any:
    """Return the loader of YAML: libyaml's where PyYAML was built with it, which is ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_flat(path: Path, text: str) -> None:
    """Refuse YAML with aliases, of which a few may expand to billions of nodes, or nested more deeply than any pool."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{path}: a YAML pool has no aliases (*name); write each prompt out.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise InputError(f"{path}: the YAML is nested more than {_DEEPEST} levels deep; a pool is a list of prompts.")


def _check_header(path: Path, key: str, value: Any) -> None:
    if value not in HEADER[key]:
        raise InputError(f"{path}: {key} is {value!r}; it must be {' or '.join(HEADER[key])}.")


def _table(path: Path, rows: Iterator[Entry], blank: Sequence[str] = (), unescaped: int = 0) -> PromptFile:
    """Move the pool's header (answer, options) out of the rows of a table; all rows must agree on it."""
    header: dict[str, Any] = {}
    bare = []
    for place, row in rows:
        for key in HEADER:
            if row.get(key) is None:
                continue
            _check_header(path, key, row[key])
            if header.setdefault(key, row[key]) != row[key]:
                raise InputError(f"{path}, {place}: {key} is {row[key]!r} here and {header[key]!r} before; a pool has one.")
        bare.append((place, {key: value for key, value in row.items() if key not in HEADER}))
    return PromptFile(header, bare, tuple(blank), unescaped)


def _read_jsonl(path: Path) -> PromptFile:
    def rows() -> Iterator[Entry]:
        for number, line in enumerate(_read_text(path).split("\n"), 1):
            if line.strip():
                row = parse_object(line, f"{path}, line {number}", "a prompt is a JSON object with at least a `text`")
                yield f"line {number}", row

    return _table(path, rows())


def _read_csv(path: Path) -> PromptFile:
    csv.field_size_limit(_MOST_BYTES)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    blank: list[str] = []

    def rows() -> Iterator[Entry]:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if "text" not in names:
            check_separator(path)
            raise InputError(f"{path}, line 1: the table has no column `text`.")
        _check_columns(f"{path}, line 1", names)
        first = reader.line_num + 1  # a record may have several lines
        for row in reader:
            place, first = f"line {first}", reader.line_num + 1
            if None in row:
                raise InputError(f"{path}, {place}: the row has more cells than the table has columns.")
            if filled := {key: value for key, value in row.items() if value}:
                yield place, filled
            else:
                blank.append(place)

    try:
        return _table(path, rows(), blank)
    except csv.Error as error:
        if reader.line_num < 2:
            check_separator(path)
        raise InputError(
            f"{path}, line {max(1, reader.line_num)}: this is not valid CSV ({error}); close the quotation mark."
        ) from None


def _has_prompts(sheet: Any) -> bool:
    """Whether a sheet has a column `text`, and a row below it."""
    first = list(sheet.iter_rows(max_row=2, values_only=True))
    return len(first) > 1 and "text" in map(str, first[0])


def _check_columns(where: str, names: Sequence[str]) -> None:
    """Refuse two columns of the same name, of which one would be lost."""
    if twice := next((name for name in names if name in {*KEYS, *HEADER} and names.count(name) > 1), None):
        raise InputError(f"{where}: two columns are called {twice!r}; rename one of them.")


def _read_xlsx(path: Path) -> PromptFile:
    """Read a sheet in the authors' form: turn literal backslash-n into line breaks and drop blank rows, counting both."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > 4 * _MOST_BYTES:
            raise InputError(f"{path}: the sheet unpacks to {unpacked / 2**20:.0f} MiB; this is no prompt pool.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns about styles that we do not read
            book = openpyxl.load_workbook(path, read_only=True)
            sheet = book.active
            others = [other.title for other in book.worksheets if other is not sheet and _has_prompts(other)]
            table = list(sheet.iter_rows(values_only=True)) if sheet is not None else []
    except InputError:
        raise
    except Exception:  # openpyxl lets zip, XML and key errors through
        raise InputError(f"{path}: this is not a readable xlsx file.") from None
    names = [str(cell) for cell in table[0]] if table else []
    if "text" not in names:
        raise InputError(f"{path}, row 1: the sheet has no column `text`.")
    _check_columns(f"{path}, row 1", names)
    if others:
        raise InputError(f"{path}: the sheet {others[0]!r} has prompts, too, and one sheet is read; put all into one.")
    rows: list[tuple[str, dict[str, Any]]] = []
    blank: list[str] = []
    unescaped = 0
    for number, cells in enumerate(table[1:], 2):
        row = {name: cell for name, cell in zip(names, cells, strict=False) if name in {*KEYS, *HEADER} and cell is not None}
        text = str(row.get("text", ""))
        if not text.strip():
            blank.append(f"row {number}")
            continue
        unescaped += "\\n" in text
        rows.append((f"row {number}", {**row, "text": text.replace("\\n", "\n")}))
    return _table(path, iter(rows), blank, unescaped)
