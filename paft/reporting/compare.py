"""Compare two runs on the cells they share: is A more robust than B, and how sure are we?

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
from paft.evaluation.statistics import FEWEST, Array, Comparison, Estimate, SeedVariance, compare, seed_variance
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically


@dataclass(frozen=True)
class Run:
    """A finished run: its results.json and its score matrix."""

    results: dict[str, Any]
    matrix: ScoreMatrix


@dataclass(frozen=True)
class Compared:
    """What two sides, of one run a seed each, show on the prompts and examples that all of their runs share."""

    a: list[Run]  # cut down to the shared cells
    b: list[Run]
    comparison: Comparison
    seeds_a: SeedVariance | None  # None for a single run
    seeds_b: SeedVariance | None

    @property
    def cells(self) -> str:
        """Say what the numbers were taken over."""
        prompts, examples = self.a[0].matrix.correct.shape
        seeds = f", {len(self.a)} seeds each" if len(self.a) > 1 else ""
        return f"On {prompts} prompts x {examples:,} examples that both share: {prompts * examples:,} cells{seeds}."

    @property
    def verdict(self) -> str:
        """Say in one sentence which side is more robust, with the numbers, or that the two cannot be told apart."""
        return verdict(self.comparison)

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


def load(folder: Path) -> Run:
    """Read a run; raises InputError for a folder that holds none, or answers that nobody could check."""
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no results.json; give the folder of a finished run.") from None
    except ValueError:  # no JSON, or no text
        raise InputError(f"{path}: it is damaged; evaluate the run again.") from None
    if not isinstance(results, dict) or "robustness" not in results or "run" not in results:
        raise InputError(f"{path}: this is no results.json of a run; give the folder of a finished run.")
    if results["robustness"] is None:
        raise InputError(f"{folder}: its rows have no answers, so nothing is right or wrong; compare runs on labelled rows.")
    return Run(results, read_matrix(folder / "matrix.parquet"))


def share(runs: Sequence[Run]) -> list[Run]:
    """Cut runs down to the prompts and examples that all have, in one order; raises InputError for fewer than two of each."""
    prompts = [{digest: i for i, digest in enumerate(run.matrix.prompt_digests)} for run in runs]
    examples = [{digest: i for i, digest in enumerate(run.matrix.example_digests)} for run in runs]
    common = [[d for d in places[0] if all(d in others for others in places)] for places in (prompts, examples)]
    cut = [
        Run(run.results, run.matrix.select([p[d] for d in common[0]], [e[d] for d in common[1]]))
        for run, p, e in zip(runs, prompts, examples, strict=True)
    ]
    if len(common[0]) < 2 or len(set(cut[0].matrix.groups)) < 2:
        names = ", ".join(run.results["run"] for run in runs)
        raise InputError(
            f"{names}: they share {len(common[0])} prompts and {len(common[1])} examples (of equal text and answer), which is "
            "too few to compare; evaluate them on one data set and pool."
        )
    return cut


def compare_sides(a: Sequence[Path], b: Sequence[Path]) -> Compared:
    """Compare the runs of two sides; raises InputError if they cannot be."""
    if len(a) != len(b):
        raise InputError(f"{len(a)} runs against {len(b)}: seeds are compared in pairs; give as many of one as of the other.")
    runs = share([load(folder) for folder in (*a, *b)])
    side_a, side_b = runs[: len(a)], runs[len(a) :]
    groups = np.unique(runs[0].matrix.groups, return_inverse=True)[1]
    correct_a, correct_b = (_correct(side) for side in (side_a, side_b))
    seeds = [seed_variance(correct, groups) if len(correct) > 1 else None for correct in (correct_a, correct_b)]
    return Compared(side_a, side_b, compare(correct_a, correct_b, groups), *seeds)


def verdict(found: Comparison) -> str:
    """Say in one sentence what the comparison shows; at least one of mean and std must tell the runs apart."""
    mean, numbers = found.mean, _numbers(found, 1)
    if mean.low is None or mean.high is None or found.p is None:
        reason = f"fewer than {FEWEST} prompts or independent examples are shared, or the runs differ nowhere"
        return f"No interval can be given ({reason}); A against B: {numbers}."
    better = int(mean.low > 0) - int(mean.high < 0)
    steadier = int(np.sign(found.std_b.value - found.std_a.value)) if found.p < 0.05 else 0
    if better == steadier == 0:
        return f"A and B cannot be told apart; A against B: {numbers}."
    first, second = "AB" if (steadier or better) > 0 else "BA"
    numbers = _numbers(found, 1 if first == "A" else -1)
    if better == -steadier:
        return f"{first} varies less over prompts than {second}, but {second} is right more often; {first}: {numbers}."
    if steadier == 0:
        return f"{first} is right more often than {second}, how much they vary cannot be told apart; {first}: {numbers}."
    return f"{first} is more robust than {second}: {numbers}."


def _numbers(found: Comparison, sign: int) -> str:
    """Return the differences of A from B, or with sign -1 of B from A."""
    low, high = (None if end is None else sign * end for end in (found.mean.low, found.mean.high)[::sign])
    mean = _signed(Estimate(sign * found.mean.value, low, high))
    one, other = (found.std_a, found.std_b)[::sign]
    p = "" if found.p is None else f" (permutation {_p(found.p)})"
    worst = _signed(Estimate(sign * (found.worst_a - found.worst_b)))
    return f"mean {mean} points, std {_percent(one)} instead of {_percent(other)}{p}, worst prompt {worst}"


def rows(compared: Compared) -> list[tuple[str, str, str, str]]:
    """Return the lines of the table: what, A, B and their difference."""
    found = compared.comparison
    means = [Estimate(float(_correct(side).mean())) for side in (compared.a, compared.b)]
    worst = [Estimate(found.worst_a), Estimate(found.worst_b)]
    lines = [
        ("mean", _percent(means[0]), _percent(means[1]), _signed(found.mean)),
        (
            "std over prompts",
            _percent(found.std_a) + _brackets(found.std_a),
            _percent(found.std_b) + _brackets(found.std_b),
            _signed(_less(found.std_a, found.std_b)),
        ),
        ("worst prompt", _percent(worst[0]), _percent(worst[1]), _signed(_less(*worst))),
        ("prompts won", str(found.wins), str(found.losses), f"{found.ties} equal"),
    ]
    if compared.seeds_a is not None and compared.seeds_b is not None:
        for name, what in (
            ("seed", "std over seeds"),
            ("prompt", "std over prompts, all seeds"),
            ("interaction", "std, seed x prompt"),
        ):
            one, other = (Estimate(getattr(side, name)) for side in (compared.seeds_a, compared.seeds_b))
            lines.append((what, _percent(one), _percent(other), _signed(_less(one, other))))
        lines.append(("mean, seed by seed", "", "", " ".join(_signed(Estimate(value)) for value in found.by_seed)))
    return lines


def notes(compared: Compared) -> list[str]:
    """Say what the numbers are and how far they go."""
    p = compared.comparison.p
    lines = [
        compared.cells,
        *_unlike([*compared.a, *compared.b]),
        "Percent; in brackets 95% intervals, for other prompts and examples of the kind, where one can be promised.",
        "std is over prompts, less the noise of the examples"
        + ("." if p is None else f"; that both vary alike: permutation {_p(p)}."),
        "The worst prompt is chosen on one half of the examples and measured on the other.",
    ]
    if compared.seeds_a is None:
        return [*lines, "This is about these two runs: other seeds of the same methods may differ."]
    return [*lines, "Means and variances are averaged over the seeds at hand; the intervals do not cover other seeds."]


def _unlike(runs: Sequence[Run]) -> list[str]:
    """Say where the runs were not measured alike: a difference may come from that."""
    said = []
    for what, key in (("scored", "how"), ("computed", "dtype"), ("of the base model", "fingerprints")):
        found = {json.dumps(_kept(run.results.get(key)), sort_keys=True) for run in runs}
        if len(found) > 1:
            said.append(f"BEWARE: the runs are not {what} alike ({key}): {' | '.join(sorted(found))}.")
    return said


def _kept(value: Any) -> Any:
    """Return what should be alike: the way of scoring, the dtype, the base model's weights."""
    if isinstance(value, dict):
        return {key: value[key] for key in ("scoring", "normalise", "max_new_tokens", "base_model") if key in value}
    return value


