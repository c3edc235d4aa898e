"""Which data set and model can show what: untuned and tuned accuracy beside chance and beside one letter throughout.

    python -m experiments.learnable --data DIR                                    # in the order of what they tell
    python -m experiments.learnable --data DIR --models smollm2_135m --datasets piqa race_middle --seeds 0 1 2

DIR holds <dataset>/<split>.jsonl; story_facts needs none. A method for robust prompts can only be seen where the model answers
better than by chance and than by giving one letter throughout: elsewhere its numbers are luck, and a null result says nothing
of the method. Each cell is an ordinary run of PAFT with the base model scored on the same cells; finished runs are skipped,
interrupted ones resumed, and the page is written again after each.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.studies import train
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.evaluation.statistics import Estimate, can_promise, corrected_std, difference_interval
from paft.reporting.collect import collect, without_places
from paft.reporting.page import bracketed, bullets, percent, table, write, write_json
from paft.reporting.runs import FinishedRun, TableRow, commits
from paft.reporting.table import answers_given, mean_given
from paft.runtime.errors import InputError
from paft.runtime.files import check_place

# The learning rates are those that this project used before for models of the size; nothing was tuned on these data sets.
MODELS = {
    "qwen2_5_coder_0_5b_gguf": ["optim.lr=3e-4"],
    "smollm2_135m": ["optim.lr=2e-3"],
    "gemma3_270m_gguf": ["optim.lr=1e-3", "model.accept_license=gemma"],
}
DATASETS = {
    "race_middle": ["dataset=race_middle"],
    "hellaswag": ["dataset=hellaswag"],
    "piqa": ["dataset=piqa"],
    "winogrande": ["dataset=winogrande"],
    "hellaswag, options hidden": ["dataset=hellaswag", "dataset.answer=text", "dataset.options=hidden"],
    "piqa, options hidden": ["dataset=piqa", "dataset.answer=text", "dataset.options=hidden"],
    "story_facts": ["dataset=story_facts"],
}
_SCALE = ["K=1", "T=3", "train_examples=2000", "validation.prompts=4", "validation.examples=24"]
_TEST = ["eval_prompts=10", "eval_examples=200"]
_HEADINGS = ["data set", "model", "seeds", "chance", "one choice throughout", "untuned", "answers by place", "tuned",
             "answers by place", "gain", "std over prompts", "can show"]  # fmt: skip


def main() -> None:
    """Make the runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    parser.add_argument("--models", nargs="+", default=[*MODELS][:2], choices=[*MODELS])
    parser.add_argument("--datasets", nargs="+", default=[*DATASETS], choices=[*DATASETS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", type=Path, default=Path("outputs/learnable"), help="where the page goes")
    parser.add_argument("--runs", type=Path, default=Path("outputs"), help="where the runs are made, or lie")
    parser.add_argument("--page", action="store_true", help="only write the page, of what is finished")
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    arguments = parser.parse_intermixed_args()
    check_place(f"--report {arguments.report}", arguments.report)
    here = [f"data_root={arguments.data}", f"output_root={arguments.runs}"]
    cells = {
        (dataset, model): [[*_cell(dataset, model), *arguments.overrides, *here, f"seed={seed}"] for seed in arguments.seeds]
        for model in arguments.models
        for dataset in arguments.datasets
    }
    if arguments.page:
        write_page(cells, arguments.overrides, arguments.runs, arguments.report)
        return
    for overrides in (one for cell in cells.values() for one in cell):
        train(overrides)
        write_page(cells, arguments.overrides, arguments.runs, arguments.report)


def _cell(dataset: str, model: str) -> list[str]:
    return [*DATASETS[dataset], f"model={model}", *MODELS[model], *_SCALE, *_TEST]


def write_page(cells: dict[tuple[str, str], list[list[str]]], typed: list[str], runs: Path, out: Path) -> None:
    """Write README.md and results.json: a row for each data set and model that has a finished run.

    Args:
        typed: overrides of all cells.

    Raises InputError where none is finished.
    """
    by_name = {run.results.run: run for run in collect([runs], "training").runs}
    rows, numbers, used = [], [], list[FinishedRun]()
    for (dataset, model), wanted in cells.items():
        tuned = [by_name[name] for name in (compose_training(one).run_name for one in wanted) if name in by_name]
        base = [by_name[run.results.beside["base"].run] for run in tuned if "base" in run.results.beside]
        if not tuned or not base:
            continue
        row, numbers_of_row = _row(dataset, model, tuned, base[0])
        rows.append(row)
        numbers.append(numbers_of_row)
        used += [*tuned, base[0]]
    if not rows:
        raise InputError(f"{runs}: no run of these data sets and models is finished.")
    devices = sorted({f"{run.results.device.name} ({run.results.dtype})" for run in used})
    page = ["# Which data set and model can show what", "", *bullets(_READING), *table(_HEADINGS, rows)]
    settings = dict(one.partition("=")[::2] for one in [*_SCALE, *_TEST, *typed])
    page += [f"Percent. Settings of all: `{' '.join(f'{k}={v}' for k, v in settings.items())}`; of a model: "
             f"{_of_models(cells)}.", ""]  # fmt: skip
    page += [f"On {', '.join(devices)}. Made by `python -m experiments.learnable --data DIR` at "
             f"{commits(run.results.git for run in used)}."]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    write_json(out, {"rows": numbers, "runs": [without_places(run.results).model_dump(mode="json") for run in used]})
    print("\n".join(page), flush=True)


_READING = (
    "A row can show something about prompts if, by its 95% intervals, the tuned model is better than chance, than one choice "
    "throughout and than it was untuned. Where it is not, nothing that is measured there says anything of a method: neither a "
    "gain nor its absence. Where prompts hardly differ (std over prompts, of the tuned model, less the noise of finitely many "
    "rows), there is little that a method could mend.",
    "In brackets 95% intervals for other prompts and rows of the kind, of the mean over seeds. One seed is exploratory: "
    "another may learn where this one did not, as may more rows.",
)


def _of_models(cells: dict[tuple[str, str], list[list[str]]]) -> str:
    return ", ".join(f"{model} `{' '.join(MODELS[model])}`" for model in dict.fromkeys(model for _, model in cells))


def _row(dataset: str, model: str, tuned: Sequence[FinishedRun], base: FinishedRun) -> tuple[list[str], dict[str, object]]:
    """Return a row of the table, and its numbers."""
    matrix = base.matrix(base.dataset)
    before, after = TableRow([base], base.dataset), TableRow(list(tuned), base.dataset)
    constant = matrix.constant or 0.0
    given = mean_given([run.matrix(run.dataset) for run in tuned])
    gain, std = _gain(before, after), corrected_std(after.correct.mean(0), after.groups)
    says = can_show(after.mean, max(matrix.chance, constant), gain)
    seeds = ", ".join(str(run.seed) for run in tuned)
    row = [dataset, model, seeds, percent(matrix.chance), percent(constant), bracketed(before.mean),
           answers_given(matrix.given),
           bracketed(after.mean), answers_given(given), bracketed(gain, "+"), percent(std), says]  # fmt: skip
    return row, {
        "dataset": dataset, "model": model, "seeds": [run.seed for run in tuned], "chance": matrix.chance, "constant": constant,
        "untuned": vars(before.mean), "tuned": vars(after.mean), "gain": vars(gain), "std": std, "given": given, "says": says,
    }  # fmt: skip


def _gain(before: TableRow, after: TableRow) -> Estimate:
    """Return by how much the tuned model is better on the same cells."""
    untuned, tuned = before.correct.mean(0), after.correct.mean(0)
    if not can_promise(tuned - untuned, after.groups):
        return Estimate(float((tuned - untuned).mean()))
    return difference_interval(tuned, untuned, after.groups)


def can_show(tuned: Estimate, without_reading: float, gain: Estimate) -> str:
    """Say whether a tuned model is better than what is right without reading a row, and than it was.

    Args:
        without_reading: the larger of chance and of one choice throughout.
        gain: of training.
    """
    if tuned.low is None or gain.low is None:
        return "not known: too few prompts or rows for an interval"
    if tuned.low <= without_reading:
        return "no: not told from answering without reading"
    return "yes" if gain.low > 0 else "no: training is not shown to have taught it anything"


if __name__ == "__main__":
    run_plain(main)
