"""The evaluation engine on real runs: scoring by likelihood and by generation, side by side, with intervals.

    python -m experiments.evaluations --data DIR [--report experiments/results/evaluations]

story_facts: the base model, the demo's fixed prompt and its PAFT adapter, trained here unless they are there already.
PIQA and RACE-middle: the base model, options shown, letters. DIR holds <dataset>/<split>.jsonl. Each evaluation is an
ordinary `python evaluate.py ...`: finished ones are skipped, interrupted ones resumed.
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

# data set and how many of its test prompts and examples
_SHAPES = {"story_facts": ("story_facts", 20, 100), "PIQA": ("piqa", 20, 100), "RACE-middle": ("race_middle", 10, 60)}
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
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    parser.add_argument("--output-root", default="outputs")
    parser.add_argument("--report", type=Path, default=Path("outputs/evaluations"))
    parser.add_argument("--no-progress", action="store_true")
    arguments = parser.parse_args()
    quiet = ["trainer.progress=false"] if arguments.no_progress else []
    adapters = adapters_of_the_demo(quiet, arguments.output_root)
    groups: dict[str, dict[str, Evaluated]] = {}
    where = [f"output_root={arguments.output_root}", f"data_root={arguments.data}"]
    for label, (dataset, n_prompts, n_examples) in _SHAPES.items():
        models = {"base model": [f"dataset={dataset}", "model=smollm2_135m"]}
        if dataset == "story_facts":
            models |= {name: [f"adapter={folder}"] for name, folder in adapters.items()}
        shape = [f"eval_prompts={n_prompts}", f"eval_examples={n_examples}"]
        for way in ("likelihood", "generate"):
            for name, overrides in models.items():
                row = evaluate([*overrides, *where, *shape, *quiet, f"scoring={way}"])
                groups.setdefault(label, {})[f"{name}, {way}"] = row
    report(arguments.report, groups)


def report(folder: Path, groups: Mapping[str, Mapping[str, Evaluated]]) -> None:
    """Write README.md, results.json and a figure for each data set."""
    from paft.reporting.figure import save_overlay

    folder.mkdir(parents=True, exist_ok=True)
    page = ["# Base model, one fixed prompt and PAFT under the evaluation engine", ""]
    for dataset, rows in groups.items():
        first = next(iter(rows.values())).results
        shape, chance = labelled(first), first.chance
        assert chance is not None
        over = f"{shape.n_prompts} test prompts x {shape.n_examples} test examples; chance is {percent(chance)}."
        page += [f"## {dataset}", "", over, "", *table(_HEADINGS, [[label, *_row(row)] for label, row in rows.items()])]
        likelihood = {
            label.removesuffix(", likelihood"): accuracies(row.results) for label, row in rows.items() if "like" in label
        }
        figure = f"{dataset.lower()}.png"
        save_overlay(folder / figure, likelihood, chance, first.threshold)
        page += [f"![{dataset}, scored by likelihood]({figure})", ""]
    made_at = commits(row.results.git for rows in groups.values() for row in rows.values())
    page += [*bullets(_NOTES), f"Made by `python -m experiments.evaluations --data DIR` at {made_at}."]
    page += ["Versions, device, fingerprints of data, pools and weights: results.json."]
    kept = {dataset: {label: row.kept() for label, row in rows.items()} for dataset, rows in groups.items()}
    write_json(folder, kept)
    write(folder, page)
    print("\n".join(page))


_NOTES = (
    "mean, std and worst are those of these prompts and examples. The interval is that of the mean over all prompts and "
    "examples of the kind; *less noise* is the std less what finitely many examples add; *on others* is the worst prompt's "
    "accuracy on examples that did not choose it.",
    "*agree*: how often two prompts give the same answer; *majority*: accuracy of the answer that most prompts give; "
    "*no answer*: generated texts in which no option was found, counted as wrong.",
    "*tokens* generated per rendering, and seconds for all of them, on the device that results.json names.",
    "Models of this size do better with the options hidden than with letters ([real_data_hidden](../real_data_hidden)).",
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
    return [*figures, tokens, f"{row.seconds:.0f}"]


if __name__ == "__main__":
    run_plain(main)
