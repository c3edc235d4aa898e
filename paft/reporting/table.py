"""The tables and remarks of a finished run, on the terminal."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paft.data.checks import LeftOut
from paft.data.tasks.base import place_name
from paft.evaluation.labels import LabelScore
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.robustness import Robustness, Uncertainty
from paft.evaluation.statistics import Estimate
from paft.evaluation.tail import FEWEST_OF_A_TAIL
from paft.prompts.seen import Seen
from paft.reporting.page import counted, percent, short, unit
from paft.reporting.results import Results, ServedRecord, Summary

_COLUMNS = ("mean", "std", "min", "max", "spread", "top")
_FAMILIES_SHOWN = 5
_CHOICES_SHOWN = 6
_BESIDE = {"base": "the base model", "user": "one fixed prompt (user)"}
_HEADINGS = {"min": "worst", "max": "best", "top": "Top"}


def print_robustness(rows: Mapping[str, Robustness], title: str, notes: Sequence[str] = ()) -> None:
    """Print a table of robustness in percent, one row per run, and notes below it.

    Args:
        rows: label -> robustness.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(_HEADINGS.get(column, column), justify="right")
    for label, row in rows.items():
        table.add_row(label, *(percent(getattr(row, column)) for column in _COLUMNS))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def coverage(results: Summary) -> str:
    """Return a sentence on what the numbers of labelled rows are taken over, and on chance and the threshold of Top."""
    robustness = results.robustness
    assert robustness is not None
    top = "" if results.threshold is None else f" Top: prompts at or above {100 * results.threshold:.0f}."
    over = f"over {robustness.n_prompts} test prompts x {robustness.n_examples} test examples"
    return f"{unit(results.scoring.called)}, {over}{guessed(results.chance, results.constant)}.{top}"


def guessed(chance: float | None, constant: float | None) -> str:
    """Return what is right without reading a row, as the end of a sentence; empty where answers are free-form.

    Args:
        chance: the accuracy of guessing, a fraction.
        constant: that of one choice throughout; None: not known.
    """
    if not chance:
        return ""
    throughout = "" if constant is None else f", one choice throughout gets {100 * constant:.1f}"
    return f"; chance is {100 * chance:.1f}{throughout}"


def mean_given(matrices: Sequence[ScoreMatrix]) -> list[float]:
    """Return the share of each choice in the answers of several runs."""
    return [sum(shares) / len(matrices) for shares in zip(*(matrix.given for matrix in matrices), strict=True)]


def answers_given(given: Sequence[float], labels: Iterable[str] = ()) -> str:
    """Return the share of the answers that are each choice, in percent; of many choices the most frequent.

    Args:
        labels: of a classification, what its choices are called; those of other data sets are called by their place.
    """
    names = [short(label) for label in labels] or [place_name(place) for place in range(len(given))]
    by_share = sorted(range(len(given)), key=lambda place: -given[place])[:_CHOICES_SHOWN]
    return ", ".join(f"{names[place]} {100 * given[place]:.0f}" for place in sorted(by_share))


def given_by(labels: Iterable[str]) -> str:
    """Return what `answers_given` is called."""
    return "answers by label" if list(labels) else "answers by place"


def found_by_label(labels: Mapping[str, LabelScore]) -> list[str]:
    """Return a sentence on how often the rows of each label are answered rightly, the worst first; none without labels."""
    found = [(score.recall, name, score) for name, score in labels.items() if score.recall is not None]
    shown = [
        f"{short(name)} {percent(recall)} ({counted(score.rows, 'row')})"
        for recall, name, score in sorted(found)[:_CHOICES_SHOWN]
    ]
    of = "" if len(shown) == len(found) else f", the {len(shown)} worst of {len(found)}"
    return [f"Right by label{of}: {', '.join(shown)}."] if shown else []


def worst_prompts(results: Summary) -> list[str]:
    """Return sentences on the worst prompts and the worst families, and on how sensitive the answers are to the prompt."""
    lines = []
    if results.tail is not None and results.robustness is not None and results.robustness.n_prompts >= FEWEST_OF_A_TAIL:
        curve = ", ".join(f"{100 * share:.0f}%: {100 * mean:.1f}" for share, mean in results.tail.curve)
        lines.append(
            f"The worst tenth of the prompts: mean {100 * results.tail.cvar10:.1f} (CVaR10); fifth percentile "
            f"{100 * results.tail.p5:.1f}. Mean of the worst {curve}."
        )
    for key, families in results.families.items():
        shown = list(families.items())[:_FAMILIES_SHOWN]
        worst = ", ".join(f"{name} {100 * family.mean:.1f} ({family.prompts})" for name, family in shown)
        lines.append(f"Worst by {key}, of {len(families)} (prompts in brackets): {worst}.")
    if (found := results.sensitivity) is not None:
        parts = [f"another prompt changes the answer {100 * found.flip_rate:.1f} times in 100"]
        parts += [] if found.posix is None else [f"POSIX {found.posix:.3f}"]
        parts += [] if found.pss is None else [f"PSS {found.pss:.3f}"]
        if (sure := found.calibration) is not None:
            parts.append(
                f"calibration error {100 * sure.ece:.1f} on a prompt, {100 * sure.worst_ece:.1f} on the worst (confidence "
                f"{100 * sure.confidence:.1f})"
            )
        lines.append(f"Sensitivity to the prompt: {', '.join(parts)}.")
    return lines


