"""The Python API: paft.train, paft.evaluate and paft.compare do what the commands of these names do.

    import paft

    one = paft.train(rows[:100], test_rows=rows[100:], choices=["A", "B"], gold="answer",
                     prompts=templates[:20], test_prompts=templates[20:], method={"name": "user", "prompt": templates[0]})
    many = paft.train(rows[:100], ..., method="paft")
    print(paft.compare(many, one).verdict)
    many.per_prompt()  # a data frame: the worst prompts first

A call is a run: it prints its plan, leaves its folder under output_root, resumes after an interruption, and is skipped where
the same run has finished. With several devices a script calls it under `if __name__ == "__main__":`, because each device gets
a process of its own.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from paft.config.command import literal
from paft.config.compose import CONF, compose_evaluation, compose_training
from paft.config.hints import in_one_sentence, key_of
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.data.hub import HUB
from paft.jobs.launch import launch_evaluation, launch_training
from paft.jobs.own_data import Prompts, Rows, prompts_file, rows_file, rows_folder
from paft.jobs.preflight import check_evaluation, check_run
from paft.jobs.settings import overrides_of
from paft.reporting.results import Results
from paft.runtime.errors import InputError

if TYPE_CHECKING:
    from paft.reporting.compare import Compared

RunLike: TypeAlias = Results | str | PathLike[str]

_TRAIN_PARAMETERS = (
    "rows", "test_rows", "validation_rows", "prompts", "test_prompts", "validation_prompts", "choices", "labels", "gold",
    "answer", "options", "metric", "shots", "allow_seen", "overrides",
)  # fmt: skip
_EVALUATE_PARAMETERS = (
    "adapter", "rows", "prompts", "adversarial_prompts", "choices", "labels", "gold", "answer", "options", "metric", "shots",
    "allow_seen", "overrides",
)  # fmt: skip


def train(
    rows: Rows | None = None,
    *,
    test_rows: Rows | None = None,
    validation_rows: Rows | None = None,
    prompts: Prompts | None = None,
    test_prompts: Prompts | None = None,
    validation_prompts: Prompts | None = None,
    choices: Sequence[str] | None = None,
    labels: Sequence[str] | Literal["from_gold"] | None = None,
    gold: str | None = None,
    answer: Literal["letter", "text"] | None = None,
    options: Literal["shown", "hidden"] | None = None,
    metric: str | None = None,
    shots: int | None = None,
    allow_seen: bool = False,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Results:
    """Fine-tune a model under many prompts and measure it on prompts and rows that it has not seen.

    Args:
        rows: what to train on: dicts, a data frame, a file (.jsonl .json .csv .parquet), a folder with train and test rows,
            or a data set on the hub, hub:ORG/NAME. None: a built-in data set, dataset="story_facts" unless another is named.
        test_rows: what to test on; a folder has them already.
        validation_rows: what chooses the checkpoint; None: a tenth of the training rows, which are then not trained on.
        prompts: templates to train under, with fields in braces: "{question}\\nAnswer:". A list, a PromptPool, a file, or the
            name of a shipped pool (composed). None: the shipped pool of the data set.
        test_prompts: templates to test under; the model must not have seen them.
        validation_prompts: templates under which the checkpoint is chosen; None: those of `prompts` for rows of one's own.
        choices: the fields of a row that hold its options, or the one that lists them; None: answers are free-form.
        labels: the options, where they are the same for every row; from_gold takes the answers that there are.
        gold: the field with the right answer: a letter, an index from 0, or a text. None: answer, label or another usual name.
        answer: what the prompts ask for, the letter of an option or a text.
        options: whether the prompts show the options.
        metric: how free-form answers are scored: exact, last_number, f1, regex (with dataset={"pattern": ...}), or a function
            of yours, "my_metrics.py:score".
        shots: training rows that are shown with their answers before each row.
        allow_seen: whether test prompts may be among those that are trained on; the results then say how many are.
        overrides: what the command takes, as it is typed there: ["optim.lr=1e-3", "experiment=table1"].
        **settings: the names of conf/train.yaml: K=8, T=1, seed=1, train_examples=400, optim={"lr": 1e-3},
            method="user", model="llama3_8b" or model={"path": "Qwen/Qwen2.5-0.5B"}, trainer={"devices": 2}.

    Returns the results of the finished run; `results.verdict` says in a sentence what came out, and `results.folder` holds the
    adapter, the figures and report.html.

    Raises InputError, a sentence that names what is wrong and what would be right.
    """
    root = _output_root(settings, overrides)
    given: dict[str, Any] = {"choices": choices, "labels": labels, "gold": gold, "answer": answer, "options": options}
    given |= {"metric": metric, "shots": shots}
    typed = []
    if rows is not None:
        _refuse_second_dataset(settings)
        typed = ["dataset=jsonl"]
        given["path"] = _training_rows(rows, validation_rows, test_rows, root)
    elif test_rows is not None or validation_rows is not None:
        raise InputError("rows has no value; test_rows and validation_rows go with rows of your own.")
    typed += _dataset(given)
    for split, pool in (("train", prompts), ("validation", validation_prompts), ("test", test_prompts)):
        if pool is not None:
            what = "prompts" if split == "train" else f"{split}_prompts"
            typed.append(f"++prompts.{split}={literal(prompts_file(pool, what, root), what)}")
    typed += ["prompts.allow_seen=true"] if allow_seen else []
    typed += overrides_of(settings, TrainConfig, _TRAIN_PARAMETERS)
    config = _composed(compose_training, [*typed, *overrides])
    if config.rerun is not None:
        raise InputError("rerun: a run is repeated by the command, paft train rerun=RUN/results.json.")
    return launch_training(config, check_run(config))


def evaluate(
    adapter: RunLike | None = None,
    rows: Rows | None = None,
    *,
    prompts: Prompts | None = None,
    adversarial_prompts: Prompts | None = None,
    choices: Sequence[str] | None = None,
    labels: Sequence[str] | Literal["from_gold"] | None = None,
    gold: str | None = None,
    answer: Literal["letter", "text"] | None = None,
    options: Literal["shown", "hidden"] | None = None,
    metric: str | None = None,
    shots: int | None = None,
    allow_seen: bool = False,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Results:
    """Measure how much the answers of a model depend on the wording of its prompt.

    Args:
        adapter: a training run: its Results, its folder, or the adapter folder in it; or any LoRA adapter that PEFT or TRL has
            saved: its folder, or its hub id, on the rows that dataset=... or `rows` names. None: the base model, which
            model=... names, on such rows.
        rows: what to test on: dicts, a data frame, a file, a folder with test rows, or hub:ORG/NAME. None: what the adapter's
            own run was tested on.
        prompts: templates to test under: a list, a PromptPool, a file, or the name of a shipped pool. None: those that the
            adapter's own run was tested under, or the shipped ones of the data set.
        adversarial_prompts: besides, templates to measure Con with.
        choices: the fields of a row that hold its options, or the one that lists them; None: as in training, or free-form
            answers for a base model and an adapter made elsewhere.
        labels: the options, where they are the same for every row; None: as in training.
        gold: the field with the right answer; None: as in training.
        answer: what the prompts ask for, the letter of an option or a text; None: as in training.
        options: whether the prompts show the options; None: as in training.
        metric: how free-form answers are scored: exact, last_number, f1, regex (with dataset={"pattern": ...}), or a function
            of yours, "my_metrics.py:score"; None: as in training.
        shots: training rows that are shown with their answers before each row; None: as in training.
        allow_seen: whether the adapter may have been trained on test prompts; the results then say on how many.
        overrides: what the command takes, as it is typed there.
        **settings: the names of conf/evaluate.yaml: eval_examples=100, scoring="generate", output="predictions.jsonl",
            model="llama3_8b", model={"path": "Qwen/Qwen2.5-0.5B"}, or a served model,
            model={"api": "http://localhost:8000/v1", "name": NAME}.

    Returns the results of the finished evaluation; `results.verdict` says in a sentence what came out.

    Raises InputError, a sentence that names what is wrong and what would be right.
    """
    root = _output_root(settings, overrides)
    typed = []
    if adapter is not None:
        typed.append(f"adapter={literal(_adapter(adapter))}")
    elif not _names_model(settings, overrides):
        typed.append("model=smollm2_135m")  # as in conf/train.yaml
    given: dict[str, Any] = {"choices": choices, "labels": labels, "gold": gold, "answer": answer, "options": options}
    given |= {"metric": metric, "shots": shots}
    if rows is not None:
        if adapter is None:
            _refuse_second_dataset(settings)
        given["path"] = str(rows_file(rows, root))
    typed += _dataset(given)
    for name, what, pool in (("test", "prompts", prompts), ("adversarial", "adversarial_prompts", adversarial_prompts)):
        if pool is not None:
            typed.append(f"++prompts.{name}={literal(prompts_file(pool, what, root), what)}")
    typed += ["prompts.allow_seen=true"] if allow_seen else []
    typed += overrides_of(settings, EvaluateConfig, _EVALUATE_PARAMETERS)
    config = _composed(compose_evaluation, [*typed, *overrides])
    return launch_evaluation(config, check_evaluation(config))


def compare(a: RunLike | Sequence[RunLike], b: RunLike | Sequence[RunLike]) -> "Compared":
    """Compare two runs, or two lists of runs that are seeds of one another, on the prompts and rows that all share.

    Returns the differences with their intervals; `.verdict` says in a sentence which is more robust.

    Raises InputError for runs that share too little, or lists of different lengths.
    """
    from paft.reporting.compare import compare_sides

    return compare_sides(_folders(a), _folders(b))


def _training_rows(rows: Rows, validation_rows: Rows | None, test_rows: Rows | None, root: Path) -> str:
    """Return the folder with the rows of a run, written where they are not in one already."""
    if isinstance(rows, str | PathLike) and (Path(rows).is_dir() or str(rows).startswith(HUB)):
        if test_rows is not None or validation_rows is not None:
            raise InputError(
                f"rows={str(rows)!r}: this holds the test rows, too; leave test_rows and validation_rows out, or give a "
                "file for each."
            )
        return str(rows)
    if test_rows is None:
        raise InputError("test_rows has no value; give rows that are not trained on, e.g. rows[:80] and test_rows=rows[80:].")
    return str(rows_folder({"train": rows, "validation": validation_rows, "test": test_rows}, root))


def _refuse_second_dataset(settings: dict[str, Any]) -> None:
    dataset = settings.get("dataset")
    if isinstance(dataset, str) or (isinstance(dataset, dict) and "name" in dataset):
        raise InputError(f"dataset={dataset!r} names a built-in data set, and rows are your own; give one of the two.")


def _names_model(settings: dict[str, Any], overrides: Sequence[str]) -> bool:
    """Say whether a call names a model, by a file of conf/model, by its path or by its server."""
    model = settings.get("model")
    in_section = {"name", "path", "api"} & {*model} if isinstance(model, dict) else set()
    typed = {key_of(each) for each in overrides}
    named = ({"model.path", "model.api"} & {*settings, *typed}) | ({"model"} & typed)
    return isinstance(model, str) or bool(in_section or named)


def _dataset(given: dict[str, Any]) -> list[str]:
    return [f"++dataset.{key}={literal(value, key)}" for key, value in given.items() if value is not None]


def _adapter(adapter: RunLike) -> str:
    """Return the adapter folder of a run; raises InputError for results of an evaluation, or of a run that trained nothing."""
    if isinstance(adapter, Results):
        if not (adapter.folder / "adapter").is_dir():
            whole = adapter.folder / "model"
            given = f"its model is model={{'path': '{whole}'}}" if whole.is_dir() else "give results of a run that trained one"
            raise InputError(f"adapter: {adapter.run} holds no adapter; {given}.")
        return str(adapter.folder / "adapter")
    folder = Path(adapter)
    return str(folder / "adapter" if (folder / "adapter").is_dir() else folder)


def _folders(side: RunLike | Sequence[RunLike]) -> list[Path]:
    given: Any = side  # whatever the caller gives
    alone = isinstance(given, Results | str | PathLike) or not isinstance(given, Iterable)
    runs = [given] if alone else list(given)
    unlike = [type(run).__name__ for run in runs if not isinstance(run, Results | str | PathLike)]
    if unlike or not runs:
        what = unlike[0] if unlike else "an empty list"
        raise InputError(f"A run to compare is the results of train or evaluate, or its folder, not {what}.")
    return [run.folder if isinstance(run, Results) else Path(run) for run in runs]


def _output_root(settings: dict[str, Any], overrides: Sequence[str]) -> Path:
    """Return where a call writes, which is where its rows and prompts go, too."""
    typed = [override for override in overrides if override.lstrip("+").startswith("output_root=")]
    if not typed:
        return Path(os.fspath(settings.get("output_root", "outputs")))
    return Path(str(OverridesParser.create().parse_override(typed[-1]).value()))  # without the quotes of Hydra's grammar


Config = TypeVar("Config", TrainConfig, EvaluateConfig)


def _composed(compose: Callable[[Sequence[str]], Config], overrides: Sequence[str]) -> Config:
    """Compose a config; what Hydra has to say about overrides becomes an InputError."""
    try:
        config = compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        kind = TrainConfig if compose is compose_training else EvaluateConfig
        raise InputError(f"overrides: {in_one_sentence(error, kind, Path(CONF))}") from None
    if config.fail_under.bounds:
        raise InputError("fail_under: that is the exit code of a command; in Python compare results.robustness, a fraction.")
    return config
