"""Comparing two runs on the prompts and examples they share: is A more robust than B, and how sure are we?

A run is a folder with results.json and matrix.parquet. Shared are prompts of the same text and examples with the same
fields and answer. The difference of the means has a 95% interval for other prompts and examples of the kind; the stds over
prompts are compared by a permutation test; the worst prompts are estimated without selection bias and have no interval.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from paft.evaluation.matrix import ScoreMatrix, read_matrix
from paft.evaluation.statistics import FEWEST, Array, Comparison, Estimate, SeedVariance, compare, estimate, seed_variance
from paft.evaluation.tail import cvar, cvar_difference
from paft.reporting.page import bracketed, bullets, p_value, percent, table, unit, write
from paft.reporting.results import Results, read_results
from paft.reporting.runs import no_gain, no_sign_of
from paft.reporting.table import answers_given, given_by, guessed, mean_given
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically
from paft.runtime.mappings import flat


@dataclass(frozen=True)
class ComparedRun:
    """A finished run: its results.json, and the cells of its score matrix that are compared."""

    results: Results
    matrix: ScoreMatrix


@dataclass(frozen=True)
class Compared:
    """What two sides, of one run a seed each, show on the prompts and examples that all of their runs share."""

    a: list[ComparedRun]  # cut down to the shared cells
    b: list[ComparedRun]
    comparison: Comparison
    tail: Estimate  # the mean of the worst tenth of the prompts, of A minus that of B
    seeds_a: SeedVariance | None  # None for a single run
    seeds_b: SeedVariance | None

    @property
    def cells(self) -> str:
        """Say what the numbers were taken over."""
        prompts, examples = self.a[0].matrix.correct.shape
        seeds = f", {len(self.a)} seeds each" if len(self.a) > 1 else ""
        return f"On {prompts} prompts x {examples:,} examples that both share: {prompts * examples:,} cells{seeds}."

    @property
    def worst_tenths(self) -> tuple[float, float]:
        """The mean accuracies of the worst tenth of the prompts (CVaR10) of A and B, fractions, averaged over seeds."""
        a, b = (float(cvar(correct_of(side).mean(2), 0.1).mean()) for side in (self.a, self.b))
        return a, b

    @property
    def called(self) -> str:
        """What the numbers are called: accuracy, or where the metric is graded F1 or score."""
        return self.a[0].results.scoring.called

    @property
    def verdict(self) -> str:
        """Say in one sentence which side is more robust, with the numbers, or that the two cannot be told apart."""
        return verdict(self.comparison, self.called)

    def __repr__(self) -> str:
        lines = [("", "A", "B", "A - B"), *rows(self)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            (line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))) for line in lines
        )
        return "\n".join([*("  ".join(line).rstrip() for line in aligned), "", self.verdict])

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in rows(self))
        heads = "<tr><th></th><th>A</th><th>B</th><th>A - B</th></tr>"
        return f"<table>{heads}{lines}</table><p>{escape(self.verdict)}</p>"


def load(folder: Path) -> ComparedRun:
    """Read a run; raises InputError for a folder that holds none, or rows without right answers."""
    results = read_results(folder)
    if results.robustness is None:
        raise InputError(f"{folder}: its rows have no answers, so nothing is right or wrong; compare runs on labelled rows.")
    return ComparedRun(results, read_matrix(folder / "matrix.parquet"))


def seeds_of(folders: Sequence[Path]) -> list[ComparedRun]:
    """Read the runs of one arm; raises InputError if one is named twice, or if they differ in more than their seed."""
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for i, folder in enumerate(folders) if places[i] in places[:i]), None):
        raise InputError(f"{twice} is named twice; the seeds of an arm are different runs.")
    settings = [_settings(read_results(folder)) for folder in folders]
    for folder, own in zip(folders, settings, strict=True):
        first = settings[0]
        if unlike := next((key for key in first if first[key] != own.get(key, first[key])), None):
            raise InputError(
                f"{folders[0]} and {folder} differ in {unlike}, and the runs of an arm in their seed alone; compare one with "
                "the other: paft compare RUN_A RUN_B."
            )
    return [load(folder) for folder in folders]


def _settings(results: Results) -> dict[str, Any]:
    """Return what the runs of an arm have in common; evaluations differ in their adapters, which say nothing of it."""
    if results.kind == "evaluation":
        return {}
    return {key: value for key, value in flat(results.config).items() if key.split(".")[0] in _OF_AN_ARM or key in _NAMES}


_OF_AN_ARM = ("K", "T", "schedule", "sampler", "loss", "optim", "train_examples", "train_prompts")
_NAMES = ("method.name", "dataset.name", "model.lora.r", "model.dtype")  # paths may differ from machine to machine


def share(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Cut runs down to the prompts and examples that all have, in one order.

    Raises InputError for fewer than two of each, and for runs whose answers were scored by several metrics.
    """
    _check_metrics([run.results for run in runs])
    prompts = [{digest: i for i, digest in enumerate(run.matrix.prompt_digests)} for run in runs]
    examples = [{digest: i for i, digest in enumerate(run.matrix.example_digests)} for run in runs]
    common = [[d for d in places[0] if all(d in others for others in places)] for places in (prompts, examples)]
    cut = [
        ComparedRun(run.results, run.matrix.select([p[d] for d in common[0]], [e[d] for d in common[1]]))
        for run, p, e in zip(runs, prompts, examples, strict=True)
    ]
    if len(common[0]) < 2 or len(set(cut[0].matrix.groups)) < 2:
        names = ", ".join(run.results.run for run in runs)
        raise InputError(
            f"{names}: they share {len(common[0])} prompts and {len(common[1])} examples (of equal text and answer), which is "
            "too few to compare; evaluate them on one data set and pool."
        )
    return cut


