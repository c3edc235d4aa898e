"""The report of any sweep: what differs between its runs beside their numbers, best first."""

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paft.evaluation.tail import cvar
from paft.reporting.collect import Collected, collect, keep_runs
from paft.reporting.page import (
    Entry,
    Section,
    bullets,
    file_name,
    interval,
    number,
    percent,
    percentage,
    show,
    unit,
    words,
    write,
    write_csv,
    write_html,
)
from paft.reporting.runs import FinishedRun, TableRow, by_seed, commits, frame, no_gain, not_better, typed
from paft.reporting.table import answers_given, beware, guessed, input_remarks, mean_given
from paft.runtime.errors import InputError
from paft.runtime.files import check_page

READING = (
    "Mean: over seeds, prompts and examples, in brackets with a 95% interval for other prompts and examples of the kind; the "
    "seeds are those at hand, and their spread comes on top. std, worst and Top: over prompts, averaged over seeds."
)

_NUMBERS = ("mean", "std", "worst", "Top")
_SORTED_BY = (*_NUMBERS, "cvar10")  # the last stands in the table of the worst prompts
_CURVE = (0.02, 0.05, 0.1, 0.2, 0.5)  # shares of the prompts
_KEYS = {"worst": "min", "Top": "top"}  # of robustness, where they have another name
_SAME_IN_A_TABLE = ("seed", "dataset.")  # settings that are no columns: seeds are averaged, data sets have rows of their own


def report(runs: Sequence[Path], out: Path, keep: bool = False, sort: str = "mean", notes: Sequence[str] = ()) -> None:
    """Write the report of a sweep: README.md, index.html, sweep.csv, and a figure for each data set.

    Args:
        runs: folders of runs, or folders that hold them.
        keep: whether to copy what the report is made from to out/runs and out/pools.
        sort: the column by which rows are sorted: a number, best first, or a setting.
        notes: what else to say, at the top of the page.

    Raises InputError if there is no finished run, if a run is there twice, or for a column that is not there.
    """
    check_page(f"--out {out}", out)
    collected = collect(runs)
    section, labelled = table_of(collected.runs, sort)
    tails = tails_of(labelled, section)
    out.mkdir(parents=True, exist_ok=True)  # now that nothing is wrong
    section.figures = _draw(labelled, out)
    write_csv(out, section)
    write_csv(out, tails)
    page = [f"# {_title(collected.runs)}", "", *origin(collected.runs), *bullets(notes), READING, ""]
    page += ["What was run:", "", *bullets(f"**{name}**: {what}." for name, what in _by_test(collected.runs).items())]
    page += [*section.lines(), *tails.lines(), *left_out(collected), "Made by `paft report RUNS... --out DIR`.", ""]
    write(out, page)
    write_html(out, page)
    if keep:
        keep_runs(collected, out)
    show(section)
    print(f"Report: {out / 'index.html'}, {out / 'README.md'}", flush=True)


@dataclass(frozen=True)
class _Labelled:
    """A row of the table, with the settings that tell it from others.

    test names what its numbers were taken on: the data set or a part of it, with a number where runs on it were tested
    otherwise than others, so that nothing is averaged or compared over the two.
    """

    row: TableRow
    test: str
    settings: Mapping[str, Any]  # those of the columns that its method uses

    @property
    def is_whole(self) -> bool:
        """Whether it is of a whole data set, not of a part."""
        return self.row.part == self.row.runs[0].dataset

    def number(self, column: str) -> float | None:
        if column == "cvar10":
            return self.row.cvar10
        return self.row.mean.value if column == "mean" else self.row.average(_KEYS.get(column, column))


