"""Loading the rows of a data set, from the hub or from a folder, as train, validation and test examples."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from paft.config.schema import DatasetConfig
from paft.data.checks import FEWEST, check_answers, never_first
from paft.data.splits import cut_validation, fingerprint, shuffled
from paft.data.tasks import BUILT_IN
from paft.data.tasks.base import Example, GoldForm, Task, gold_index
from paft.runtime.errors import InputError
from paft.runtime.jsonl import parse_object

_LONGEST_ROW = 2**24  # characters; a file without line breaks is no JSONL


@dataclass(frozen=True)
class Files:
    """All rows of the training file and of the test file, of which a run draws some, and remarks on them.

    train is None where the training rows are not at hand.
    """

    train: tuple[Example, ...] | None
    test: tuple[Example, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """The examples of a run, in a fixed pseudo-random order: the first n of train or validation are a fair sample."""

    task: Task
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    files: Files | None = field(default=None, compare=False, repr=False)  # what they were drawn from; None: dropped again

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each split."""
        return {name: fingerprint(getattr(self, name)) for name in ("train", "validation", "test")}


def load_examples(config: DatasetConfig, data_root: str | None, train: int | None, test: int | None) -> Examples:
    """Load a data set as train, validation and test examples.

    `test` is the split that papers report; `validation` is a seeded cut of train (by group), or
    validation.jsonl where dataset=jsonl has one. At most `train` and `test` examples are kept (None:
    all), the test examples spread evenly over the parts.

    Raises InputError that names the file and the line.
    """
    task, remarks = _task(config, _jsonl_file(config, "train"))
    train_file: list[Example] = []
    rest: list[Example] = []
    validation: list[Example] = []
    for part in config.parts:
        validation_file = _jsonl_validation(config)
        examples = shuffled(_load(config, task, data_root, part, "train"))
        train_file += examples
        if validation_file is None:
            cut, remaining = cut_validation(examples, config.name)
        else:
            cut, remaining = shuffled(_labelled(config, task, validation_file, "validation", part)), examples
        validation += cut
        rest += remaining
    if len(config.parts) > 1:
        rest, validation = shuffled(rest), shuffled(validation)
    tested, whole = _test_examples(config, task, data_root, test)
    if config.own_rows:
        remarks += never_first(_jsonl_file(config, "train"), task, train_file)
        remarks += never_first(_jsonl_file(config, "test"), task, whole)
    files = Files(tuple(train_file), tuple(whole), tuple(remarks))
    return Examples(task, tuple(rest[:train]), tuple(validation), tested, files)


def load_test(
    config: DatasetConfig, data_root: str | None, most: int | None, trained_on: DatasetConfig | None = None
) -> tuple[Task, tuple[Example, ...], Files]:
    """Load only the test examples: those of load_examples, or the rows of a JSONL file that dataset.path names.

    Args:
        most: how many examples to load at most; None for all.
        trained_on: the data set that the adapter was trained on, whose folder may hold the training rows; None: no adapter.

    Returns the task, the examples, and the files that these are drawn from.

    Raises InputError that names the file and the line.
    """
    if config.path is not None and not Path(config.path).is_dir():
        task, remarks = _task(config, Path(config.path))
        whole = _labelled(config, task, Path(config.path), "test", config.name)
        remarks += never_first(Path(config.path), task, whole)
        folder = trained_on.path if trained_on is not None and trained_on.name == config.name else None
        near = config.own_rows or data_root is not None or task.generate is not None  # the hub is not asked for a file's sake
        train = _training_rows(config.model_copy(update={"path": folder}), data_root) if near else None
        return task, tuple(shuffled(whole)[:most]), Files(train, tuple(whole), tuple(remarks))
    if config.path is not None and config.name in BUILT_IN:
        raise InputError(
            f"dataset.path={config.path}: a folder of {config.name} is given with data_root=, which holds {config.name}/; "
            "dataset.path names a file of rows."
        )
    sample = _jsonl_file(config, "train")  # shows which fields rows have, and the form of their answers
    task, remarks = _task(config, sample if sample.is_file() else _jsonl_file(config, "test"))
    tested, whole = _test_examples(config, task, data_root, most)
    if config.own_rows:
        remarks += never_first(_jsonl_file(config, "test"), task, whole)
    if task.generate is not None:
        return task, tested, Files((), tuple(whole), tuple(remarks))  # its test rows are never training rows
    own = trained_on is not None and trained_on.own_rows and trained_on.path is not None and config.own_rows
    trained = _training_rows(config.model_copy(update={"path": trained_on.path}) if own and trained_on else config, data_root)
    return task, tested, Files(trained, tuple(whole), tuple(remarks))


