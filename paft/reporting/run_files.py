"""Writing the files of a finished run: per_prompt.csv, the figure, the page, the pools, and results.json."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paft.config.schema import DatasetConfig
from paft.data.encode import Encoder
from paft.data.render import render
from paft.data.tasks.base import Example
from paft.evaluation.disagreement import answers_of
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.statistics import Array
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.figure import save_distribution
from paft.reporting.renderings import Trained
from paft.reporting.results import Results, save_results
from paft.reporting.run_page import write_run_page
from paft.runtime.files import write_atomically


def save_run(
    folder: Path,
    scored: Scored,
    results: Results,
    pool: PromptPool,
    examples: Sequence[Example],
    label: str,
    encoder: Encoder | None,
    trained: Sequence[Trained] = (),
    prompt: Callable[[PromptTemplate, Example], str] = render,
) -> None:
    """Write the files of a finished run: per_prompt.csv (and one for each part), figure, page, and results.json.

    Without labels there is no accuracy: per_prompt.csv and the page then say where prompts agree, and there is no figure.
    results.json is written last, because it marks the run as finished.

    Args:
        label: of the run in the figure.
        encoder, trained, prompt: those of `write_run_page`.
    """
    matrix = scored.matrix
    answers = answers_of(matrix, scored.path, metric_of(DatasetConfig.model_validate(results.config["dataset"])))
    seconds = scored.seconds if results.scoring.scoring == "generate" else None
    labelled = results.robustness is not None
    called = results.scoring.called if labelled else "as_majority"
    values = matrix.accuracy if labelled else answers.with_majority
    write_atomically(folder / "per_prompt.csv", per_prompt_csv(matrix, pool, seconds, called, values))
    for part in results.parts:
        write_atomically(folder / f"per_prompt_{part}.csv", per_prompt_csv(matrix.part(part), pool, called=called))
    if labelled and results.chance is not None:
        accuracies = {label: matrix.accuracy}
        figure = folder / "distribution.png"
        save_distribution(figure, accuracies, results.chance, results.threshold, results.unseen, called)
    write_run_page(folder / "report.html", results, scored, answers, pool, examples, encoder, trained, prompt)
    save_results(folder, results)


def per_prompt_csv(
    matrix: ScoreMatrix,
    pool: PromptPool,
    seconds: Mapping[str, float] | None = None,
    called: str = "accuracy",
    values: Array | None = None,
) -> str:
    """Return what there is to say of each prompt as CSV: prompt_id, accuracy, n, and its wording and layout family and text.

    Args:
        pool: of the matrix.
        seconds: the time that generation took, by prompt id; adds the columns output_tokens (mean of a rendering) and seconds
            (of all renderings), as in the paper's Table 3.
        called, values: the name of the column after the id, and what stands there instead of the accuracies (P,).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    values = matrix.accuracy if values is None else values
    names = [] if seconds is None else ["output_tokens", "seconds"]
    writer.writerow(["prompt_id", called, "n", *names, "wording", "layout", "text"])
    for prompt, value, tokens in zip(pool.templates, values, matrix.output_tokens.mean(axis=1), strict=True):
        cost = [] if seconds is None else [f"{tokens:.2f}", f"{seconds[prompt.id]:.2f}"]
        writer.writerow([prompt.id, f"{value:.6f}", matrix.correct.shape[1], *cost, prompt.wording, prompt.layout, prompt.text])
    return text.getvalue()


def save_pools(folder: Path, pools: Mapping[str, PromptPool]) -> None:
    """Write the pools that a run uses into a folder, as SPLIT.yaml each."""
    folder.mkdir(exist_ok=True)
    for split, pool in pools.items():
        write_atomically(folder / f"{split}.yaml", pool.to_yaml())
