"""Loading rows, from the hub or from a folder, and cutting them into train, validation and test examples."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from paft.config import DatasetConfig
from paft.data.story_facts import generate_rows
from paft.data.task import BUILT_IN, Example, GoldForm, Task, gold_index
from paft.errors import InputError
from paft.jsonl import parse_object

# Cuts and slices are the same whatever the run's seed, so that runs of all seeds are compared on the same examples.
_SPLIT_SEED = 20250218
_VALIDATION_SHARE, _VALIDATION_MOST = 0.1, 1000
_LONGEST_ROW = 2**24  # characters; a file without line breaks is no JSONL
_STORY_FACTS_ROWS = {"train": 2200, "test": 1000}


@dataclass(frozen=True)
class Examples:
    """The examples of a run, in the order in which they are to be cut: the first n are a fair sample of n."""

    task: Task
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each split."""
        return {name: fingerprint(getattr(self, name)) for name in ("train", "validation", "test")}


def load_examples(config: DatasetConfig, data_root: str | None, train: int | None, test: int | None) -> Examples:
    """Load a data set and cut it.

    `test` is the split that papers report; `validation` is a seeded cut of train (by group), or
    validation.jsonl where dataset=jsonl has one. At most `train` and `test` examples are kept (None:
    all), the test examples spread evenly over the parts.

    Raises InputError that names the file and the line.
    """
    task = _task(config, _jsonl_file(config, "train"))
    rest: list[Example] = []
    validation: list[Example] = []
    for part in config.parts:
        own = _jsonl_validation(config)
        examples = _shuffled(_load(config, task, data_root, part, "train"))
        cut, kept = ([], examples) if own else _cut(examples, config.name)
        validation += _shuffled(list(_examples(task, read_jsonl(own), "validation", part))) if own else cut
        rest += kept
    if len(config.parts) > 1:
        rest, validation = _shuffled(rest), _shuffled(validation)
    tested = _test_examples(config, task, data_root, test)
    return Examples(task, tuple(rest[:train]), tuple(validation), tested)


def load_test(config: DatasetConfig, data_root: str | None, most: int | None) -> tuple[Task, tuple[Example, ...]]:
    """Load the test examples alone: those of load_examples, or the rows of a JSONL file that dataset.path names.

    Args:
        most: None for all.

    Raises InputError that names the file and the line.
    """
    if config.path is not None and not Path(config.path).is_dir():
        task = _task(config, Path(config.path))
        return task, tuple(_shuffled(list(_examples(task, read_jsonl(Path(config.path)), "test", config.name)))[:most])
    if config.path is not None and config.name in BUILT_IN:
        raise InputError(
            f"dataset.path={config.path}: a folder of {config.name} is given with data_root=, which holds {config.name}/; "
            "dataset.path names a file of rows."
        )
    train = _jsonl_file(config, "train")  # says which fields rows have, and in which form their answers are
    task = _task(config, train if train.is_file() else _jsonl_file(config, "test"))
    return task, _test_examples(config, task, data_root, most)


def load_unlabelled(config: DatasetConfig) -> tuple[Task, tuple[Example, ...], list[dict[str, Any]]]:
    """Load all rows of the JSONL file that dataset.path names, in its order, whether they are labelled or not.

    Returns the task, the examples, whose answers are not read (gold -1), and the rows as they are.
    """
    path = Path(str(config.path))
    task = _task(config, path, labelled=False)
    rows = list(read_jsonl(path))
    examples = [task.example(where, row, f"row-{i}", config.name, labelled=False) for i, (where, row) in enumerate(rows)]
    return task, tuple(examples), [row for _, row in rows]