def _check_metrics(runs: Sequence[Results]) -> None:
    """Raise InputError if the answers of runs were scored by several metrics: their numbers are of different things."""
    first, metric = runs[0], _metric(runs[0])
    for other in runs[1:]:
        if _metric(other) != metric:
            raise InputError(
                f"{first.run} is scored by {metric} and {other.run} by {_metric(other)}, so their numbers cannot be compared; "
                "score both by the same dataset.metric."
            )


def _metric(results: Results) -> str:
    """Return the metric of a run, as it is set."""
    dataset = results.config.get("dataset") or {}
    pattern = dataset.get("pattern")
    return f"{dataset.get('metric', 'choice')}{f' ({pattern})' if pattern else ''}"


def compare_sides(a: Sequence[Path], b: Sequence[Path]) -> Compared:
    """Compare the runs of two sides; raises InputError if they cannot be."""
    n = max(len(a), len(b))
    if len(a) != len(b) and not _is_base(min(a, b, key=len)):
        raise InputError(
            f"{len(a)} runs against {len(b)}: seeds are compared in pairs; give as many of one as of the other, or one run of "
            "the base model, which stands for every seed."
        )
    sides = [seeds_of(folders) for folders in (a, b)]
    runs = share([run for side in sides for run in (side * n if len(side) == 1 else side)])
    side_a, side_b = runs[:n], runs[n:]
    groups = runs[0].matrix.group_numbers
    correct_a, correct_b = (correct_of(side) for side in (side_a, side_b))
    seeds = [seed_variance(correct, groups) if len(correct) > 1 else None for correct in (correct_a, correct_b)]
    tail = cvar_difference(correct_a, correct_b, _families(runs[0]))
    return Compared(side_a, side_b, compare(correct_a, correct_b, groups), tail, *seeds)


def _is_base(side: Sequence[Path]) -> bool:
    """Say whether a side is one run of the base model, which has no seeds and stands beside every one of the other's."""
    return len(side) == 1 and read_results(side[0]).is_base


def _families(run: ComparedRun) -> list[str]:
    """Return the wording family of each prompt that is compared, "" where the run's prompts are not at hand.

    A prompt that names no family is one of its own.
    """
    try:
        wordings = run.results.per_prompt().set_index("prompt_id")["wording"].fillna("")
    except InputError:
        return [""] * len(run.matrix.prompt_ids)
    return [wordings.get(prompt) or prompt for prompt in run.matrix.prompt_ids]


def verdict(comparison: Comparison, called: str = "accuracy") -> str:
    """Say in one sentence what the comparison shows; at least one of mean and std must tell the runs apart.

    Args:
        called: what the numbers are called.
    """
    more = "is right more often" if called == "accuracy" else "scores higher"
    mean, numbers = comparison.mean, _numbers(comparison, 1)
    if mean.low is None or mean.high is None or comparison.p is None:
        reason = f"fewer than {FEWEST} prompts or independent examples are shared, or the runs differ nowhere"
        return f"No interval can be given ({reason}); A against B: {numbers}."
    better = int(mean.low > 0) - int(mean.high < 0)
    steadier = int(np.sign(comparison.std_b.value - comparison.std_a.value)) if comparison.p < 0.05 else 0
    if better == steadier == 0:
        return f"A and B cannot be told apart; A against B: {numbers}."
    first, second = "AB" if (better or steadier) > 0 else "BA"
    numbers = _numbers(comparison, 1 if first == "A" else -1)
    if better == -steadier:
        return f"{first} {more} than {second}, but varies more over prompts; {first}: {numbers}."
    if steadier == 0:
        return f"{first} {more} than {second}, how much they vary cannot be told apart; {first}: {numbers}."
    return f"{first} is more robust than {second}: {numbers}."


