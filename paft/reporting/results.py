"""What a finished run leaves: results.json, per_prompt.csv, the figure and the report."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paft.data.task import Example
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import accuracy_per_prompt, consensus, robustness, uncertainty
from paft.measuring import Measured
from paft.prompts import PromptPool
from paft.reporting.figure import save_distribution
from paft.reporting.report import write_report
from paft.runs import write_atomically


def summarise(matrix: ScoreMatrix, threshold: float | None) -> dict[str, Any]:
    """Return robustness, how sure it is and the chance level; where a data set has several parts, robustness of each too."""
    names = list(dict.fromkeys(matrix.parts))
    parts = {name: asdict(robustness(matrix.part(name), threshold)) for name in names} if len(names) > 1 else {}
    sure = uncertainty(matrix)
    has_choices = min(matrix.n_choices) > 0
    return {
        "robustness": asdict(robustness(matrix, threshold)),
        "uncertainty": None if sure is None else asdict(sure),
        "parts": parts,
        "consensus": asdict(consensus(matrix)) if has_choices and len(matrix.prompt_ids) > 1 else None,
        "chance": matrix.chance,
        "threshold": threshold,
        "ties": int(matrix.tied.sum()),
        "unanswered": int((matrix.predicted < 0).sum()) if has_choices else 0,
        "test_prompts_truncated": int(matrix.truncated.sum()),
    }


def write_results(
    folder: Path, measured: Measured, results: dict[str, Any], pool: PromptPool, examples: Sequence[Example], label: str
) -> None:
    """Write per_prompt.csv (one more per part), figure and report, and last, as the mark of a finished run, results.json."""
    matrix = measured.matrix
    seconds = measured.seconds if measured.how["scoring"] == "generate" else None
    write_atomically(folder / "per_prompt.csv", per_prompt_csv(matrix, seconds))
    for part in results["parts"]:
        write_atomically(folder / f"per_prompt_{part}.csv", per_prompt_csv(matrix.part(part)))
    figure = folder / "distribution.png"
    save_distribution(figure, {label: accuracy_per_prompt(matrix)}, results["chance"], results["threshold"])
    write_report(folder / "report.html", results, measured, pool, examples, figure)
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")


def per_prompt_csv(matrix: ScoreMatrix, seconds: Mapping[str, float] | None = None) -> str:
    """Return the accuracy of each prompt as CSV with the columns prompt_id, accuracy and n.

    Args:
        seconds: what generating took, by prompt id; adds the columns output_tokens (a rendering's mean) and seconds (in all),
            of which the paper's Table 3 is made.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt_id", "accuracy", "n", *([] if seconds is None else ["output_tokens", "seconds"])])
    rows = zip(matrix.prompt_ids, accuracy_per_prompt(matrix), matrix.output_tokens.mean(axis=1), strict=True)
    for prompt, accuracy, tokens in rows:
        took = [] if seconds is None else [f"{tokens:.2f}", f"{seconds[prompt]:.2f}"]
        writer.writerow([prompt, f"{accuracy:.6f}", matrix.correct.shape[1], *took])
    return text.getvalue()


def save_pools(folder: Path, pools: dict[str, PromptPool]) -> None:
    """Copy the pools that a run uses into its folder."""
    folder.mkdir(exist_ok=True)
    for split, pool in pools.items():
        write_atomically(folder / f"{split}.yaml", pool.to_yaml())


def describe_pools(pools: dict[str, PromptPool]) -> dict[str, dict[str, Any]]:
    """Return file name, size (templates; wordings, near-copies aside), fingerprint and notes on loading of each pool."""
    return {
        split: {
            "name": pool.name,
            "prompts": len(pool.templates),
            "wordings": pool.n_wordings,
            "fingerprint": pool.fingerprint,
            "notes": list(pool.notes),
        }
        for split, pool in pools.items()
    }