def certainty(uncertainty: Uncertainty | None) -> str:
    """Return a sentence on the uncertainty of the robustness, or on why there is no interval."""
    if uncertainty is None:
        return "Fewer than ten prompts or independent examples, or all answers alike: no interval for other prompts."
    return (
        f"For other prompts and examples of the kind: mean {_interval(uncertainty.mean)}; std less the examples' noise "
        f"{_interval(uncertainty.std)}; worst prompt, chosen on others, {100 * uncertainty.worst:.1f}."
    )


def beside(results: Results) -> list[str]:
    """Return sentences on how much better a run is than those that it is shown beside, on the same cells."""
    return [
        f"Beside {_BESIDE.get(name, name)}: mean {_interval(other.difference, '+')} points."
        for name, other in results.beside.items()
    ]


def remarks(results: Results) -> list[str]:
    """Return sentences on what else matters in results: on their inputs, consensus, Con, ties, texts without an answer ..."""
    lines = input_remarks(results)
    if (origin := results.fingerprints.base_model.dequantised_from) is not None:
        lines.append(f"The base model was dequantised from a {origin}.")
    lines += _served(results.served)
    if (agree := results.consensus) is not None:
        share = f"Two prompts answer alike {100 * agree.agreement:.1f} times in 100"
        vote = "" if agree.majority is None else f"; their majority is right {100 * agree.majority:.1f} times"
        lines.append(f"{share}{vote}.")
    if (con := results.extra_measures.adversarial) is not None:
        lines.append(f"On adversarial prompts (Con): mean {100 * con.mean:.1f}, worst {100 * con.worst:.1f}.")
    if (metric := results.scoring.metric) is not None and (metric.pattern is not None or metric.source is not None):
        by = f"the pattern {metric.pattern!r}" if metric.source is None else f"{metric.name} (SHA-256 {metric.source})"
        lines.append(f"Answers are scored by {by}.")
    counted = {
        "Renderings with equally likely choices, of which the first was taken": results.ties,
        "Generated texts that hold no option and count as wrong": results.unanswered,
        "Renderings that lost their beginning to the cut-off": results.test_prompts_truncated,
    }
    lines += [f"{what}: {n:,}." for what, n in counted.items() if n]
    if n := results.scoring.prompts_with_split_letters:
        lines.append(f"After {n} prompts an option's letter is more than one token.")
    return lines


def _served(served: ServedRecord | None) -> list[str]:
    """Return sentences on a served model: how it was asked, what that cost, and what is not known of it."""
    if served is None:
        return []
    cost = "" if served.cost is None else f", {'at least ' if served.uncounted else ''}${served.cost:.2f}"
    uncounted = f" ({served.uncounted:,} answers did not say theirs)" if served.uncounted else ""
    lines = [
        f"{served.name} was reached through {served.url}, and scored by {served.protocol}. Its weights were not seen, so no "
        f"fingerprint says which they were{'' if served.entry else ', and the server does not list it'}.",
        f"{served.requests:,} requests and {served.retries:,} retries: {served.prompt_tokens:,} tokens of prompts, "
        f"{served.completion_tokens:,} of answers{uncounted}{cost}.",
    ]
    lines += [f"Not every rendering could be scored by {way} ({why})." for way, why in served.given_up.items()]
    if served.letters_not_listed:
        lines.append(
            "Renderings in which not every option's letter was among the server's likeliest tokens: "
            f"{served.letters_not_listed:,}. The answer is known, because a letter that is not among them is less likely than "
            "each that is; of its probability only that it is small, and the calibration takes it for zero."
        )
    twice, wobble = served.repeated, served.repeated.largest_difference
    moved = f"; log-probabilities moved by up to {wobble:.2g}" if wobble else ""
    if twice.changed or wobble:
        lines.append(
            f"Asked for {twice.cells} renderings twice, the server answered {twice.changed} otherwise "
            f"({100 * twice.changed / twice.cells:.0f}%){moved}: another evaluation differs by as much."
        )
    return lines


