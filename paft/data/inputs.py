"""The inputs of a run: examples and pools, checked against each other before any model is loaded."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paft.config.adapter import find_adapter
from paft.config.schema import DatasetConfig, EvaluateConfig, ModelConfig, TrainConfig
from paft.data.chats import CHATS
from paft.data.checks import LeftOut, leave_out
from paft.data.hub import HUB
from paft.data.rows import Examples, Files, load_examples, load_test, load_unlabelled, unlabelled_rows
from paft.data.tasks.base import LABELS, LETTERS, Example, Task
from paft.prompts import PromptPool, PromptTemplate, TemplateError, find_pool
from paft.prompts.pool import Answer, check_fields
from paft.prompts.readers import read_prompts
from paft.prompts.seen import UNKNOWN, Seen, check_unseen
from paft.runtime.errors import InputError

_RAREST = 5  # labels that are counted where there are more than twice as many


@dataclass(frozen=True)
class Inputs:
    """Examples and pools of a training run."""

    examples: Examples
    train: PromptPool | None  # None: nothing is trained; a search chooses one of its prompts
    validation: PromptPool | None  # None: nothing is trained
    test: PromptPool
    adversarial: PromptPool | None  # an extra measure, which is not part of the run's identity
    seen: Seen | None  # test prompts that are trained on; None: nothing is trained
    left_out: LeftOut  # test rows that are not scored
    notes: tuple[str, ...]  # how rows are read, and what was asked for and is not there
    warnings: tuple[str, ...]  # what makes the numbers mean less
    shots: tuple[Example, ...] = ()  # training rows that are shown, with their answers, before each row that is scored

    @property
    def pools(self) -> dict[str, PromptPool]:
        """The pools by split, without the adversarial one."""
        pools = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: pool for split, pool in pools.items() if pool is not None}

    @property
    def templates(self) -> list[PromptTemplate]:
        """The prompts of all pools."""
        return [template for pool in self.pools.values() for template in pool.templates]


def load_inputs(config: TrainConfig) -> Inputs:
    """Load the examples and pools of a training run and check them against each other; raises InputError."""
    examples = load_examples(config.dataset, config.data_root, config.train_examples, config.eval_examples)
    dataset, task = config.dataset, examples.task
    _check_answers(dataset, task)
    examples = replace(examples, unlabelled=_unlabelled(config, task))
    train = validation = None
    if config.method.trains:
        train = _user_pool(config, task) if config.method.name == "user" else _train_pool(config, task)
        validation = _validation_pool(config, task, train)
        check_shown("train", train, examples.unlabelled)
    if train is not None and validation is not None and not config.evaluate:
        return _on_validation(config, examples, train, validation)
    whole_test = _pool(dataset, task, "test", config.prompts.test)
    test = whole_test.head(config.eval_prompts)
    adversarial = _pool(dataset, task, "adversarial", None) if "adversarial" in config.extra_measures else None
    assert examples.files is not None
    shots = examples.files.shots
    for split, pool in (("train", train), ("validation", validation), ("test", test)):
        if pool is not None:
            check_shown(split, pool, [*getattr(examples, split), *shots])
            if dataset.own_rows:
                _check_something_shown(split, pool, getattr(examples, split), task)
    seen, warnings = None, list(examples.files.remarks)
    if train is not None and validation is not None:
        n, allowed = len(test.templates), config.prompts.allow_seen
        seen = check_unseen(whole_test.templates, train.templates, "trained on", allowed, n)
        chose = check_unseen(whole_test.templates, validation.templates, "used to choose the checkpoint", allowed, n)
        if adversarial is not None:
            check_unseen(adversarial.templates, train.templates, "trained on", allowed, key="the adversarial prompts")
        if chose.total:
            warnings.append(
                f"{chose.total} of the {n} test prompts, or nearly these, chose the checkpoint, too, which flatters it."
            )
    warnings += _say_unlabelled(examples.unlabelled, examples.test)
    notes = (*examples.task.notes, *_say_shots(shots), *_fewer_rows(config.eval_examples, examples.test))
    by_name = {"training rows": (train, examples.train), "test rows": (test, examples.test)}
    notes += _say_labels(examples.task.labels, by_name) + _say_system(config.model, examples.task, by_name)
    files = replace(examples.files, train=(*(examples.files.train or ()), *examples.validation))
    tested, left_out = _scorable(examples.test, files, test, task, own=dataset.own_rows)
    examples = replace(examples, test=tested, files=None)
    return Inputs(examples, train, validation, test, adversarial, seen, left_out, notes, tuple(warnings), shots)


_NO_TEST = (
    "Scored on validation prompts and rows (evaluate=false), to choose settings by: these numbers are no test, and the first "
    "of the prompts chose the checkpoint, too."
)


def _on_validation(config: TrainConfig, examples: Examples, train: PromptPool, validation: PromptPool) -> Inputs:
    """Return the inputs of a run that looks at no test prompt and no test row: validation stands in for both.

    The rows that choose the checkpoint, and the prompt of a search, are not among those that are scored. A search has all
    others, which are fewer than those of a run that scores the test.

    Raises InputError if there are no validation prompts, or if a validation prompt is trained on.
    """
    if config.dataset.own_rows and config.prompts.validation is None:
        raise InputError(
            "evaluate=false scores the validation prompts, and there are none; give some: prompts.validation=FILE."
        )
    whole = _pool(config.dataset, examples.task, "validation", config.prompts.validation)
    pool = whole.head(config.eval_prompts)
    rows = examples.validation[config.validation.examples :][: config.eval_examples]
    if not rows:
        raise InputError(
            f"validation.examples={config.validation.examples} takes all {len(examples.validation)} validation rows, so "
            "evaluate=false has none to score; lower it."
        )
    assert examples.files is not None
    shots = examples.files.shots
    for split, shown, own in (("train", train, examples.train), ("validation", whole, examples.validation)):
        check_shown(split, shown, [*own, *shots])
        if config.dataset.own_rows:
            _check_something_shown(split, shown, own, examples.task)
    allowed, n = config.prompts.allow_seen, len(pool.templates)
    seen = check_unseen(whole.templates, train.templates, "trained on", allowed, n, key="the validation prompts")
    warnings = (*examples.files.remarks, _NO_TEST, *_say_unlabelled(examples.unlabelled, rows))
    notes = (*examples.task.notes, *_say_shots(shots), *_fewer_rows(config.eval_examples, rows))
    by_name = {"training rows": (train, examples.train), "validation rows": (pool, rows)}
    notes += _say_labels(examples.task.labels, by_name) + _say_system(config.model, examples.task, by_name)
    files = replace(examples.files, train=examples.train, test=examples.validation)
    scored, left_out = _scorable(rows, files, pool, examples.task, own=config.dataset.own_rows)
    first = config.validation.examples
    unscored = examples.validation[first + len(rows) :] if config.method.searches else ()
    examples = replace(examples, validation=(*examples.validation[:first], *unscored), test=scored, files=None)
    return Inputs(examples, train, validation, pool, None, seen, left_out, notes, warnings, shots)


@dataclass(frozen=True)
class EvaluationInputs:
    """Examples and pools of an evaluation."""

    task: Task
    examples: tuple[Example, ...]
    pool: PromptPool
    adversarial: PromptPool | None
    rows: list[dict[str, Any]] | None  # unchanged, where predictions are written for a file of rows
    seen: Seen | None  # test prompts that the adapter was trained on; None: nothing was trained, or nothing is measured
    left_out: LeftOut  # rows that are not scored
    notes: tuple[str, ...]  # how rows are read, and what was asked for and is not there
    warnings: tuple[str, ...]  # what makes the numbers mean less
    shots: tuple[Example, ...] = ()  # training rows that are shown, with their answers, before each row

    @property
    def pools(self) -> dict[str, PromptPool]:
        """The pools by split."""
        pools = {"test": self.pool, "adversarial": self.adversarial}
        return {split: pool for split, pool in pools.items() if pool is not None}

    @property
    def templates(self) -> list[PromptTemplate]:
        """The prompts of all pools."""
        return [template for pool in self.pools.values() for template in pool.templates]


def _check_rows_are_here(config: EvaluateConfig, trained_on: DatasetConfig) -> None:
    """Raise InputError if the rows of the adapter's training are asked for where their path names nothing."""
    path = config.dataset.path
    if path is not None and path == trained_on.path and not path.startswith(HUB) and not Path(path).exists():
        raise InputError(
            f"adapter={config.adapter}: it was trained on the rows in {path}, and there is no such file or folder here; name "
            "them, or other rows, with dataset.path=..."
        )