def table_of(runs: Sequence[FinishedRun], sort: str) -> tuple[Section, list[_Labelled]]:
    """Return the table of a sweep, and its rows in their order; raises InputError for a column that is not there."""
    suffixes = numbered(runs)
    data = frame(runs)
    data["test"] = [f"{part}{suffixes[place]}" for place, part in zip(data.index.tolist(), data["part"], strict=True)]
    columns = differing(runs)
    labelled = []
    for (test, part, *_), same in data.groupby(["test", "part", *columns], sort=False, dropna=False):
        own = [runs[place] for place in same.index]
        what = ", ".join([str(test), *(f"{key}={typed(own[0].settings[key])}" for key in columns if key in own[0].settings)])
        settings = {key: own[0].settings[key] for key in columns if key in own[0].settings}
        labelled.append(_Labelled(TableRow(by_seed(own, what), str(part)), str(test), settings))
    labelled = _sorted(labelled, sort, columns)
    several = data["test"].nunique() > 1
    headings = [*(["data set"] if several else []), *(key.removesuffix(".name") for key in columns)]
    section = Section("sweep", "All runs", [*headings, *_NUMBERS, "seeds", "std of seeds"])
    for one in labelled:
        names = [words(one.test)] if several else []
        names += [words(typed(one.settings[key]) if key in one.settings else "-") for key in columns]
        section.rows.append([*names, *_numbers(one)])
    sizes = dict.fromkeys(size(one.row, runs, one.test if several else None) for one in labelled)
    section.notes = [*sizes, *tested_otherwise(runs), *warnings(labelled)]
    return section, labelled


def numbered(runs: Sequence[FinishedRun]) -> list[str]:
    """Return what to add to the name of each run's data set: nothing, or (2), (3) ... where it was tested otherwise."""
    ways: dict[str, list[Mapping[str, Any]]] = {}  # data set -> how runs on it were tested
    suffixes = []
    for run in runs:
        known = ways.setdefault(run.dataset, [])
        if run.tested_on not in known:
            known.append(run.tested_on)
        place = known.index(run.tested_on)
        suffixes.append(f" ({place + 1})" if place else "")
    return suffixes


def tested_otherwise(runs: Sequence[FinishedRun]) -> list[str]:
    """Say of each data set on which runs were tested otherwise than others in what they differ."""
    ways: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        ways.setdefault(run.dataset, []).append(run.tested_on)
    lines = []
    for dataset, tested in ways.items():
        if differ := [key for key in tested[0] if any(way[key] != tested[0][key] for way in tested)]:
            lines.append(
                f"BEWARE: runs on {dataset} differ in {', '.join(differ)}, so that their numbers cannot be compared: they are "
                f"called {dataset}, {dataset} (2) ..., and nothing is averaged over them."
            )
    return lines


def tails_of(labelled: Sequence[_Labelled], table: Section) -> Section:
    """Return the table of the worst prompts, of where the spread comes from, and of sensitivity and calibration.

    Args:
        table: that of all runs, whose first columns name the rows here, too.
    """
    names = len(table.headings) - len(_NUMBERS) - 2
    by_label = all(one.row.runs[0].results.labels for one in labelled)
    answers = "answers by label" if by_label else "answers by place"
    headings = [*table.headings[:names], *(f"worst {100 * share:.0f}%" for share in _CURVE), "5th percentile"]
    headings += [
        "std: prompt",
        "seed",
        "prompt x seed",
        "flips",
        "POSIX",
        "PSS",
        "ECE",
        "ECE, worst prompt",
        answers,
    ]
    section = Section("tails", "The worst prompts, and where the spread comes from", headings)
    for one, row in zip(labelled, table.rows, strict=True):
        accuracy, spread = one.row.correct.mean(2), one.row.spread
        found = [run.results.sensitivity if one.is_whole else None for run in one.row.runs]
        sure = [None if own is None else own.calibration for own in found]
        stds = [None] * 3 if spread is None else [spread.prompt, spread.seed, spread.interaction]
        section.rows.append(
            [
                *row[:names],
                *(percentage(float(cvar(accuracy, share).mean())) for share in _CURVE),
                percentage(float(np.quantile(accuracy, 0.05, axis=1).mean())),
                *map(percentage, stds),
                percentage(_average(None if own is None else own.flip_rate for own in found)),
                number(_average(None if own is None else own.posix for own in found), ".3f"),
                number(_average(None if own is None else own.pss for own in found), ".3f"),
                percentage(_average(None if own is None else own.ece for own in sure)),
                percentage(_average(None if own is None else own.worst_ece for own in sure)),
                given(one.row),
            ]
        )
    section.notes = [
        "Worst N%: the mean accuracy of the worst N% of the prompts of a trained model, averaged over seeds (10%: CVaR10)."
    ]
    measured = [name for i, name in enumerate(headings) if any(row[i].text != "-" for row in section.rows)]
    if "std: prompt" in measured:
        section.notes += [
            "The stds are corrected for the noise of finitely many examples; that of prompts is what all seeds share."
        ]
    if explained := [what for name, what in _MEASURES.items() if name in measured]:
        section.notes += [" ".join(explained)]
    return section


