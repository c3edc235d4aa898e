"""Runs of an experiment: ordinary runs, never made twice, and the page that lays them side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paft.config.compose import compose_training
from paft.evaluation.matrix import read_matrix
from paft.evaluation.robustness import Robustness
from paft.evaluation.statistics import Array
from paft.reporting.collect import without_places
from paft.reporting.page import bullets, percent, table, write, write_json
from paft.reporting.results import Results
from paft.reporting.runs import commits

_KEPT = {"run", "robustness", "parts", "chance", "threshold", "training", "plan", "wall_s", "peak_memory_bytes", "fingerprints",
         "git", "versions", "device", "dtype", "config"}  # fmt: skip


def train(overrides: Sequence[str], prompt: str | None = None) -> Results:
    """Return the results of `train.py` with these overrides, which runs unless it is finished already.

    Args:
        prompt: method.prompt, which is awkward to quote on a command line; None: what the overrides say.
    """
    config = compose_training(overrides)
    if prompt is not None:
        config.method.prompt = prompt
    from paft.jobs.train import run_training

    return run_training(config)


def labelled(results: Results) -> Robustness:
    """Return the robustness of a run on rows with right answers, which those of experiments are."""
    assert results.robustness is not None
    return results.robustness


def accuracies(results: Results) -> Array:
    """Return the accuracy (P,) of a run under each test prompt."""
    return read_matrix(results.folder / "matrix.parquet").accuracy


def report(
    folder: Path, title: str, groups: Mapping[str, Mapping[str, Sequence[Results]]], notes: Sequence[str], command: str
) -> None:
    """Print a table for each group of runs and write README.md, results.json and a figure for each group.

    Args:
        groups: group -> label -> the runs of that label, one a seed.
    """
    from paft.reporting.figure import save_distribution
    from paft.reporting.table import answers_given, coverage, print_robustness

    folder.mkdir(parents=True, exist_ok=True)
    page = [f"# {title}", ""]
    for group, runs in groups.items():
        first = next(iter(runs.values()))[0]
        assert first.chance is not None
        by_label = {f"{label}, seed {run.config['seed']}": run for label, same in runs.items() for run in same}
        rows = {label: labelled(run) for label, run in by_label.items()}
        over = coverage(first)
        print_robustness(rows, group, [over])
        figure = f"{group.lower().replace(' ', '_').replace(',', '')}.png"
        pooled = {label: np.concatenate([accuracies(run) for run in same]) for label, same in runs.items()}
        save_distribution(folder / figure, pooled, first.chance, first.threshold)
        given = [answers_given(run.given) for run in by_label.values()]
        shown = [
            [label, *map(percent, (r.mean, r.std, r.min, r.max, r.top)), own]
            for (label, r), own in zip(rows.items(), given, strict=True)
        ]
        page += [f"## {group}", "", *table(["", "mean", "std", "worst", "best", "Top", "answers by place"], shown)]
        page += [over, "", f"![{group}]({figure})", ""]
    print("\n".join(notes))
    every_run = [run for runs in groups.values() for same in runs.values() for run in same]
    page += [*bullets(notes), f"Made by `{command}` at {commits(run.git for run in every_run)}."]
    write(folder, [*page, "Configs, versions, device, fingerprints of data and pools: results.json."])
    kept = {g: {label: [_kept(run) for run in same] for label, same in runs.items()} for g, runs in groups.items()}
    write_json(folder, kept)
    print(f"Written: {folder}")


def _kept(run: Results) -> dict[str, Any]:
    """Return what is kept of a run's results: all but where things lay on the machine that made them."""
    prompts = {split: path and Path(path).name for split, path in run.config["prompts"].items()}
    kept = without_places(run).model_dump(mode="json", include=_KEPT)
    config = {key: value for key, value in kept["config"].items() if key != "logger"} | {"prompts": prompts}
    return kept | {"accuracy": accuracies(run).tolist(), "config": config}