def load_evaluation_inputs(config: EvaluateConfig) -> EvaluationInputs:
    """Load the examples and pools of an evaluation and check them against each other; raises InputError."""
    dataset = config.dataset
    rows = files = None
    adapter = None if config.adapter is None else find_adapter(config.adapter)
    trained = {} if adapter is None else adapter.trained  # empty, too, for an adapter that PEFT or TRL made
    trained_on = DatasetConfig.model_validate(trained["dataset"]) if trained else None
    if config.output is None:
        if trained_on is not None:
            _check_rows_are_here(config, trained_on)
        task, examples, files = load_test(dataset, config.data_root, config.eval_examples, trained_on)
        shots = files.shots
        if adapter is not None and not trained:  # its training rows are not known
            files = replace(files, train=None)
    else:
        if dataset.path is None or not Path(dataset.path).is_file():
            raise InputError(
                f"output={config.output}: predictions are for a file of rows; name it with dataset.path=ROWS.jsonl."
            )
        task, examples, rows, shots = load_unlabelled(dataset, config.data_root, trained_on)
    _check_answers(dataset, task)
    source = config.prompts.test
    if source is None and dataset.own_rows and adapter is not None and trained:
        source = str(_run_of(adapter.folder) / "prompts" / "test.yaml")  # the test prompts of the adapter's run
        if not Path(source).is_file():
            raise InputError(
                f"prompts.test has no value, and {source} is not there; give a file of prompts with prompts.test=..."
            )
    whole_pool = _pool(dataset, task, "test", source)
    pool = whole_pool.head(config.eval_prompts)
    adversarial_source = config.prompts.adversarial
    adversarial = None if adversarial_source is None else _pool(dataset, task, "adversarial", adversarial_source)
    for split, used in (("test", pool), ("adversarial", adversarial)):
        if used is not None:
            check_shown(split, used, [*examples, *shots])
            if dataset.own_rows and files is not None:
                _check_something_shown(split, used, examples, task)
    by_name = {"rows": (pool, examples)}
    notes = (*task.notes, *_say_shots(shots), *_say_system(config.model, task, by_name))
    if files is None:  # nothing is measured
        return EvaluationInputs(task, examples, pool, adversarial, rows, None, LeftOut(), notes, (), shots)
    notes += _say_labels(task.labels, by_name)
    seen = None if adapter is None else UNKNOWN
    if adapter is not None and trained:
        seen = _seen(config, adapter.folder, whole_pool, len(pool.templates), adversarial)
    notes += _fewer_rows(config.eval_examples, examples)
    tested, left_out = _scorable(examples, files, pool, task, own=dataset.path is not None)
    if adapter is None and left_out.training_rows is None:  # a base model was trained on no row
        left_out = replace(left_out, training_rows=0)
    return EvaluationInputs(task, tested, pool, adversarial, rows, seen, left_out, notes, files.remarks, shots)