def _numbers(comparison: Comparison, sign: int) -> str:
    """Return the differences of A from B, or with sign -1 of B from A."""
    low, high = (None if end is None else sign * end for end in (comparison.mean.low, comparison.mean.high)[::sign])
    mean = bracketed(Estimate(sign * comparison.mean.value, low, high), "+")
    one, other = (percent(std.value) for std in (comparison.std_a, comparison.std_b)[::sign])
    p = "" if comparison.p is None else f" (permutation {p_value(comparison.p)})"
    worst = percent(sign * (comparison.worst_a - comparison.worst_b), "+")
    return f"mean {mean} points, std {one} instead of {other}{p}, worst prompt {worst}"


def rows(compared: Compared) -> list[tuple[str, str, str, str]]:
    """Return the lines of the table: what, A, B and their difference."""
    comparison = compared.comparison
    mean_a, mean_b = (percent(float(correct_of(side).mean())) for side in (compared.a, compared.b))
    std_a, std_b = comparison.std_a, comparison.std_b
    apart = percent(std_a.value - std_b.value, "+")
    lines = [
        ("mean", mean_a, mean_b, bracketed(comparison.mean, "+")),
        ("std over prompts, less the examples' noise", bracketed(std_a), bracketed(std_b), apart),
        _worst_tenth(compared),
        _line("worst prompt, chosen on other rows", comparison.worst_a, comparison.worst_b),
        ("prompts won", str(comparison.wins), str(comparison.losses), f"{comparison.ties} equal"),
    ]
    if compared.a[0].matrix.given:
        labels = compared.a[0].results.labels
        a, b = (answers_given(mean_given([run.matrix for run in side]), labels) for side in (compared.a, compared.b))
        lines.append((given_by(labels), a, b, "-"))
    one, other = compared.seeds_a, compared.seeds_b
    if one is not None and other is not None:
        lines += [
            _line("std over seeds", one.seed, other.seed),
            _line("std over prompts, all seeds", one.prompt, other.prompt),
            _line("std, seed x prompt", one.interaction, other.interaction),
            ("mean, seed by seed", "", "", " ".join(percent(value, "+") for value in comparison.by_seed)),
        ]
    return lines


def _worst_tenth(compared: Compared) -> tuple[str, str, str, str]:
    a, b = map(percent, compared.worst_tenths)
    return "worst tenth of the prompts (CVaR10)", a, b, bracketed(compared.tail, "+")


def _line(what: str, a: float, b: float) -> tuple[str, str, str, str]:
    return what, percent(a), percent(b), percent(a - b, "+")


def notes(compared: Compared) -> list[str]:
    """Say what the numbers are and how far they go."""
    p = compared.comparison.p
    matrix = compared.a[0].matrix
    lines = [
        f"{compared.cells.removesuffix('.')}{guessed(matrix.chance, matrix.constant)}.",
        *_unlike([*compared.a, *compared.b]),
        f"{unit(compared.called)}; in brackets 95% intervals, for other prompts and examples of the kind, where one can be "
        "promised.",
        "std is over prompts, less the noise of the examples"
        + ("." if p is None else f"; that both vary alike: permutation {p_value(p)}."),
        "The worst prompt is chosen on one half of the examples and measured on the other.",
    ]
    lines += _of_the_base(compared)
    if compared.seeds_a is None:
        return [*lines, "This is about these two runs: other seeds of the same methods may differ."]
    covers = "the intervals do not cover other seeds"
    if compared.tail.low is not None:
        covers = f"but for CVaR10's, which is for other seeds and other families of prompts, {covers}"
    return [*lines, f"Means and variances are averaged over the seeds at hand; {covers}."]


