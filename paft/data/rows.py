"""Loading the rows of a data set, from the hub or from a folder, as train, validation and test examples."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from paft.config.schema import DatasetConfig
from paft.data.checks import check_answers, never_first, repeated
from paft.data.files import Rows, file_of, read_rows
from paft.data.hub import hub_rows, read_pinned
from paft.data.own_rows import Source, own_task
from paft.data.splits import cut_validation, fingerprint, shuffled
from paft.data.tasks import BUILT_IN
from paft.data.tasks.base import Example, Task
from paft.runtime.errors import InputError


@dataclass(frozen=True)
class Files:
    """All rows of the training file and of the test file, of which a run draws some, and remarks on them.

    train is None where the training rows are not at hand. shots are the training rows that are shown, with their answers,
    before each row that is scored.
    """

    train: tuple[Example, ...] | None
    test: tuple[Example, ...]
    remarks: tuple[str, ...] = ()
    shots: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Examples:
    """The examples of a run, in a fixed pseudo-random order: the first n of train or validation are a fair sample."""

    task: Task
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    files: Files | None = field(default=None, compare=False, repr=False)  # what they were drawn from; None: dropped again
    unlabelled: tuple[Example, ...] = ()  # further training rows, whose answers are not read

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each split."""
        splits = ("train", "validation", "test", *(["unlabelled"] if self.unlabelled else []))
        return {name: fingerprint(getattr(self, name)) for name in splits}


def load_examples(config: DatasetConfig, data_root: str | None, train: int | None, test: int | None) -> Examples:
    """Load a data set as train, validation and test examples.

    `test` is the split that papers report; `validation` is a cut of train (by group), the same for every run's seed, or the
    validation rows where dataset=jsonl has some. At most `train` and `test` examples are kept (None: all), the test examples
    spread evenly over the parts.

    Raises InputError that names the file and the line.
    """
    if config.own_rows and (path := Path(str(config.path))).is_file():
        kind = path.suffix or ".jsonl"
        raise InputError(f"{path}: this is a file; give the folder that holds train{kind} and test{kind}.")
    sample = _source(config, "train")
    task, remarks = _task(config, sample, [_source(config, config.test_split), _validation(config)])
    train_file, rest, validation = _train_and_validation(config, task, data_root)
    tested, whole = _test_examples(config, task, data_root, test)
    if sample is not None:
        remarks += never_first(sample.name, task, train_file)
        remarks += never_first(_name_of_test(config), task, whole)
        remarks += [*repeated(sample.name, train_file), *repeated(_name_of_test(config), whole), *_not_read(config)]
    if data_root is not None and (train is None or train > len(rest)):
        remarks += _fewer_than_published(data_root, task, train_file)
    files = Files(tuple(train_file), tuple(whole), tuple(remarks), _shots(config, rest[:train]))
    return Examples(task, tuple(rest[:train]), tuple(validation), tested, files)


def _train_and_validation(
    config: DatasetConfig, task: Task, data_root: str | None
) -> tuple[list[Example], list[Example], list[Example]]:
    """Return the rows of the training file, those of them that are trained on, and the validation rows, shuffled."""
    train_file: list[Example] = []
    rest: list[Example] = []
    validation: list[Example] = []
    own_validation = _validation(config)
    for part in config.parts:
        examples = shuffled(_load(config, task, data_root, part, "train"))
        train_file += examples
        if own_validation is None:
            cut, remaining = cut_validation(examples, config.name)
        else:
            cut, remaining = shuffled(_labelled(task, own_validation, "validation", part)), examples
        validation += cut
        rest += remaining
    if len(config.parts) > 1:
        rest, validation = shuffled(rest), shuffled(validation)
    return train_file, rest, validation


def _fewer_than_published(data_root: str, task: Task, train_file: Sequence[Example]) -> list[str]:
    """Return a remark if a run on the whole training split has fewer rows than there are of it."""
    published = task.published_rows
    if published is None or len(train_file) >= published:
        return []
    return [
        f"data_root={data_root} holds {len(train_file):,} of the {published:,} published training rows of {task.name}, "
        "so that this is not training on the whole set."
    ]


def _shots(config: DatasetConfig, train: Sequence[Example]) -> tuple[Example, ...]:
    """Return the training rows that are shown before each row that is scored: the same for all rows, prompts and models."""
    if config.shots and config.shots >= len(train):
        raise InputError(
            f"dataset.shots={config.shots}: there are {len(train)} training rows, and none is shown before itself; lower it to "
            f"{len(train) - 1} or less."
        )
    return tuple(train[: config.shots])


