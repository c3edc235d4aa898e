"""Writing the files of a finished run: per_prompt.csv, the figure, the page, the pools, and results.json."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from paft.data.tasks.base import Example
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import accuracy_per_prompt
from paft.prompts import PromptPool
from paft.reporting.figure import save_distribution
from paft.reporting.results import Results, save_results
from paft.reporting.run_page import write_run_page
from paft.runtime.files import write_atomically


def save_run(folder: Path, scored: Scored, results: Results, pool: PromptPool, examples: Sequence[Example], label: str) -> None:
    """Write the files of a finished run: per_prompt.csv (and one for each part), figure, page, and results.json.

    results.json is written last, because it marks the run as finished.

    Args:
        label: of the run in the figure.
    """
    matrix = scored.matrix
    assert results.chance is not None
    called = results.scoring.called
    seconds = scored.seconds if results.scoring.scoring == "generate" else None
    write_atomically(folder / "per_prompt.csv", per_prompt_csv(matrix, seconds, called))
    for part in results.parts:
        write_atomically(folder / f"per_prompt_{part}.csv", per_prompt_csv(matrix.part(part), called=called))
    figure = folder / "distribution.png"
    accuracies = {label: accuracy_per_prompt(matrix)}
    save_distribution(figure, accuracies, results.chance, results.threshold, results.unseen, called)
    write_run_page(folder / "report.html", results, scored, pool, examples, figure)
    save_results(folder, results)


def per_prompt_csv(matrix: ScoreMatrix, seconds: Mapping[str, float] | None = None, called: str = "accuracy") -> str:
    """Return the accuracy of each prompt as CSV with the columns prompt_id, accuracy and n.

    Args:
        seconds: the time that generation took, by prompt id; adds the columns output_tokens (mean of a rendering) and seconds
            (of all renderings), as in the paper's Table 3.
        called: the name of the column of accuracies, where it holds other scores.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt_id", called, "n", *([] if seconds is None else ["output_tokens", "seconds"])])
    rows = zip(matrix.prompt_ids, accuracy_per_prompt(matrix), matrix.output_tokens.mean(axis=1), strict=True)
    for prompt, accuracy, tokens in rows:
        cost = [] if seconds is None else [f"{tokens:.2f}", f"{seconds[prompt]:.2f}"]
        writer.writerow([prompt, f"{accuracy:.6f}", matrix.correct.shape[1], *cost])
    return text.getvalue()


def save_pools(folder: Path, pools: Mapping[str, PromptPool]) -> None:
    """Write the pools that a run uses into a folder, as SPLIT.yaml each."""
    folder.mkdir(exist_ok=True)
    for split, pool in pools.items():
        write_atomically(folder / f"{split}.yaml", pool.to_yaml())