def _seen(config: EvaluateConfig, adapter: Path, pool: PromptPool, n: int, adversarial: PromptPool | None) -> Seen:
    """Count the test prompts that an adapter was trained on, by the prompts beside it; raises InputError if any was.

    Args:
        pool: the whole test pool, of which the first `n` are used.
    """
    allowed, prompts = config.prompts.allow_seen, _run_of(adapter) / "prompts"
    trained, chose = (_prompts_of_the_run(prompts / f"{split}.yaml") for split in ("train", "validation"))
    seen = UNKNOWN
    if trained is not None:
        seen = check_unseen(pool.templates, trained, f"trained on ({prompts / 'train.yaml'})", allowed, n)
        if adversarial is not None:
            check_unseen(adversarial.templates, trained, "trained on", allowed, key="prompts.adversarial")
    if chose is not None:
        check_unseen(pool.templates, chose, "used to choose the checkpoint", allowed, n)
    return seen


def _run_of(adapter: Path) -> Path:
    """Return the folder of an adapter's run, which holds the adapter's own, also where that is the folder one is in."""
    return Path(os.path.normpath(adapter / ".."))


def _prompts_of_the_run(file: Path) -> list[PromptTemplate] | None:
    """Return the prompts that lie in the folder of an adapter's run; None if they do not."""
    if not file.is_file():
        return None
    try:
        return [PromptTemplate(str(row.get("text")), id=str(row.get("id") or where)) for where, row in read_prompts(file).rows]
    except TemplateError as error:
        raise InputError(f"{file}: {error}; put back the prompts of the run, or delete the file.") from None


def _scorable(
    drawn: tuple[Example, ...], files: Files, pool: PromptPool, task: Task, own: bool
) -> tuple[tuple[Example, ...], LeftOut]:
    """Return the drawn test rows without those that cannot tell right from wrong, or were trained on."""
    shown = frozenset[str]().union(*(template.fields for template in pool.templates))
    return leave_out(drawn, files.test, files.train, shown - {*task.choice_fields, *([LABELS] if task.labels else [])}, own)