def load_test(
    config: DatasetConfig, data_root: str | None, most: int | None, trained_on: DatasetConfig | None = None
) -> tuple[Task, tuple[Example, ...], Files]:
    """Load only the test examples: those of load_examples, or the rows of a file that dataset.path names.

    Args:
        most: how many examples to load at most; None for all.
        trained_on: the data set that the adapter was trained on, whose folder may hold the training rows; None: no adapter.

    Returns the task, the examples, and the files that these are drawn from.

    Raises InputError that names the file and the line.
    """
    near = _near(config, trained_on)
    if (file := _one_file(config)) is not None:
        task, remarks = _task(config, file)
        whole = _labelled(task, file, "test", config.name)
        remarks += [*never_first(file.name, task, whole), *repeated(file.name, whole)]
        # The hub is not asked for a file's sake.
        at_hand = config.own_rows or data_root is not None or task.generate is not None
        train = _training_rows(near, data_root) if at_hand else None
        files = Files(train, tuple(whole), tuple(remarks), _shots_at_hand(config, near, data_root))
        return task, tuple(shuffled(whole)[:most]), files
    if config.path is not None and config.name in BUILT_IN:
        raise InputError(
            f"dataset.path={config.path}: a folder of {config.name} is given with data_root=, which holds {config.name}/; "
            "dataset.path names a file of rows."
        )
    sample = _if_there(config, "train") or _source(config, config.test_split)  # shows the fields and the form of the answers
    task, remarks = _task(config, sample, [_source(config, config.test_split), _validation(config)])
    tested, whole = _test_examples(config, task, data_root, most)
    if config.own_rows:
        remarks += never_first(_name_of_test(config), task, whole)
        remarks += repeated(_name_of_test(config), whole)
    shots = _shots_at_hand(config, near, data_root)
    if task.generate is not None:
        return task, tested, Files((), tuple(whole), tuple(remarks), shots)  # its test rows are never training rows
    return task, tested, Files(_training_rows(near, data_root), tuple(whole), tuple(remarks), shots)


def _near(config: DatasetConfig, trained_on: DatasetConfig | None) -> DatasetConfig:
    """Return where the training rows of an evaluation may be: where the adapter's were, else beside the test rows."""
    if trained_on is not None and trained_on.name == config.name and trained_on.path is not None:
        return config.model_copy(update={"path": trained_on.path})
    return config.model_copy(update={"path": None}) if _one_file(config) is not None else config


def _shots_at_hand(config: DatasetConfig, near: DatasetConfig, data_root: str | None) -> tuple[Example, ...]:
    """Return the shots of an evaluation; raises InputError if there are no training rows to take them from."""
    if not config.shots:
        return ()
    if near.own_rows and (near.path is None or _if_there(near, "train") is None):
        beside = "a file of test rows" if _one_file(config) is not None else "without them"
        raise InputError(
            f"dataset.shots={config.shots} needs training rows, and dataset.path={config.path} is {beside}; give a folder that "
            "holds train and test rows."
        )
    task, _ = _task(near, _if_there(near, "train"), [_if_there(near, config.test_split), _validation(near)])
    return _shots(config, _train_and_validation(near, task, data_root)[1])


def load_unlabelled(
    config: DatasetConfig, data_root: str | None = None, trained_on: DatasetConfig | None = None
) -> tuple[Task, tuple[Example, ...], list[dict[str, Any]], tuple[Example, ...]]:
    """Load all rows of the file that dataset.path names, in its order, whether they are labelled or not.

    Returns the task, the examples, whose answers are not read (gold -1), the rows unchanged, and the shots.
    """
    file = _one_file(config)
    assert file is not None
    task, _ = _task(config, file, labelled=False)
    rows = list(file.rows())
    examples = [task.example(where, row, f"row-{i}", config.name, labelled=False) for i, (where, row) in enumerate(rows)]
    return task, tuple(examples), [row for _, row in rows], _shots_at_hand(config, _near(config, trained_on), data_root)


def unlabelled_rows(path: Path, task: Task, part: str) -> tuple[Example, ...]:
    """Return the rows of a file as examples of a task whose answers are not read; raises InputError naming file and line."""
    rows = enumerate(read_rows(path))
    return tuple(task.example(where, row, f"unlabelled-{i}", part, labelled=False) for i, (where, row) in rows)


def _name_of_test(config: DatasetConfig) -> str:
    source = _source(config, config.test_split)
    return "" if source is None else source.name


def _test_examples(
    config: DatasetConfig, task: Task, data_root: str | None, most: int | None
) -> tuple[tuple[Example, ...], list[Example]]:
    """Return a fair sample of the test split, spread evenly over the parts, and the whole split."""
    examples: list[Example] = []
    whole: list[Example] = []
    for index, part in enumerate(config.parts):
        share = None if most is None else most // len(config.parts) + (index < most % len(config.parts))
        of_part = shuffled(_load(config, task, data_root, part, config.test_split))
        examples += balanced_sample(of_part, share) if config.balanced else of_part[:share]
        whole += of_part
    return tuple(examples), whole