def beware(results: Results) -> list[str]:
    """Return the warnings of results, marked as such, with those of generated answers."""
    generated = results.extra_measures.generate
    lines = [*results.warnings, *(f"Written out: {line}" for line in (generated.warnings if generated else []))]
    return [f"BEWARE: {line}" for line in lines]


def input_remarks(results: Results) -> list[str]:
    """Return sentences on test prompts that were trained on, and on test rows that were not scored."""
    prompts = results.fingerprints.pools["test"].prompts if "test" in results.fingerprints.pools else 0
    allowed = bool((results.config.get("prompts") or {}).get("allow_seen"))
    return [*seen_prompts(results.test_prompts_seen, prompts, allowed), *rows_left_out(results.test_rows_left_out)]


def seen_prompts(seen: Seen | None, prompts: int, allowed: bool) -> list[str]:
    """Say how many test prompts were trained on, if any was or if it was allowed, or that this is not known.

    Args:
        prompts: the number of test prompts.
    """
    if seen is None:
        return []
    if seen.copies is None or seen.near_copies is None:
        return ["Whether the test prompts were trained on is not known: there is no prompts/train.yaml beside the adapter."]
    if not allowed and seen.copies == seen.near_copies == 0:
        return []
    return [
        f"Of the {prompts} test prompts {seen.copies} were trained on word for word, and {seen.near_copies} nearly (at least "
        "90% alike)."
    ]


def rows_left_out(rows: LeftOut) -> list[str]:
    """Say how many test rows were not scored and why, or that it is not known whether they were trained on."""
    lines = []
    if rows.equal_choices:
        lines.append(f"Test rows left out because another choice equals the right one: {rows.equal_choices:,}.")
    if rows.training_rows:
        lines.append(f"Test rows left out because they are training rows, too: {rows.training_rows:,}.")
    if rows.training_rows is None:
        lines.append("Whether test rows are training rows is not known: the training rows are not at hand.")
    return lines


def print_run(label: str, results: Results, path: Path) -> None:
    """Print the results of a finished run: the robustness table with its notes, and the extreme prompts.

    Args:
        label: of the run's row; those above it are the runs that it is shown beside, those below it the parts of the data set.
        path: of its results.json; per_prompt.csv is read from the same folder.
    """
    notes = [*beware(results), *remarks(results)]
    if results.robustness is None or results.chance is None:  # rows without labels
        print("\n".join(notes))
        return
    over = coverage(results)
    if results.given:
        over += f" {given_by(results.labels).capitalize()}: {answers_given(results.given, results.labels)}."
    rows = {name: other.robustness for name, other in results.beside.items()} | {label: results.robustness} | results.parts
    if (generated := results.extra_measures.generate) is not None and generated.robustness is not None:
        rows[f"{label}, written out"] = generated.robustness
        share = generated.unanswered / (generated.robustness.n_prompts * generated.robustness.n_examples)
        notes.append(f"Written out, {100 * share:.1f}% of the answers hold no option.")
    said = [] if results.verdict is None else [f"Verdict: {results.verdict}"]
    by_label = found_by_label(results.labels)
    over_prompts = [*by_label, certainty(results.uncertainty), *beside(results), *worst_prompts(results)]
    print_robustness(rows, results.run, [*said, over, *over_prompts, *notes])
    print_extremes(path.with_name("per_prompt.csv"), results.scoring.called)
    print(f"Results: {path}")


def print_extremes(per_prompt: Path, called: str = "accuracy") -> None:
    """Print the worst and the best prompts with their accuracies, at most three of each, and no prompt twice.

    Args:
        per_prompt: the run's per_prompt.csv.
        called: its column of accuracies, or of what is measured instead.
    """
    with per_prompt.open(encoding="utf-8") as file:
        ranked = sorted(((float(row[called]), row["prompt_id"]) for row in csv.DictReader(file)), key=lambda row: row[0])
    n = min(3, len(ranked) // 2)
    if n == 0:
        return
    table = Table("worst prompts", "", "best prompts", "", show_edge=False)
    for (low, worst), (high, best) in zip(ranked[:n], ranked[: -n - 1 : -1], strict=True):
        table.add_row(escape(worst), f"{100 * low:.1f}", escape(best), f"{100 * high:.1f}")
    Console().print(table)


def _interval(estimate: Estimate, sign: str = "") -> str:
    value = f"{100 * estimate.value:{sign}.1f}"
    if estimate.low is None or estimate.high is None:
        return f"{value} (no interval can be promised)"
    return f"{value}, 95% interval [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"
