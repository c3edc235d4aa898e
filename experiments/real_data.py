"""PIQA, WinoGrande and HellaSwag with SmolLM2-135M on two CPU cores: one fixed prompt beside PAFT.

    python -m experiments.real_data official --data DIR --sheets DIR    # the authors' prompt sheets, options shown
    python -m experiments.real_data hidden --data DIR --seeds 0 1 2     # our pools that hide the options

DIR holds <dataset>/<split>.jsonl and robust_{train,test}dataset_{piqa,win}.xlsx (the repository of the
paper's authors). Every run is an ordinary one: finished runs are skipped, interrupted ones resumed.
With options shown a model of this size may stay near chance, and that is a result.
"""

import argparse
import shlex
from pathlib import Path

import numpy as np

from experiments.studies import labelled, report, train
from paft.cli.hydra_app import run_plain
from paft.config.hints import key_of
from paft.reporting.results import Results

# Small enough for two cores; nothing was tuned on these data sets.
_SCALE = {
    "official": ["train_examples=320", "eval_examples=200"],  # of fewer rows a letter's share is luck
    "hidden": ["train_examples=320", "eval_examples=80", "dataset.answer=text", "dataset.options=hidden"],
}
_COMMON = ["optim.lr=1e-3", "validation.examples=16"]
_SHEETS = {"piqa": "piqa", "winogrande": "win"}
_DATASETS = {"official": ("piqa", "winogrande"), "hidden": ("piqa", "hellaswag")}


def main() -> None:
    """Make the runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", choices=tuple(_SCALE))
    parser.add_argument("--data", required=True, help="folder with <dataset>/<split>.jsonl")
    parser.add_argument("--sheets", type=Path, help="folder with the authors' xlsx files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", type=Path, help="where tables and figures go")
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    arguments = parser.parse_intermixed_args()
    if arguments.pools == "official" and arguments.sheets is None:
        parser.error("official needs --sheets DIR")
    groups: dict[str, dict[str, list[Results]]] = {}
    for seed in arguments.seeds:
        for dataset in _DATASETS[arguments.pools]:
            overrides = [f"dataset={dataset}", f"data_root={arguments.data}", f"seed={seed}"]
            overrides += [*_SCALE[arguments.pools], *_COMMON, *arguments.overrides]
            if arguments.pools == "official":
                sheet = arguments.sheets / "robust_{}dataset_{}.xlsx"
                overrides += [f"prompts.{s}={str(sheet).format(s, _SHEETS[dataset])}" for s in ("train", "test")]
            runs = groups.setdefault(dataset, {})
            for method, label in (("user", "user"), ("paft", "PAFT")):
                runs.setdefault(label, []).append(train([*overrides, f"method={method}"]))
    title = {"official": "The authors' prompt sheets, options shown", "hidden": "Options hidden"}[arguments.pools]
    folder = arguments.report or Path("outputs") / f"real_data_{arguments.pools}"
    sheets = " --sheets DIR" if arguments.pools == "official" else ""
    seeds = " ".join(map(str, arguments.seeds))
    typed = "".join(f" {shlex.quote(override)}" for override in arguments.overrides)
    command = f"python -m experiments.real_data {arguments.pools} --data DIR{sheets} --seeds {seeds}{typed}"
    notes = [gain(dataset, runs) for dataset, runs in groups.items()]
    settings = {key_of(one): one for one in (*_SCALE[arguments.pools], *_COMMON, *arguments.overrides)}  # the last one counts
    notes.append(f"Untuned: {', '.join(settings.values())}.")
    if arguments.pools == "official":
        notes.append(
            "Near chance a model may answer one letter throughout; its accuracy is then that letter's share of the rows, "
            "which stands beside chance, and nothing is shown of a method."
        )
    report(folder, f"SmolLM2-135M on real data: {title.lower()}", groups, notes, command)


def gain(dataset: str, runs: dict[str, list[Results]]) -> str:
    """Say what PAFT gains over one fixed prompt, seed by seed."""
    figures = []
    for key, name in (("mean", "mean"), ("min", "worst prompt"), ("std", "std")):
        pairs = zip(runs["PAFT"], runs["user"], strict=True)
        gains = [100 * (getattr(labelled(paft), key) - getattr(labelled(user), key)) for paft, user in pairs]
        each = "/".join(f"{points:+.1f}" for points in gains)
        figures.append(f"{name} {each}" + (f" (average {np.mean(gains):+.1f})" if len(gains) > 1 else ""))
    return f"{dataset}, PAFT less one fixed prompt, in points, seed by seed: {', '.join(figures)}."


if __name__ == "__main__":
    run_plain(main)