def fingerprint(examples: Sequence[Example]) -> str:
    """Return SHA-256 (first 16 hex digits) over ids, fields, answers and groups in their order."""
    digest = hashlib.sha256()
    for e in examples:
        digest.update(json.dumps([e.id, dict(e.fields), e.gold, e.answer, e.group], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _test_examples(config: DatasetConfig, task: Task, data_root: str | None, most: int | None) -> tuple[Example, ...]:
    """Return a fair sample of the test split, spread evenly over the parts."""
    tested: list[Example] = []
    for index, part in enumerate(config.parts):
        share = None if most is None else most // len(config.parts) + (index < most % len(config.parts))
        tested += _shuffled(_load(config, task, data_root, part, config.test_split))[:share]
    return tuple(tested)


def _task(config: DatasetConfig, sample: Path, labelled: bool = True) -> Task:
    """Return the task; own data's is read off the rows of a sample file."""
    if config.name in BUILT_IN:
        return BUILT_IN[config.name]
    assert config.path is not None and config.gold is not None
    first = next(read_jsonl(sample))[1]
    for name in (*config.choices, *([config.gold] if labelled else [])):
        if name not in first:
            raise InputError(f"{sample}, line 1: the row lacks the field {name!r}; it has {', '.join(first)}.")
    others = tuple(name for name in first if name not in {*config.choices, config.gold})
    if not labelled or not config.choices or (form := _gold_form(config, sample)) is None:
        return Task(config.name, (), tuple(config.choices), others, gold=config.gold)
    forms: tuple[GoldForm, ...] = (form,)
    return Task(config.name, (), tuple(config.choices), others, gold=config.gold, gold_forms=forms, gold_words=_WORDS[form])


_WORDS: dict[GoldForm, str] = {"text": "the text", "name": "the letter or the field name", "index": "the index from 0"}


def _gold_form(config: DatasetConfig, sample: Path) -> GoldForm | None:
    """Return the form that fits the answers of most rows of the sample; None if none fits any.

    One form for all rows: numbers must not be read now as a text, now as an index. A row that does not fit it is refused.
    """
    gold = str(config.gold)
    rows = [row for _, row in read_jsonl(sample)]
    rows = [row for row in rows if all(row.get(name) is not None for name in (*config.choices, gold))]

    def fits(form: GoldForm) -> int:
        texts = ((row[gold], [str(row[name]) for name in config.choices]) for row in rows)
        return sum(gold_index(answer, config.choices, choices, [form]) is not None for answer, choices in texts)

    best = max(_WORDS, key=fits)
    return best if fits(best) else None


_Rows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]  # each row with the place it comes from


def _load(config: DatasetConfig, task: Task, data_root: str | None, part: str, split: str) -> list[Example]:
    if config.name == "story_facts":
        rows = _generated(split)
    elif config.name == "jsonl":
        rows = read_jsonl(_jsonl_file(config, split))
    elif data_root is not None:
        rows = read_jsonl(Path(data_root) / part / f"{split}.jsonl")
    else:
        rows = _read_hub(config, part, split)
    return list(_examples(task, rows, split, part))


def _generated(split: str) -> _Rows:
    kind: Literal["train", "test"] = "train" if split == "train" else "test"
    for index, row in enumerate(generate_rows(kind, _STORY_FACTS_ROWS[kind])):
        yield f"story_facts, {split} row {index}", dict(row)


def _examples(task: Task, rows: _Rows, split: str, part: str) -> Iterator[Example]:
    for index, (where, row) in enumerate(rows):
        yield task.example(where, row, f"{part}-{split}-{index}", part)


def _jsonl_file(config: DatasetConfig, split: str) -> Path:
    return Path(str(config.path)) / f"{split}.jsonl"


def _jsonl_validation(config: DatasetConfig) -> Path | None:
    if config.name != "jsonl":
        return None
    path = _jsonl_file(config, "validation")
    return path if path.is_file() else None


def read_jsonl(path: Path) -> _Rows:
    """Yield (place, row) of a JSONL file; raises InputError that names the file and the line."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such data file; it should hold one JSON object a line.")
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


def _read_hub(config: DatasetConfig, part: str, split: str) -> _Rows:
    """Yield (place, row) of a data set on the hub, at its pinned revision."""
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


def _shuffled(examples: list[Example]) -> list[Example]:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(examples))
    return [examples[i] for i in order]


def _cut(examples: list[Example], name: str) -> tuple[list[Example], list[Example]]:
    """Cut whole groups off for validation until its share is reached; return (validation, rest)."""
    wanted = min(max(1, round(_VALIDATION_SHARE * len(examples))), _VALIDATION_MOST)
    groups: set[str] = set()
    size: dict[str, int] = {}
    for example in examples:
        size[example.group] = size.get(example.group, 0) + 1
    taken = 0
    for group in dict.fromkeys(e.group for e in examples):
        if taken >= wanted:
            break
        groups.add(group)
        taken += size[group]
    validation = [e for e in examples if e.group in groups]
    rest = [e for e in examples if e.group not in groups]
    if not rest:
        raise InputError(f"dataset={name}: no row of train.jsonl is left after the cut for validation; give it more rows.")
    return validation, rest