# What a column of the tails is.
_MEASURES = {
    "flips": "Flips: how often another prompt changes the answer.",
    "POSIX": "POSIX: arXiv 2410.02185.",
    "PSS": "PSS: arXiv 2410.12405.",
    "ECE": "ECE: expected calibration error on a prompt.",
    "answers by place": "Answers by place: the share of the answers that are the first choice (A), the second, and so on.",
    "answers by label": "Answers by label: the share of the answers that are each label.",
}


def given(row: TableRow) -> Entry:
    """Return a cell with the share of each choice in the answers of all seeds."""
    shares = mean_given([run.matrix(row.part, row.measure) for run in row.runs])
    return words(answers_given(shares, row.runs[0].results.labels) or "-")


def _average(values: Iterable[float | None]) -> float | None:
    """Return the mean of values, None if one is missing or there is none."""
    known = list(values)
    return None if not known or None in known else float(np.mean([value for value in known if value is not None]))


def warnings(labelled: Sequence[_Labelled]) -> list[str]:
    """Return what makes the numbers of a table mean less, each line once with the runs that it is about.

    These are the warnings of its runs, test prompts that were trained on, test rows that were left out, and rows that are no
    better than the base model.
    """
    runs = list({run.folder: run for one in labelled for run in one.row.runs}.values())
    lines = warned(runs)
    bases = [one for one in labelled if one.row.runs[0].results.is_base]
    for one in (one for one in labelled if not one.row.runs[0].results.is_base and one.is_whole):
        for base in (base.row for base in bases if base.test == one.test):
            if one.row.runs[0].model == base.runs[0].model and (gain := not_better(one.row, base)) is not None:
                lines.setdefault(f"BEWARE: on {one.test} {no_gain(gain)}", []).extend(run.folder.name for run in one.row.runs)
    return named(lines, len(runs))


