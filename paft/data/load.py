"""Everything a run reads: examples and pools, checked against each other before any model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paft.config import TrainConfig
from paft.data.rows import Examples, load_examples
from paft.data.task import LETTERS, Example
from paft.errors import InputError
from paft.prompts import PromptPool, PromptTemplate, TemplateError, load_pool, shipped_pool_path
from paft.prompts.pool import Answer, check_fields


@dataclass(frozen=True)
class Inputs:
    """Examples and pools of a run. train and validation are None where nothing is trained."""

    examples: Examples
    train: PromptPool | None
    validation: PromptPool | None
    test: PromptPool

    @property
    def pools(self) -> dict[str, PromptPool]:
        """The pools by split."""
        pools = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: pool for split, pool in pools.items() if pool is not None}


def load_inputs(config: TrainConfig) -> Inputs:
    """Load and check what a run reads; raises InputError."""
    examples = load_examples(config.dataset, config.data_root, config.train_examples, config.eval_examples)
    _check_answers(config, examples)
    train = validation = None
    if config.method.name != "base":
        paft = config.method.name == "paft"
        train = _pool(config, examples, "train", config.prompts.train) if paft else _user_pool(config, examples)
        given = config.prompts.validation
        if given is None and config.dataset.name == "jsonl":
            # Own data without validation prompts: the training prompts choose the checkpoint; unseen ones never may.
            given = config.prompts.train
        alone = given is None and config.dataset.name == "jsonl"  # method=user: its one prompt is all there is
        validation = train if alone else _pool(config, examples, "validation", given).head(config.validation.prompts)
    test = _pool(config, examples, "test", config.prompts.test).head(config.eval_prompts)
    inputs = Inputs(examples, train, validation, test)
    for split, pool in inputs.pools.items():
        _check_shown(split, pool, getattr(examples, split))
    return inputs


def answer_kind(config: TrainConfig, examples: Examples) -> Answer:
    """Return what prompts are answered with; free-form answers are texts."""
    return config.dataset.answer if examples.task.choice_fields else "text"


def _check_answers(config: TrainConfig, examples: Examples) -> None:
    """Refuse answers that these rows do not have, and a metric that cannot score them."""
    choices = len(examples.task.choice_fields)
    if config.dataset.answer == "letter" and choices > len(LETTERS):
        raise InputError(f"dataset.answer=letter: {choices} choices are more than there are letters; use dataset.answer=text.")
    if config.dataset.answer == "letter" and not examples.task.choice_fields and config.dataset.name != "jsonl":
        raise InputError(f"dataset.answer=letter: the rows of {config.dataset.name} have no options; use dataset.answer=text.")
    if config.dataset.metric == "choice" and not examples.task.choice_fields:
        raise InputError(
            "dataset.metric=choice needs choices and these rows have none; use dataset.metric=exact or last_number, "
            "or name the options with dataset.choices."
        )
    if config.dataset.metric != "choice" and answer_kind(config, examples) == "letter":
        raise InputError(
            f"dataset.metric={config.dataset.metric} compares texts, and dataset.answer=letter asks for letters; use "
            "dataset.answer=text or dataset.metric=choice."
        )


def _check_shown(split: str, pool: PromptPool, examples: Sequence[Example]) -> None:
    """Refuse rows that lack an optional field which a template shows."""
    shown = frozenset[str]().union(*(template.fields for template in pool.templates))
    for example in examples:
        if missing := shown - example.fields.keys():
            raise InputError(f"{example.where}: the row lacks the field {min(missing)!r}, which the {split} prompts show.")


def _pool(config: TrainConfig, examples: Examples, split: str, given: str | None) -> PromptPool:
    """Load a user's pool, or the shipped one of the split."""
    dataset, task = config.dataset, examples.task
    answer = answer_kind(config, examples)
    path = Path(given) if given is not None else shipped_pool_path(dataset.name, answer, dataset.options, split)
    return load_pool(
        path,
        fields=task.fields,
        choice_fields=task.choice_fields,
        optional_fields=task.optional_fields,
        answer=answer,
        options=dataset.options,
        aliases=task.aliases,
    )


def _user_pool(config: TrainConfig, examples: Examples) -> PromptPool:
    """Return a pool of the one fixed prompt."""
    if config.method.prompt is None:
        return _pool(config, examples, "user", None)
    try:
        template = PromptTemplate(config.method.prompt.replace("\\n", "\n"), id="user")
    except TemplateError as error:
        raise InputError(f"method.prompt: {error}.") from None
    task = examples.task
    check_fields("method.prompt", template, task.fields, task.choice_fields, task.optional_fields, config.dataset.options)
    return PromptPool("user", (template,), answer_kind(config, examples), config.dataset.options)