def load_unlabelled(config: DatasetConfig) -> tuple[Task, tuple[Example, ...], list[dict[str, Any]]]:
    """Load all rows of the JSONL file that dataset.path names, in its order, whether they are labelled or not.

    Returns the task, the examples, whose answers are not read (gold -1), and the rows unchanged.
    """
    path = Path(str(config.path))
    task, _ = _task(config, path, labelled=False)
    rows = list(read_jsonl(path))
    examples = [task.example(where, row, f"row-{i}", config.name, labelled=False) for i, (where, row) in enumerate(rows)]
    return task, tuple(examples), [row for _, row in rows]


def _test_examples(
    config: DatasetConfig, task: Task, data_root: str | None, most: int | None
) -> tuple[tuple[Example, ...], list[Example]]:
    """Return a fair sample of the test split, spread evenly over the parts, and the whole split."""
    examples: list[Example] = []
    whole: list[Example] = []
    for index, part in enumerate(config.parts):
        share = None if most is None else most // len(config.parts) + (index < most % len(config.parts))
        of_part = shuffled(_load(config, task, data_root, part, config.test_split))
        examples += of_part[:share]
        whole += of_part
    return tuple(examples), whole


def _training_rows(config: DatasetConfig, data_root: str | None) -> tuple[Example, ...] | None:
    """Return the rows of the training file, for comparison with test rows; None if they are not at hand."""
    if config.own_rows:
        there = config.path is not None and _jsonl_file(config, "train").is_file()
    elif data_root is not None:
        there = all((Path(data_root) / part / "train.jsonl").is_file() for part in config.parts)
    else:
        there = True
    try:
        task = _task(config, _jsonl_file(config, "train"))[0] if there else None
        parts = [_load(config, task, data_root, part, "train") for part in config.parts] if task is not None else None
    except InputError:  # an evaluation can do without; but the hub, which gave the test rows, has these, too
        if not config.own_rows and data_root is None:
            raise
        return None
    return None if parts is None else tuple(itertools.chain.from_iterable(parts))


def _task(config: DatasetConfig, sample: Path, labelled: bool = True) -> tuple[Task, list[str]]:
    """Return the task of a data set, and remarks; that of the user's own rows is inferred from a sample file."""
    task = BUILT_IN.get(config.name)
    if task is not None and (task.generate is not None or config.hub is not None):
        return task, []
    if not config.own_rows:
        raise InputError(f"dataset.name={config.name}: choose a data set with dataset=, your own with dataset=jsonl.")
    assert config.path is not None
    if config.gold is None and labelled:
        raise InputError("dataset.gold has no value; name the field of your rows that holds the right answer.")
    gold = config.gold or ""  # rows without labels
    if gold in config.choices:
        raise InputError(
            f"dataset.gold={config.gold}: this is one of dataset.choices, so the same choice would be right in every row; name "
            "the field that says which choice is right."
        )
    first = next(read_jsonl(sample))[1]
    for name in (*config.choices, *([gold] if labelled else [])):
        if name not in first:
            raise InputError(f"{sample}, line 1: the row lacks the field {name!r}; it has {', '.join(first)}.")
    others = tuple(name for name in first if name not in {*config.choices, gold})
    if labelled and config.choices:
        form, remarks = _gold_form(config, sample)
        if form is not None:
            forms: tuple[GoldForm, ...] = (form,)
            words = _WORDS[form]
            task = Task(config.name, (), tuple(config.choices), others, gold=gold, gold_forms=forms, gold_words=words)
            return task, remarks
    return Task(config.name, (), tuple(config.choices), others, gold=gold), []


_WORDS: dict[GoldForm, str] = {"text": "the text", "name": "the letter or the field name", "index": "the index from 0"}


def _gold_form(config: DatasetConfig, sample: Path) -> tuple[GoldForm | None, list[str]]:
    """Return the form of answers that fits most rows of the sample file, None if no form fits any row; and a remark.

    All rows have one form, so that a number is not a text in one row and an index in another. Other rows are refused later.

    Raises InputError if the answers are indices that are counted from 1.
    """
    gold = str(config.gold)
    places = [(where, row) for where, row in read_jsonl(sample)]
    places = [(where, row) for where, row in places if all(row.get(name) is not None for name in (*config.choices, gold))]
    rows = [(row[gold], [str(row[name]) for name in config.choices]) for _, row in places]
    read: dict[GoldForm, list[int | None]] = {
        form: [gold_index(answer, config.choices, choices, [form]) for answer, choices in rows] for form in _WORDS
    }
    fits = {form: len(rows) - indices.count(None) for form, indices in read.items()}
    best = max(_WORDS, key=lambda form: fits[form])
    labels = [str(answer).strip() for answer, _ in rows]
    numbers = [int(label) for label in labels if label.isdecimal()]
    highest = len(config.choices)
    if (
        (best == "index" or not fits[best])
        and rows
        and len(numbers) == len(rows)
        and min(numbers, default=0) > 0
        and max(numbers, default=0) == highest
    ):
        where = places[numbers.index(highest)][0]
        raise InputError(
            f"{where}: {gold!r} is {highest}, and 0 is in no row, so it counts from 1; count the {highest} choices from 0, or "
            "write letters."
        )
    both = len(rows) >= FEWEST and fits["text"] == fits["index"] == len(rows) and read["text"] != read["index"]
    remark = f"{sample}: {gold!r} is read as the text of a choice, though in every row it could be an index from 0, too."
    return best if fits[best] else None, [remark] if both else []