def warned(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Return the warnings of runs, test prompts that were trained on and test rows that were left out, each with its runs."""
    lines: dict[str, list[str]] = {}
    for run in runs:
        for line in (*beware(run.results), *input_remarks(run.results)):
            lines.setdefault(line, []).append(run.folder.name)
    return lines


def named(lines: Mapping[str, list[str]], of: int) -> list[str]:
    """Return lines, each with the runs that it is about, of so many."""
    few = {line: names if len(names) < of or of == 1 else ["all runs"] for line, names in lines.items()}
    return [
        f"{line} ({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''})"
        for line, names in few.items()
    ]


def differing(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the settings, but for the seed, in which runs on one data set differ that use them.

    A setting that some runs of a method have and others have not is one of those, such as the rank where some train an adapter
    and others all weights.
    """
    values: dict[str, dict[str, set[str]]] = {}  # setting -> data set -> as typed
    for run in runs:
        for key, value in run.settings.items():
            values.setdefault(key, {}).setdefault(run.dataset, set()).add(typed(value))
    alike: dict[tuple[str, str], list[set[str]]] = {}  # the settings of runs of one method on one data set
    for run in runs:
        method = str(run.settings.get("method.name", run.results.kind))
        alike.setdefault((run.dataset, method), []).append({*run.settings})
    in_some: set[str] = set()
    for keys in alike.values():
        in_some |= keys[0].union(*keys) - keys[0].intersection(*keys)
    differ = [key for key, of in values.items() if key in in_some or max(map(len, of.values())) > 1]
    return [key for key in differ if not key.startswith(_SAME_IN_A_TABLE)]


def _sorted(labelled: Sequence[_Labelled], sort: str, columns: Collection[str]) -> list[_Labelled]:
    """Sort rows within their part of a data set: numbers best first, settings from small to large, what has none last."""
    places = {test: place for place, test in enumerate(dict.fromkeys(one.test for one in labelled))}
    keys = {key.removesuffix(".name"): key for key in columns} | {key: key for key in columns}
    if sort not in (*_SORTED_BY, *keys):
        shown = ", ".join((*_SORTED_BY, *(key.removesuffix(".name") for key in columns)))
        raise InputError(f"--sort {sort}: the table has no such column; it has {shown}.")

    def key(one: _Labelled) -> tuple[int, bool, Any]:
        if sort in _SORTED_BY:
            value = one.number(sort)
            return places[one.test], value is None, value if value is None or sort == "std" else -value
        setting = one.settings.get(keys[sort])
        return places[one.test], setting is None, setting if isinstance(setting, int | float) else str(setting)

    return sorted(labelled, key=key)


def _numbers(one: _Labelled) -> list[Entry]:
    others = [percentage(one.number(column)) for column in _NUMBERS[1:]]
    return [interval(one.row.mean), *others, seeds(one.row.runs), percentage(one.row.std_of_seeds)]


def seeds(runs: Sequence[FinishedRun]) -> Entry:
    """Return a cell that lists the seeds of runs; in CSV their number, too."""
    own = [str(run.seed) for run in runs if run.seed is not None]
    return Entry(", ".join(own) or "-", {"": " ".join(own), ": n": str(len(runs))})


def size(row: TableRow, runs: Iterable[FinishedRun] = (), name: str | None = None) -> str:
    """Say over what the numbers of a row were taken.

    Args:
        runs: all runs of the page, which calls no test prompt unseen if one of them was trained on it.
        name: of the data set; None: it is not named.
    """
    _, prompts, examples = row.correct.shape
    threshold = row.runs[0].results.threshold
    top = "" if threshold is None else f"; Top: prompts at or above {percent(threshold)}"
    matrix = row.runs[0].matrix(row.part)
    throughout = guessed(matrix.chance, matrix.constant)
    of = unit(row.runs[0].results.scoring.called)
    percents = of if name is None else f"{name}: {of[0].lower() if of == 'Percent' else of[0]}{of[1:]}"
    kind = "unseen" if all(run.results.unseen for run in (*row.runs, *runs)) else "test"
    return f"{percents}, over {prompts} {kind} prompts x {examples:,} test examples{throughout}{top}."


def _draw(labelled: Sequence[_Labelled], out: Path) -> dict[str, str]:
    """Draw the accuracy over prompts of every row, all seeds together, in a figure for each data set."""
    from paft.reporting.figure import save_distribution

    figures: dict[str, str] = {}
    for test in dict.fromkeys(one.test for one in labelled if one.is_whole):
        own = [one for one in labelled if one.test == test]
        accuracies = {_label(one): one.row.correct.mean(2).ravel() for one in own}
        first = own[0].row
        name = f"{file_name('distribution', test)}.png"
        unseen = all(run.results.unseen for one in labelled for run in one.row.runs)
        chance, called = first.runs[0].matrix(first.part).chance, first.runs[0].results.scoring.called
        save_distribution(out / name, accuracies, chance, first.runs[0].results.threshold, unseen, called)
        figures[name] = f"{called[0].upper()}{called[1:]} over {'unseen' if unseen else 'test'} prompts, {test}"
    return figures


def _label(one: _Labelled) -> str:
    settings = [(key, value) for key, value in one.settings.items() if value is not None]
    label = ", ".join(f"{'' if key.endswith('.name') else f'{key}='}{typed(value)}" for key, value in settings)
    return textwrap.fill(label or one.row.runs[0].folder.name, 28, break_long_words=False)


def _title(runs: Sequence[FinishedRun]) -> str:
    kinds = "evaluation" if runs[0].results.kind == "evaluation" else "training run"
    return f"{len(runs)} {kinds}{'s' if len(runs) > 1 else ''} on {', '.join(dict.fromkeys(run.dataset for run in runs))}"


def origin(runs: Sequence[FinishedRun]) -> list[str]:
    """Say what models and commits runs are of, and warn of what may move numbers besides what the tables name."""
    models = ", ".join(sorted({run.model for run in runs}))
    lines = [f"{len(runs)} runs of {models}, made at {commits(run.results.git for run in runs)}.", ""]
    unlike = {
        "at {} states of the code": {str(run.results.git) for run in runs},
        "with {} sets of library versions": {str(run.results.versions) for run in runs},
        "on {} kinds of devices or numbers of threads": {str(run.results.device) for run in runs},
    }
    if beware := [text.format(len(states)) for text, states in unlike.items() if len(states) > 1]:
        lines += [f"BEWARE: the runs were made {' and '.join(beware)}, which may move numbers, too.", ""]
    return lines


def described(runs: Iterable[FinishedRun]) -> dict[str, str]:
    """Say for each data set what its runs have in common: model, sizes, scoring and device."""
    datasets: dict[str, list[FinishedRun]] = {}
    for run in runs:
        datasets.setdefault(run.dataset, []).append(run)
    return {dataset: _described(same) for dataset, same in datasets.items()}


def _by_test(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """Say what the runs have in common that were tested alike."""
    tests: dict[str, list[FinishedRun]] = {}
    for run, suffix in zip(runs, numbered(runs), strict=True):
        tests.setdefault(f"{run.dataset}{suffix}", []).append(run)
    return {test: _described(same) for test, same in tests.items()}


def _described(runs: Sequence[FinishedRun]) -> str:
    data = frame(runs)
    robust = runs[0].parts[runs[0].dataset]
    said = [f"{' and '.join(dict.fromkeys(run.model for run in runs))} in {' and '.join(data['dtype'].unique())}"]
    trained = data[data["training.updates"].notna()] if "training.updates" in data else data[:0]
    for key, text in (
        ("model.lora.r", "LoRA r={}"),
        ("plan.train_examples", "{:,} training rows"),
        ("examples_per_update", "{} rows an update"),
        ("training.updates", "{:,} updates"),
        ("optim.lr", "learning rate {:g}"),
    ):
        said += _in_common(trained, key, text)
    said.append(f"{robust.n_prompts} test prompts x {robust.n_examples:,} test examples, {scoring(runs[0])}")
    return "; ".join([*said, f"on {' and '.join(data['device'].unique())}"])


def _in_common(data: pd.DataFrame, key: str, text: str) -> list[str]:
    values = data[key].dropna().unique() if key in data else np.array([])
    return [text.format(values[0])] if len(values) == 1 else []


def scoring(run: FinishedRun) -> str:
    """Say how a run's answers were told right from wrong."""
    by = run.results.scoring
    if by.scoring == "generate":
        return "scored on answers written out"
    options = " with the options hidden" if run.config["dataset"]["options"] == "hidden" else ""
    return f"scored by likelihood ({'summed' if by.normalise == 'sum' else f'per {by.normalise}'}){options}"


def left_out(collected: Collected, others: Sequence[str] = ()) -> list[str]:
    """Say what a report does not show, and why.

    Args:
        others: finished runs that belong to no table.
    """
    lines: list[str] = []
    for what, names in (
        ("Folders that were left out:", [f"{name}: {why}" for name, why in collected.left_out.items()]),
        ("Jobs that failed (the same command tries them again):", collected.failures),
        ("Finished runs that belong to no table:", others),
    ):
        lines += [what, "", *bullets(names)] if names else []
    return lines
