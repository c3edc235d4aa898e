"""The evaluation engine on real runs: scoring by likelihood and by generation, side by side, with intervals.

    python -m experiments.evaluations [--report experiments/results/evaluations]

On story_facts: the base model, the demo's fixed prompt and its PAFT adapter, trained here unless they are there already. Each
evaluation is an ordinary `python evaluate.py ...`: finished ones are skipped, interrupted ones resumed.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.studies import accuracies, labelled, train
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_evaluation
from paft.evaluation.matrix import read_matrix
from paft.reporting.page import bracketed, bullets, percent, table, write, write_json
from paft.reporting.results import Results
from paft.reporting.runs import commits
from paft.reporting.table import answers_given, coverage

_SHAPE = ["dataset=story_facts", "eval_prompts=20", "eval_examples=100"]
_KEPT = {
    "run", "robustness", "uncertainty", "consensus", "ties", "unanswered", "chance", "threshold", "scoring", "wall_s",
    "fingerprints", "git", "versions", "device", "dtype",
}  # fmt: skip
_HEADINGS = [
    "",
    "mean",
    "95% interval",
    "std",
    "less noise",
    "worst",
    "on others",
    "agree",
    "majority",
    "no answer",
    "tokens",
    "s",
    "answers by place",
]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, the tokens it generated for a rendering (mean), and the seconds that all took."""

    results: Results
    tokens: float
    seconds: float

    def kept(self) -> dict[str, Any]:
        """Return what is kept of it."""
        measured = {"accuracy": accuracies(self.results).tolist(), "tokens": self.tokens, "seconds": self.seconds}
        return self.results.model_dump(mode="json", include=_KEPT) | measured


def evaluate(overrides: Sequence[str]) -> Evaluated:
    """Return the results of `evaluate.py` with these overrides, which runs unless it is finished already."""
    from paft.jobs.evaluate import run_evaluation

    results = run_evaluation(compose_evaluation(overrides))
    tokens = float(read_matrix(results.folder / "matrix.parquet").output_tokens.mean())
    seconds = json.loads((results.folder / "matrix_seconds.json").read_text(encoding="utf-8"))
    return Evaluated(results, tokens, sum(seconds.values()))


def adapters_of_the_demo(overrides: Sequence[str], output_root: str) -> dict[str, Path]:
    """Return the folders of the demo's two adapters, which are trained unless they are there already."""
    shared = ["experiment=demo", f"output_root={output_root}", *overrides]
    methods = {"one fixed prompt": "user", "PAFT": "paft"}
    return {label: train([*shared, f"method={method}"]).folder / "adapter" for label, method in methods.items()}


def main() -> None:
    """Evaluate, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-root", default="outputs")
    parser.add_argument("--report", type=Path, default=Path("outputs/evaluations"))
    parser.add_argument("--no-progress", action="store_true")
    arguments = parser.parse_args()
    quiet = ["trainer.progress=false"] if arguments.no_progress else []
    adapters = adapters_of_the_demo(quiet, arguments.output_root)
    models = {"base model": ["model=smollm2_135m"]} | {name: [f"adapter={folder}"] for name, folder in adapters.items()}
    shape = [*_SHAPE, f"output_root={arguments.output_root}", *quiet]
    rows = {
        f"{name}, {way}": evaluate([*overrides, *shape, f"scoring={way}"])
        for way in ("likelihood", "generate")
        for name, overrides in models.items()
    }
    report(arguments.report, rows)


def report(folder: Path, rows: Mapping[str, Evaluated]) -> None:
    """Write README.md, results.json and a figure."""
    from paft.reporting.figure import save_overlay

    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(rows.values())).results
    assert first.chance is not None
    page = ["# Base model, one fixed prompt and PAFT under the evaluation engine", "", coverage(first), ""]
    page += table(_HEADINGS, [[label, *_row(row)] for label, row in rows.items()])
    likelihood = {label.removesuffix(", likelihood"): accuracies(row.results) for label, row in rows.items() if "like" in label}
    save_overlay(folder / "story_facts.png", likelihood, first.chance, first.threshold)
    page += ["![story_facts, scored by likelihood](story_facts.png)", ""]
    page += [
        *bullets(_NOTES),
        f"Made by `python -m experiments.evaluations` at {commits(r.results.git for r in rows.values())}.",
    ]
    page += ["Versions, device, fingerprints of data, pools and weights: results.json."]
    write_json(folder, {"story_facts": {label: row.kept() for label, row in rows.items()}})
    write(folder, page)
    print("\n".join(page))


_NOTES = (
    "mean, std and worst are those of these prompts and examples. The interval is that of the mean over all prompts and "
    "examples of the kind; *less noise* is the std less what finitely many examples add; *on others* is the worst prompt's "
    "accuracy on examples that did not choose it.",
    "*agree*: how often two prompts give the same answer; *majority*: accuracy of the answer that most prompts give; "
    "*no answer*: generated texts in which no option was found, counted as wrong.",
    "*tokens* generated per rendering, and seconds for all of them, on the device that results.json names.",
)


def _row(row: Evaluated) -> list[str]:
    robust, sure, agree = labelled(row.results), row.results.uncertainty, row.results.consensus
    assert agree is not None
    interval = std = worst = "-"
    if sure is not None:
        interval = f"[{percent(sure.mean.low)}, {percent(sure.mean.high)}]"
        std, worst = bracketed(sure.std), percent(sure.worst)
    figures = [percent(robust.mean), interval, percent(robust.std), std, percent(robust.min), worst]
    figures += [percent(agree.agreement), percent(agree.majority), str(row.results.unanswered)]
    tokens = f"{row.tokens:.1f}" if row.results.scoring.scoring == "generate" else ""
    return [*figures, tokens, f"{row.seconds:.0f}", answers_given(row.results.given)]


if __name__ == "__main__":
    run_plain(main)