_Rows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]  # each row with where it comes from


def _load(config: DatasetConfig, task: Task, data_root: str | None, part: str, split: str) -> list[Example]:
    rows: _Rows
    if task.generate is not None:
        rows = ((f"{task.name}, {split} row {i}", row) for i, row in enumerate(task.generate(split)))
    elif config.own_rows:
        return _labelled(config, task, _jsonl_file(config, split), split, part)
    elif data_root is not None:
        rows = read_jsonl(Path(data_root) / part / f"{split}.jsonl")
    else:
        rows = _read_hub(config, part, split)
    return list(_examples(task, rows, split, part))


def _labelled(config: DatasetConfig, task: Task, file: Path, split: str, part: str) -> list[Example]:
    """Return the rows of a file of one's own; raises InputError if the right answer is always the same."""
    examples = list(_examples(task, read_jsonl(file), split, part))
    check_answers(file, task, examples)
    return examples


def _examples(task: Task, rows: _Rows, split: str, part: str) -> Iterator[Example]:
    for index, (where, row) in enumerate(rows):
        yield task.example(where, row, f"{part}-{split}-{index}", part)


def _jsonl_file(config: DatasetConfig, split: str) -> Path:
    return Path(str(config.path)) / f"{split}.jsonl"


def _jsonl_validation(config: DatasetConfig) -> Path | None:
    if not config.own_rows:
        return None
    path = _jsonl_file(config, "validation")
    return path if path.is_file() else None


def read_jsonl(path: Path) -> _Rows:
    """Yield (file and line, row) for each row of a JSONL file; raises InputError that names the file and the line."""
    if not path.is_file():
        raise InputError(_no_rows(path))
    if path.suffix in _OTHER_FORMATS:
        raise InputError(f"{path}: rows are read from JSONL, one JSON object a line; {_as_jsonl(path)}.")
    empty = True
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
                    empty = False
                    where = f"{path}, line {number}"
                    yield where, parse_object(line, where, 'a row is a JSON object, e.g. {"question": ...}')
        except UnicodeDecodeError:
            raise InputError(f"{path}: the file is not UTF-8 text.") from None
    if empty:
        raise InputError(f"{path}: the data file is empty; it needs at least one row.")


# Formats that people keep rows in, and what pandas reads them with.
_OTHER_FORMATS = {
    ".csv": "read_csv({!r})",
    ".tsv": "read_csv({!r}, sep='\\t')",
    ".parquet": "read_parquet({!r})",
    ".xlsx": "read_excel({!r})",
}


def _no_rows(path: Path) -> str:
    """Return a sentence about a data file that is not there, with what is there instead."""
    if path.parent.is_file():
        return f"{path.parent}: this is a file; give the folder that holds {path.name}."
    if there := [other for suffix in _OTHER_FORMATS if (other := path.with_suffix(suffix)).is_file()]:
        return f"{path}: there is no such data file, but a {there[0].name}; {_as_jsonl(there[0])}."
    others = sorted(other.name for other in path.parent.glob("*.jsonl") if other.stem not in ("train", "validation", "test"))
    if others:
        return f"{path}: there is no such data file, but {', '.join(others[:5])}; rename it, or split it."
    return f"{path}: there is no such data file; it should hold one JSON object a line."


def _as_jsonl(path: Path) -> str:
    """Return, as a clause, how a file of another format becomes JSONL."""
    reading = _OTHER_FORMATS[path.suffix].format(str(path))
    target = str(path.with_suffix(".jsonl"))
    return f"pandas turns it into JSONL: {reading}.to_json({target!r}, orient='records', lines=True)"


def _read_hub(config: DatasetConfig, part: str, split: str) -> _Rows:
    """Yield (where it comes from, row) for each row of a data set on the hub, at its pinned revision."""
    from datasets import load_dataset

    assert config.hub is not None
    name = config.hub.configs[part]
    try:
        table = load_dataset(config.hub.id, name, revision=config.hub.revision, split=split)
    except Exception as error:  # whatever the network, the hub or its cache come up with
        raise InputError(
            f"dataset={config.name}: {config.hub.id} could not be loaded from the hub ({type(error).__name__}); "
            f"give a folder with data_root=DIR that holds {part}/{split}.jsonl."
        ) from None
    for index, row in enumerate(table):
        yield f"{config.hub.id} ({name}), {split} row {index}", dict(row)