def balanced_sample(examples: Sequence[Example], most: int | None) -> list[Example]:
    """Return some examples in their order, of which each choice is the right one as often, as far as there are enough.

    Of a few hundred examples one letter may be right a third of the time, where chance is a quarter: a model that answers
    nothing else then seems to have learnt something.
    """
    before: Counter[int] = Counter()
    turns = []  # how many examples with the same right choice come before
    for example in examples:
        turns.append(before[example.gold])
        before[example.gold] += 1
    chosen = sorted(range(len(examples)), key=lambda place: (turns[place], place))[:most]
    return [examples[place] for place in sorted(chosen)]


def _training_rows(config: DatasetConfig, data_root: str | None) -> tuple[Example, ...] | None:
    """Return the rows of the training file, for comparison with test rows; None if they are not at hand."""
    try:
        sample = None if config.path is None else _if_there(config, "train")
        if config.own_rows:
            there = sample is not None
        elif data_root is not None:
            there = all((Path(data_root) / part / "train.jsonl").is_file() for part in config.parts)
        else:
            there = True
        task = _task(config, sample, [_validation(config)] if sample else [])[0] if there else None
        parts = [_load(config, task, data_root, part, "train") for part in config.parts] if task is not None else None
    except InputError:  # an evaluation can do without; but the hub, which gave the test rows, has these, too
        if not config.own_rows and data_root is None:
            raise
        return None
    return None if parts is None else tuple(itertools.chain.from_iterable(parts))


def _task(
    config: DatasetConfig, sample: Source | None, others: Sequence[Source | None] = (), labelled: bool = True
) -> tuple[Task, list[str]]:
    """Return the task of a data set, and remarks; that of the user's own rows is read off a sample and the other splits."""
    task = BUILT_IN.get(config.name)
    if task is not None and (task.generate is not None or config.hub is not None):
        return task, []
    if not config.own_rows:
        raise InputError(f"dataset.name={config.name}: choose a data set with dataset=, your own with dataset=jsonl.")
    assert sample is not None
    return own_task(config, sample, [source for source in others if source is not None], labelled)


def _source(config: DatasetConfig, split: str) -> Source | None:
    """Return the rows of a split of one's own data set; None for a built-in one.

    Raises InputError that names the file, or the splits that there are on the hub.
    """
    if not config.own_rows:
        return None
    hub = hub_rows(config.path)
    if hub is None:
        path = file_of(Path(str(config.path)), split)
        return Source(str(path), partial(read_rows, path))
    if split not in hub.splits:
        way = f"; choose the one to score with dataset.test_split={hub.splits[-1]}" if split == config.test_split else ""
        raise InputError(f"dataset.path={hub.path}: there is no split {split}, but {', '.join(hub.splits)}{way}.")
    return Source(f"{hub.path}, {split}", partial(hub.rows, split))


def _not_read(config: DatasetConfig) -> list[str]:
    """Return a remark on a file of validation rows under another name than validation."""
    if hub_rows(config.path) is not None or _validation(config) is not None:
        return []
    folder = Path(str(config.path))
    others = [path for name in ("val", "valid", "dev", "eval") if (path := file_of(folder, name)).is_file()]
    return [f"{others[0]} is not read: rows that choose the checkpoint are in validation{others[0].suffix}."] if others else []


def _if_there(config: DatasetConfig, split: str) -> Source | None:
    """Return the rows of a split of one's own data set, None where it has none."""
    if not config.own_rows:
        return None
    hub = hub_rows(config.path)
    there = split in hub.splits if hub is not None else file_of(Path(str(config.path)), split).is_file()
    return _source(config, split) if there else None


def _validation(config: DatasetConfig) -> Source | None:
    """Return the rows that choose the checkpoint, where one's own data set has some that are not scored."""
    return None if config.test_split == "validation" else _if_there(config, "validation")


def _one_file(config: DatasetConfig) -> Source | None:
    """Return the rows of the file that dataset.path names; None if it names a folder, the hub or nothing."""
    if config.path is None or hub_rows(config.path) is not None or Path(config.path).is_dir():
        return None
    path = Path(config.path)
    return Source(str(path), partial(read_rows, path))


def _load(config: DatasetConfig, task: Task, data_root: str | None, part: str, split: str) -> list[Example]:
    rows: Rows
    if task.generate is not None:
        rows = ((f"{task.name}, {split} row {i}", row) for i, row in enumerate(task.generate(split)))
    elif (source := _source(config, split)) is not None:
        return _labelled(task, source, split, part)
    elif data_root is not None:
        rows = read_rows(Path(data_root) / part / f"{split}.jsonl")
    else:
        assert config.hub is not None
        rows = read_pinned(config.hub, config.name, part, split)
    return list(_examples(task, rows, split, part))


def _labelled(task: Task, source: Source, split: str, part: str) -> list[Example]:
    """Return the rows of a file of one's own; raises InputError if the right answer is always the same."""
    examples = list(_examples(task, source.rows(), split, part))
    check_answers(source.name, task, examples)
    return examples


def _examples(task: Task, rows: Rows, split: str, part: str) -> Iterator[Example]:
    for index, (where, row) in enumerate(rows):
        yield task.example(where, row, f"{part}-{split}-{index}", part)
