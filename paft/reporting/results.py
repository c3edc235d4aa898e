"""What a finished run leaves: results.json, per_prompt.csv and the figure."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import accuracy_per_prompt, consensus, robustness, uncertainty
from paft.prompts import PromptPool
from paft.reporting.figure import save_distribution
from paft.runs import write_atomically


def summarise(matrix: ScoreMatrix, threshold: float | None) -> dict[str, Any]:
    """Return robustness, how sure it is and the chance level; where a data set has several parts, robustness of each too."""
    names = list(dict.fromkeys(matrix.parts))
    parts = {name: asdict(robustness(matrix.part(name), threshold)) for name in names} if len(names) > 1 else {}
    sure = uncertainty(matrix)
    return {
        "robustness": asdict(robustness(matrix, threshold)),
        "uncertainty": None if sure is None else asdict(sure),
        "parts": parts,
        "consensus": asdict(consensus(matrix)) if len(matrix.prompt_ids) > 1 and (matrix.predicted >= 0).all() else None,
        "chance": matrix.chance,
        "threshold": threshold,
        "test_prompts_truncated": matrix.n_truncated,
    }


def write_results(folder: Path, matrix: ScoreMatrix, results: dict[str, Any], label: str) -> None:
    """Write per_prompt.csv (one more per part), the figure and last, as the mark of a finished run, results.json."""
    write_atomically(folder / "per_prompt.csv", per_prompt_csv(matrix))
    for part in results["parts"]:
        write_atomically(folder / f"per_prompt_{part}.csv", per_prompt_csv(matrix.part(part)))
    save_distribution(
        folder / "distribution.png", {label: accuracy_per_prompt(matrix)}, results["chance"], results["threshold"]
    )
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")


def per_prompt_csv(matrix: ScoreMatrix) -> str:
    """Return the accuracy of each prompt as CSV with the columns prompt_id, accuracy and n."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt_id", "accuracy", "n"])
    for prompt, accuracy in zip(matrix.prompt_ids, accuracy_per_prompt(matrix), strict=True):
        writer.writerow([prompt, f"{accuracy:.6f}", matrix.correct.shape[1]])
    return text.getvalue()


def save_pools(folder: Path, pools: dict[str, PromptPool]) -> None:
    """Copy the pools that a run uses into its folder."""
    folder.mkdir(exist_ok=True)
    for split, pool in pools.items():
        write_atomically(folder / f"{split}.yaml", pool.to_yaml())


def describe_pools(pools: dict[str, PromptPool]) -> dict[str, dict[str, Any]]:
    """Return file name, size and fingerprint of each pool, and what was changed while loading it."""
    return {
        split: {"name": pool.name, "prompts": len(pool.templates), "fingerprint": pool.fingerprint, "notes": list(pool.notes)}
        for split, pool in pools.items()
    }
