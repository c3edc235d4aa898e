"""Cells of an experiment: ordinary runs, never run twice, and the page that lays them side by side."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from paft.config.compose import CONF, parse

Results = dict[str, Any]

_KEPT = ("run", "robustness", "parts", "chance", "threshold", "accuracy", "training", "plan", "wall_s",
         "peak_memory_bytes", "fingerprints", "git", "versions", "device", "dtype", "config")  # fmt: skip
_SHOWN = ("mean", "std", "min", "max", "top")


def run_cell(overrides: Sequence[str], prompt: str | None = None) -> Results:
    """Run `train.py` with these overrides unless it has been done; return its results, with the accuracy per prompt.

    Args:
        prompt: method.prompt, which is awkward to quote on a command line.
    """
    with initialize_config_dir(CONF, version_base="1.3"):
        config = parse(compose("train", list(overrides)))
    config.method.prompt = prompt
    from paft.jobs.train import run_training

    folder = run_training(config).folder
    results: Results = json.loads(folder.results.read_text())
    results["accuracy"] = np.loadtxt(folder.path / "per_prompt.csv", delimiter=",", skiprows=1, usecols=1, ndmin=1).tolist()
    return results


def report(
    folder: Path, title: str, groups: Mapping[str, Mapping[str, Sequence[Results]]], notes: Sequence[str], command: str
) -> None:
    """Print a table per group of runs and write results.json, README.md and a figure per group.

    Args:
        groups: group -> label -> the runs of that label, one a seed.
    """
    from paft.reporting.figure import save_distribution
    from paft.reporting.table import coverage, print_robustness
    from paft.runtime.files import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    page = [f"# {title}", ""]
    every_run = [run for runs in groups.values() for same in runs.values() for run in same]
    for group, runs in groups.items():
        first = next(iter(runs.values()))[0]
        rows = {f"{label}, seed {run['config']['seed']}": run["robustness"] for label, same in runs.items() for run in same}
        over = coverage(first["robustness"], first["chance"], first["threshold"])
        print_robustness(rows, group, [over])
        figure = f"{group.lower().replace(' ', '_').replace(',', '')}.png"
        pooled = {label: np.concatenate([run["accuracy"] for run in same]) for label, same in runs.items()}
        save_distribution(folder / figure, pooled, first["chance"], first["threshold"])
        page += [f"## {group}", "", "| | mean | std | worst | best | Top |", "|---|---:|---:|---:|---:|---:|"]
        page += [f"| {label} | " + " | ".join(_percent(row[key]) for key in _SHOWN) + " |" for label, row in rows.items()]
        page += ["", over, "", f"![{group}]({figure})", ""]
    for note in notes:
        print(note)
    page += [f"* {note}" for note in notes]
    page += [
        "",
        f"Made by `{command}` at {commits(every_run)}. "
        "Configs, versions, device, fingerprints of data and pools: results.json.",
        "",
    ]
    kept = {g: {label: [_without_places(run) for run in same] for label, same in runs.items()} for g, runs in groups.items()}
    write_atomically(folder / "results.json", json.dumps(kept, indent=1) + "\n")
    write_atomically(folder / "README.md", "\n".join(page))
    print(f"Written: {folder}")


def commits(runs: Iterable[Mapping[str, Any]]) -> str:
    """Name the commits that the runs were made at; a sweep that goes on another day may have several."""
    states = [run["git"] for run in runs]
    short = (s["commit"][:7] if s["commit"] else "no commit" for s in states)
    counts = Counter(f"{name}{' with changes' if s['dirty'] else ''}" for name, s in zip(short, states, strict=True))
    return ", ".join(f"{name} ({n} runs)" if len(counts) > 1 else name for name, n in counts.items())


def _without_places(run: Results) -> Results:
    """Return what is kept of a run's results: all but where things lay on the machine that made them."""
    config = {key: value for key, value in run["config"].items() if key not in ("data_root", "output_root", "rerun", "logger")}
    config["prompts"] = {split: path and Path(path).name for split, path in config["prompts"].items()}
    return {key: run[key] for key in _KEPT} | {"config": config}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