def write_report(folder: Path, compared: Compared, command: str) -> None:
    """Write README.md, comparison.json and overlay.png."""
    from paft.reporting.figure import save_overlay

    folder.mkdir(parents=True, exist_ok=True)
    sides = {"A": compared.a, "B": compared.b}
    accuracies = {_label(side, runs): _correct(runs).mean(2).ravel() for side, runs in sides.items()}
    first = compared.a[0]
    save_overlay(folder / "overlay.png", accuracies, first.matrix.chance, first.results["threshold"])
    page = ["# Two runs compared", "", verdict(compared.comparison), ""]
    page += [f"* {side}: {_name(runs)}" for side, runs in sides.items()]
    page += [
        "",
        "| | A | B | A - B |",
        "|---|---:|---:|---:|",
        *("| " + " | ".join(line) + " |" for line in rows(compared)),
        "",
    ]
    page += [
        *(f"* {note}" for note in notes(compared)),
        "",
        "![accuracy over prompts](overlay.png)",
        "",
        f"Made by `{command}`.",
        "",
    ]
    content = {
        "verdict": verdict(compared.comparison),
        "prompts": first.matrix.correct.shape[0],
        "examples": first.matrix.correct.shape[1],
        **asdict(compared.comparison),
        "seed_variance": {side: found and asdict(found) for side, found in (("A", compared.seeds_a), ("B", compared.seeds_b))},
        "runs": {side: [_origin(run) for run in runs] for side, runs in sides.items()},
    }
    write_atomically(folder / "comparison.json", json.dumps(content, indent=2) + "\n")
    write_atomically(folder / "README.md", "\n".join(page))
    print(f"Written: {folder}")


def show(compared: Compared) -> None:
    """Print the table of a comparison, what its numbers are, and the verdict."""
    console = Console()
    table = Table("", *("A", "B", "A - B"), title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in rows(compared):
        table.add_row(*line)
    for side, runs in (("A", compared.a), ("B", compared.b)):
        console.print(f"{side}: {_name(runs)}", highlight=False, soft_wrap=True)
    console.print(table)
    for note in (*notes(compared), "", verdict(compared.comparison)):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _correct(side: Sequence[Run]) -> Array:
    return np.stack([run.matrix.correct for run in side]).astype(float)


def _name(side: Sequence[Run]) -> str:
    return ", ".join(run.results["run"] for run in side)


def _label(side: str, runs: Sequence[Run]) -> str:
    others = f" and {len(runs) - 1} more seeds" if len(runs) > 1 else ""
    return f"{side}: {_name(runs[:1])}{others}"


def _origin(run: Run) -> dict[str, Any]:
    """Return what a number can be traced by."""
    config = hashlib.sha256(json.dumps(run.results["config"], sort_keys=True).encode()).hexdigest()[:8]
    return {"run": run.results["run"], "git": run.results["git"], "config": config}


def _less(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(one.value - other.value)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}"


def _brackets(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _signed(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f}{_brackets(estimate)}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
