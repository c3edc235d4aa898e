"""The evaluation engine on real runs: scoring by likelihood and by generation, side by side, with intervals.

    python experiments/evaluations.py --data DIR [--report experiments/results/evaluations]

story_facts: the base model, the demo's fixed prompt and its PAFT adapter, trained here unless they are there already.
PIQA and RACE-middle: the base model, options shown, letters. DIR holds <dataset>/<split>.jsonl. Each cell is an ordinary
`python evaluate.py ...`: finished ones are not run again, interrupted ones go on.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from experiments.studies import commits, run_cell
from paft.cli.hydra_app import run_plain
from paft.config.compose import CONF, parse_evaluation

Results = dict[str, Any]

# data set and how many of its test prompts and examples
_CELLS = {"story_facts": ("story_facts", 20, 100), "PIQA": ("piqa", 20, 100), "RACE-middle": ("race_middle", 10, 60)}
_KEPT = (
    "run", "robustness", "uncertainty", "consensus", "ties", "unanswered", "chance", "threshold", "how", "accuracy", "tokens",
    "seconds", "wall_s", "fingerprints", "git", "versions", "device", "dtype",
)  # fmt: skip


def evaluated(overrides: Sequence[str]) -> Results:
    """Run `evaluate.py` with these overrides unless it has been done; return its results, with what each prompt took."""
    with initialize_config_dir(CONF, version_base="1.3"):
        config = parse_evaluation(compose("evaluate", list(overrides)), overrides)
    from paft.evaluation.matrix import read_matrix
    from paft.jobs.evaluate import run_evaluation

    folder = run_evaluation(config).folder
    results: Results = json.loads(folder.results.read_text())
    matrix = read_matrix(folder.path / "matrix.parquet")
    results["accuracy"] = matrix.correct.mean(axis=1).tolist()
    results["tokens"] = float(matrix.output_tokens.mean())
    results["seconds"] = sum(json.loads((folder.path / "matrix_seconds.json").read_text()).values())
    return results


def trained(overrides: Sequence[str], output_root: str) -> dict[str, str]:
    """Train the demo's two adapters, or find them; return their folders."""
    shared = ["experiment=demo", f"output_root={output_root}", *overrides]
    runs = {"one fixed prompt": run_cell([*shared, "method=user"]), "PAFT": run_cell([*shared, "method=paft"])}
    return {label: str(Path(output_root) / run["run"] / "adapter") for label, run in runs.items()}


def main() -> None:
    """Evaluate, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    parser.add_argument("--output-root", default="outputs")
    parser.add_argument("--report", type=Path, default=Path("outputs/evaluations"))
    parser.add_argument("--no-progress", action="store_true")
    arguments = parser.parse_args()
    quiet = ["trainer.progress=false"] if arguments.no_progress else []
    adapters = trained(["trainer.progress=false"] if arguments.no_progress else [], arguments.output_root)
    groups: dict[str, dict[str, Results]] = {}
    where = [f"output_root={arguments.output_root}", f"data_root={arguments.data}"]
    for label, (dataset, n_prompts, n_examples) in _CELLS.items():
        models = {"base model": [f"dataset={dataset}", "model=smollm2_135m"]}
        if dataset == "story_facts":
            models |= {name: [f"adapter={folder}"] for name, folder in adapters.items()}
        shape = [f"eval_prompts={n_prompts}", f"eval_examples={n_examples}"]
        for way in ("likelihood", "generate"):
            for name, overrides in models.items():
                row = evaluated([*overrides, *where, *shape, *quiet, f"scoring={way}"])
                groups.setdefault(label, {})[f"{name}, {way}"] = row
    write(arguments.report, groups)


def write(folder: Path, groups: Mapping[str, Mapping[str, Results]]) -> None:
    """Write README.md, results.json and a figure per data set."""
    from paft.reporting.figure import save_overlay
    from paft.runtime.files import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    page = ["# Base model, one fixed prompt and PAFT under the evaluation engine", ""]
    for dataset, rows in groups.items():
        first = next(iter(rows.values()))
        shape = first["robustness"]
        page += [
            f"## {dataset}",
            "",
            f"{shape['n_prompts']} test prompts x {shape['n_examples']} test examples; chance is {100 * first['chance']:.1f}.",
            "",
            "| | mean | 95% interval | std | less noise | worst | on others | agree | majority | no answer | tokens | s |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            *(_row(label, row) for label, row in rows.items()),
            "",
        ]
        likelihood = {
            label.removesuffix(", likelihood"): np.array(r["accuracy"]) for label, r in rows.items() if "like" in label
        }
        figure = f"{dataset.lower()}.png"
        save_overlay(folder / figure, likelihood, first["chance"], first["threshold"])
        page += [f"![{dataset}, scored by likelihood]({figure})", ""]
    made_at = commits(row for rows in groups.values() for row in rows.values())
    page += [
        "* mean, std and worst are those of these prompts and examples. The interval is that of the mean over all prompts and",
        "  examples of the kind; *less noise* is the std less what finitely many examples add; *on others* is the worst",
        "  prompt's accuracy on examples that did not choose it.",
        "* *agree*: how often two prompts give the same answer; *majority*: accuracy of the answer that most prompts give;",
        "  *no answer*: generated texts in which no option was found, counted as wrong.",
        "* *tokens* generated per rendering, and seconds for all of them, on the device that results.json names.",
        "* Models of this size do better with the options hidden than with letters ([real_data_hidden](../real_data_hidden)).",
        "",
        f"Made by `python experiments/evaluations.py --data DIR` at {made_at}.",
        "Versions, device, fingerprints of data, pools and weights: results.json.",
        "",
    ]
    kept = {g: {label: {k: row[k] for k in _KEPT} for label, row in rows.items()} for g, rows in groups.items()}
    write_atomically(folder / "results.json", json.dumps(kept, indent=1) + "\n")
    write_atomically(folder / "README.md", "\n".join(page))
    print("\n".join(page))


def _row(label: str, row: Results) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    found, sure, agree = row["robustness"], row["uncertainty"], row["consensus"]
    interval = std = worst = "-"
    if sure is not None:
        interval = f"[{percent(sure['mean']['low'])}, {percent(sure['mean']['high'])}]"
        std, worst = _std(sure["std"]), percent(sure["worst"])
    figures = [percent(found["mean"]), interval, percent(found["std"]), std, percent(found["min"]), worst]
    figures += [percent(agree["agreement"]), percent(agree["majority"]), str(row["unanswered"])]
    figures += [f"{row['tokens']:.1f}" if row["how"]["scoring"] == "generate" else "", f"{row['seconds']:.0f}"]
    return f"| {label} | " + " | ".join(figures) + " |"


def _std(std: Mapping[str, float | None]) -> str:
    value, low, high = std["value"], std["low"], std["high"]
    assert value is not None
    return f"{100 * value:.1f}" if low is None or high is None else f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    run_plain(main)