def _of_the_base(compared: Compared) -> list[str]:
    """Say so where one side is the base model of the other, and training made that no better."""
    sides = {"A": compared.a, "B": compared.b}
    base = [name for name, runs in sides.items() if all(run.results.is_base for run in runs)]
    models = {run.results.fingerprints.base_model.sample for run in (*compared.a, *compared.b)}
    if len(base) != 1 or len(models) > 1:
        return []
    trained, untrained = (compared.a, compared.b) if base == ["B"] else (compared.b, compared.a)
    gain = estimate((correct_of(trained) - correct_of(untrained)).mean(0), compared.a[0].matrix.group_numbers)
    return [f"BEWARE: {base[0]} is the base model, and {no_gain(gain)}"] if no_sign_of(gain) else []


def _unlike(runs: Sequence[ComparedRun]) -> list[str]:
    """Say where the runs were not measured alike: a difference may come from that."""
    measured = {
        "scored alike (scoring)": [
            run.results.scoring.model_dump_json(include={"scoring", "normalise", "max_new_tokens"}) for run in runs
        ],
        "scored by one version of the function (dataset.metric)": [
            str(run.results.scoring.metric and run.results.scoring.metric.source) for run in runs
        ],
        "asked with as many shots (dataset.shots)": [str(run.results.config["dataset"].get("shots", 0)) for run in runs],
        "computed alike (dtype)": [run.results.dtype for run in runs],
        "of one base model (fingerprints)": [run.results.fingerprints.base_model.sample for run in runs],
    }
    return [
        f"BEWARE: the runs are not {what}: {' | '.join(sorted(set(values)))}."
        for what, values in measured.items()
        if len(set(values)) > 1
    ]


def show(compared: Compared) -> None:
    """Print the table, what its numbers are, and the verdict."""
    console = Console()
    shown = Table("", *("A", "B", "A - B"), title_justify="left")
    for column in shown.columns[1:]:
        column.justify = "right"
    for line in rows(compared):
        shown.add_row(*line)
    for side, runs in (("A", compared.a), ("B", compared.b)):
        console.print(f"{side}: {_name(runs)}", highlight=False, soft_wrap=True)
    console.print(shown)
    for note in (*notes(compared), "", compared.verdict):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def write_report(folder: Path, compared: Compared, command: str) -> None:
    """Write README.md, comparison.json and overlay.png.

    Args:
        command: by which it was made.
    """
    from paft.reporting.figure import save_overlay

    folder.mkdir(parents=True, exist_ok=True)
    sides = {"A": compared.a, "B": compared.b}
    accuracies = {_label(side, runs): correct_of(runs).mean(2).ravel() for side, runs in sides.items()}
    first = compared.a[0]
    unseen = all(run.results.unseen for run in (*compared.a, *compared.b))
    save_overlay(folder / "overlay.png", accuracies, first.matrix.chance, first.results.threshold, unseen, compared.called)
    page = ["# Two runs compared", "", compared.verdict, ""]
    page += [
        *bullets(f"{side}: {_name(runs)}" for side, runs in sides.items()),
        *table(["", "A", "B", "A - B"], rows(compared)),
    ]
    page += [*bullets(notes(compared)), f"![{compared.called} over prompts](overlay.png)", "", f"Made by `{command}`."]
    content = {
        "verdict": compared.verdict,
        "prompts": first.matrix.correct.shape[0],
        "examples": first.matrix.correct.shape[1],
        **asdict(compared.comparison),
        "cvar10": asdict(compared.tail),
        "seed_variance": {side: own and asdict(own) for side, own in (("A", compared.seeds_a), ("B", compared.seeds_b))},
        "runs": {side: [_origin(run) for run in runs] for side, runs in sides.items()},
    }
    write_atomically(folder / "comparison.json", json.dumps(content, indent=2) + "\n")
    write(folder, page)
    print(f"Written: {folder}")


def correct_of(side: Sequence[ComparedRun]) -> Array:
    """Return the scores (S, P, E) of the runs of one arm, a seed each."""
    return np.stack([run.matrix.correct for run in side]).astype(float)


def _name(side: Sequence[ComparedRun]) -> str:
    return ", ".join(dict.fromkeys(run.results.run for run in side))  # the base model stands there for each seed


def _label(side: str, runs: Sequence[ComparedRun]) -> str:
    others = f" and {len(runs) - 1} more seeds" if len(runs) > 1 else ""
    return f"{side}: {_name(runs[:1])}{others}"


def _origin(run: ComparedRun) -> dict[str, Any]:
    """Return what a number can be traced by."""
    config = hashlib.sha256(json.dumps(run.results.config, sort_keys=True).encode()).hexdigest()[:8]
    return {"run": run.results.run, "git": run.results.git.model_dump(), "config": config}