def _say_shots(shots: Sequence[Example]) -> tuple[str, ...]:
    """Return a note on the training rows that are shown before each row, if there are any."""
    if not shots:
        return ()
    rows = "1 training row with its answer" if len(shots) == 1 else f"{len(shots)} training rows with their answers"
    return (f"shots: {rows} before each row, the same for all rows that are scored, drawn anew in training",)


def _unlabelled(config: TrainConfig, task: Task) -> tuple[Example, ...]:
    """Return the rows of loss.unlabelled; raises InputError if there are fewer than an update holds."""
    if config.loss.unlabelled is None:
        return ()
    try:
        rows = unlabelled_rows(Path(config.loss.unlabelled), task, config.dataset.name)
    except InputError as error:
        raise InputError(f"loss.unlabelled: {error}") from None
    n = config.loss.unlabelled_per_update
    if len(rows) < n:
        raise InputError(f"loss.unlabelled_per_update={n}: {config.loss.unlabelled} has {len(rows)} rows; lower it.")
    return rows


def _say_labels(labels: Sequence[str], shown: Mapping[str, tuple[PromptPool | None, Sequence[Example]]]) -> tuple[str, ...]:
    """Return how often each label is right, by what rows are called; of many labels the rarest alone.

    Args:
        labels: of a classification, in the order of the choices; none of other rows.
        shown: by what rows are called, the pool that shows them, and the rows.
    """
    lines = []
    for name, (pool, examples) in shown.items():
        if labels and pool is not None:
            there = Counter(example.gold for example in examples)
            counts = [(label, there[place]) for place, label in enumerate(labels)]
            rarest = sorted(counts, key=lambda pair: pair[1])[:_RAREST]
            few = len(counts) <= 2 * _RAREST
            said = ", ".join(f"{label} {n:,}" for label, n in (counts if few else rarest))
            lines.append(f"labels of {len(examples):,} {name}: {'' if few else 'the rarest are '}{said}")
    return tuple(lines)


def _say_system(
    model: ModelConfig, task: Task, shown: Mapping[str, tuple[PromptPool | None, Sequence[Example]]]
) -> tuple[str, ...]:
    """Return a note on chats whose system's turn the model does not see, if there are any.

    Args:
        shown: by what rows are called, the pool that shows them, and the rows.
    """
    if task.gold not in CHATS or model.system_prompt is not None:
        return ()
    hidden = []
    for name, (pool, examples) in shown.items():
        if pool is not None and not any("system" in template.fields for template in pool.templates):
            n = sum(example.fields["system"] != "" for example in examples)
            hidden += [f"{n:,} of {len(examples):,} {name}"] if n else []
    if not hidden:
        return ()
    return (
        f"chats: {' and '.join(hidden)} begin with a system's turn, which no prompt shows; the model sees it where a prompt "
        "shows {system}, or where all are alike as model.system_prompt",
    )


def _say_unlabelled(unlabelled: Sequence[Example], tested: Sequence[Example]) -> list[str]:
    """Return a warning if rows that are scored are among those that predictions are to agree on."""
    shown = {tuple(sorted(example.fields.items())) for example in unlabelled}
    n = sum(tuple(sorted(example.fields.items())) in shown for example in tested)
    if not n:
        return []
    return [
        f"{n} of the {len(tested)} rows that are scored are among the unlabelled rows of loss.unlabelled, so that training saw "
        "them without their answers (transduction)."
    ]


def _fewer_rows(asked: int | None, drawn: Sequence[Example]) -> tuple[str, ...]:
    """Return a note if there are fewer test rows than were asked for."""
    return (
        (f"test rows: {asked:,} were asked for (eval_examples), {len(drawn):,} are there",) if len(drawn) < (asked or 0) else ()
    )


def answer_kind(dataset: DatasetConfig, task: Task) -> Answer:
    """Return whether prompts are answered with a letter or a text; free-form answers are texts."""
    return dataset.answer if task.has_choices else "text"


def _check_answers(dataset: DatasetConfig, task: Task) -> None:
    """Refuse a form of answer that the task's rows do not have, and a metric that cannot score them."""
    choices = len(task.labels) or len(task.choice_fields)
    if dataset.answer == "letter" and choices > len(LETTERS):
        raise InputError(f"dataset.answer=letter: {choices} choices are more than there are letters; use dataset.answer=text.")
    if dataset.answer == "letter" and not task.has_choices and not dataset.own_rows:
        raise InputError(f"dataset.answer=letter: the rows of {dataset.name} have no options; use dataset.answer=text.")
    if dataset.metric == "choice" and not task.has_choices:
        raise InputError(
            "dataset.metric=choice needs choices and these rows have none; use dataset.metric=exact or last_number, f1, regex "
            "or a function of yours, name the options with dataset.choices, or take the answers as labels, "
            "dataset.labels=from_gold."
        )
    if dataset.metric != "choice" and answer_kind(dataset, task) == "letter":
        raise InputError(
            f"dataset.metric={dataset.metric} compares texts, and dataset.answer=letter asks for letters; use "
            "dataset.answer=text or dataset.metric=choice."
        )
    if choices and dataset.metric not in ("choice", "exact", "last_number"):
        raise InputError(
            f"dataset.metric={dataset.metric} scores free-form answers, and these rows have choices; use dataset.metric=choice "
            "or name no dataset.choices."
        )


def _check_something_shown(split: str, pool: PromptPool, examples: Sequence[Example], task: Task) -> None:
    """Refuse one's own rows that are empty in all that the prompts show of them, besides the options."""
    shown = frozenset[str]().union(*(template.fields for template in pool.templates)) - {*task.choice_fields, *LETTERS, LABELS}
    for example in examples:
        texts = {name: example.fields[name] for name in shown if name in example.fields}
        if texts and not any(text.strip() for text in texts.values()):
            what = " and ".join(map(repr, sorted(texts)))
            raise InputError(
                f"{example.where}: {what} {'is' if len(texts) == 1 else 'are'} empty, and the {split} prompts show nothing "
                "else of the row; fill it in, or leave the row out."
            )


def check_shown(split: str, pool: PromptPool, examples: Sequence[Example]) -> None:
    """Refuse rows that lack an optional field which a template shows."""
    shown = frozenset[str]().union(*(template.fields for template in pool.templates))
    for example in examples:
        # Of options that differ in number, templates show as many as the row has.
        missing = shown - example.fields.keys() - (frozenset(LETTERS) if example.choices_vary else frozenset())
        if cannot := missing & {*example.unshown}:
            raise InputError(
                f"{example.where}: the field {min(cannot)!r} is a list or an object, and the {split} prompts can only show "
                "texts and numbers."
            )
        if missing:
            lacking = sum(min(missing) not in other.fields for other in examples)
            others = f" (and {lacking - 1} more rows lack it)" if lacking > 1 else ""
            raise InputError(
                f"{example.where}: the row lacks the field {min(missing)!r}, which the {split} prompts show{others}; where "
                'there is nothing to show, write an empty text, "": null counts as missing.'
            )


def _pool(dataset: DatasetConfig, task: Task, split: str, source: str | None) -> PromptPool:
    """Load the pool of a split.

    Args:
        source: a file, or the name of a shipped pool (composed, adversarial ...); None: the shipped pool of the split.
    """
    return find_pool(source, task.pools, split, task.form(answer_kind(dataset, task), dataset.options), task.aliases)


def _validation_pool(config: TrainConfig, task: Task, train: PromptPool) -> PromptPool:
    """Load the prompts that choose the checkpoint; test prompts never do."""
    own_rows, source = config.dataset.own_rows, config.prompts.validation
    if source is None and own_rows:
        source = config.prompts.train  # the user's rows without validation prompts
    if source is None and own_rows:
        return train  # method=user: its one prompt is all there is
    return _pool(config.dataset, task, "validation", source).head(config.validation.prompts)


def _train_pool(config: TrainConfig, task: Task) -> PromptPool:
    """Load the training pool, or a draw of train_prompts of its prompts."""
    pool, n = _pool(config.dataset, task, "train", config.prompts.train), config.train_prompts
    if n is not None and n > len(pool.templates):
        raise InputError(f"train_prompts={n}: the training pool has {len(pool.templates)} prompts.")
    return pool if n is None else pool.drawn(n, config.seed)


def _user_pool(config: TrainConfig, task: Task) -> PromptPool:
    """Return the pool of method=user, which has one prompt."""
    if config.method.prompt is None:
        return _pool(config.dataset, task, "user", None)
    try:
        template = PromptTemplate(config.method.prompt.replace("\\n", "\n"), id="user")
    except TemplateError as error:
        raise InputError(f"method.prompt: {error}.") from None
    form = task.form(answer_kind(config.dataset, task), config.dataset.options)
    check_fields("method.prompt", template, form)
    return PromptPool("user", (template,), form.answer, form.options)
