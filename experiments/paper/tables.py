"""The paper's tables from finished runs, each beside the paper's numbers."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from experiments.paper.commands import commands
from experiments.paper.notes import (
    PARTS,
    absent,
    best_of_others,
    best_on_the_test_prompts,
    chosen,
    not_one_configuration,
    nothing_printed,
    of_the_papers_hours,
    protocol,
    reading,
    unequal_seeds,
)
from experiments.paper.published import NAMES, PAPER, beside, hours, minus, published
from experiments.paper.rows import DEFAULT, TABLE_1, USER, labelled, rows_by_part, table_1, whole_pool
from experiments.paper.section import PaperSection
from paft.evaluation.statistics import Estimate
from paft.reporting.page import Entry, file_name, interval, number, percentage, words
from paft.reporting.runs import FinishedRun, TableRow, paired
from paft.reporting.sweep import given, seeds, size

_OUR_NUMBERS = ["mean", "std", "worst", "seeds", "std of seeds", "answers by place"]


def main_results(runs: pd.DataFrame) -> list[PaperSection]:
    """Table 1: one table for each part of a data set."""
    numbers = ["mean", "std", "worst", "Top", *_OUR_NUMBERS[3:]]
    headings = ["method", *numbers, "paper", "mean less the paper's"]
    tables = []
    for part, methods in table_1(runs).items():
        table = PaperSection(file_name("table1", part), f"Table 1: {part}", headings, recipe="table1")
        for method, row in methods.items():
            theirs = published("main_results", method, part)
            if method == "base" and theirs is None:
                theirs = published("other_tasks", method, part)
            mean, std, worst, *of_seeds = _ours(row)
            table.rows.append([words(NAMES[method]), mean, std, worst, percentage(row.average("top")), *of_seeds])
            table.rows[-1] += beside(theirs, row.mean.value)
            table.add_runs(row.runs)
        named = {NAMES[method]: row for method, row in methods.items()}
        table.notes = [*reading(named), *_of_the_paper(part, methods), *best_of_others(methods)]
        table.notes += [*chosen(methods), *absent(named, [NAMES[method] for method in TABLE_1]), *unequal_seeds(named)]
        tables.append(table)
    return [*tables, *_average(runs)] or [_without_runs("table1", "Table 1: all methods", headings, runs)]


def _of_the_paper(part: str, methods: Mapping[str, TableRow]) -> list[str]:
    """Say how the paper's numbers in Table 1 are unlike ours, or that there are none."""
    first = next(iter(methods.values())).runs[0]
    tables = [table for table in ("main_results", "other_tasks") if published(table, "base", part) is not None]
    if not tables:
        return nothing_printed("main_results", [part])
    return [protocol(first, tables[0], part), *(not_one_configuration(part) if "paft" in methods else [])]


def _average(runs: pd.DataFrame) -> list[PaperSection]:
    """Return Table 1's last column: the methods that were run on all of the paper's five, averaged over them."""
    parts = table_1(runs)
    methods = [method for method in TABLE_1 if all(method in parts.get(part, {}) for part in PARTS)]
    headings = ["method", "mean", "std", "Top", "paper", "mean less the paper's"]
    table = PaperSection("table1_average", "Table 1: average of the five", headings)
    for method in methods:
        five = [parts[part][method] for part in PARTS]
        means = [row.mean for row in five]
        widths = [None if m.low is None or m.high is None else (m.high - m.low) / 2 for m in means]
        value = float(np.mean([m.value for m in means]))
        estimate = Estimate(value)
        if None not in widths:
            width = float(np.linalg.norm(np.array(widths, float))) / len(five)
            estimate = Estimate(value, value - width, value + width)
        std, top = (_mean_of_parts([row.average(key) for row in five]) for key in ("std", "top"))
        theirs = published("main_results", method, "average")
        table.rows.append([words(NAMES[method]), interval(estimate), percentage(std), percentage(top), *beside(theirs, value)])
    table.notes = ["The interval takes the five as independent."]
    if not methods:
        return []
    firsts = [parts[part][methods[0]].runs[0] for part in PARTS]
    if len(models := dict.fromkeys(run.model for run in firsts)) > 1:
        table.notes.append(f"BEWARE: the five are of {len(models)} models: {', '.join(models)}.")
    table.notes += [protocol(firsts[0], "main_results", "average"), *not_one_configuration("average")]
    return [table]


def _mean_of_parts(values: Sequence[float | None]) -> float | None:
    """Return the mean over data sets; None if one of them has no such number, as Top without a threshold."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _ours(row: TableRow) -> list[Entry]:
    """Return mean, std, worst, what the seeds are and do, and the share of each choice in the answers."""
    values = [interval(row.mean), percentage(row.average("std")), percentage(row.average("min"))]
    return [*values, seeds(row.runs), percentage(row.std_of_seeds), given(row)]


def _difference(row: TableRow, other: TableRow | None) -> Entry:
    """Return how much better a row is than another, on the seeds that both have; - for the same and for none."""
    both = None if other is None or row is other else paired(row, other)
    if both is None:
        return words("-")
    comparison, shared = both
    some = "" if shared == row.seeds else f" (seed {', '.join(map(str, shared))})"
    entry = interval(comparison.mean, "+", some)
    return Entry(entry.text, {**entry.values, ": seeds": " ".join(map(str, shared))})


def _without_runs(name: str, title: str, headings: list[str], runs: pd.DataFrame) -> PaperSection:
    """Return an empty table, with the commands that would fill it for the data sets of these runs."""
    own = [run for run in runs["finished"] if not run.test_prompts]
    return PaperSection(name, title, headings, recipe=name, commands=commands(name, own))


def inference(runs: pd.DataFrame) -> PaperSection:
    """Table 3: what it costs to have the answers written out. A row is of one device."""
    headings = ["data set", "method", "device", "seeds", "tokens a rendering", "s for all", "times the base model's", "mean"]
    headings += ["no answer", "paper: hours", "paper: times the base model's"]
    shown = runs[runs["dataset.options"] == "shown"]  # no model can write a hidden option
    table = _without_runs("table3", "Table 3: inference, answers written out", headings, shown)
    measured = runs[runs["generate"].notna()]
    by_device = _by_device(measured.assign(device=[str(generated.device) for generated in measured["generate"]]))
    for dataset, device, methods in by_device:
        seconds = {method: _mean([written.seconds for written in own["generate"]]) for method, own in methods.items()}
        for method, own in methods.items():
            took = list(own["generate"])
            ratio = seconds[method] / seconds["base"] if "base" in seconds else None
            unanswered = _mean([g.unanswered / (g.robustness.n_prompts * g.robustness.n_examples) for g in took])
            row = [words(dataset), words(NAMES[method]), words(device), seeds(list(own["finished"]))]
            row += [number(_mean([g.output_tokens for g in took]), ".1f"), number(seconds[method], ".0f")]
            row += [number(ratio, ".2f"), percentage(_mean([g.robustness.mean for g in took])), percentage(unanswered)]
            table.rows.append([*row, *hours(*(published("inference_hours", m, dataset) for m in (method, "base")))])
            table.add_runs(own["finished"])
    table.notes = ["Greedy, up to a line break, end-of-text or 256 tokens. Seconds are those of the row's device."]
    table.notes += dict.fromkeys(size(TableRow([run], run.dataset), name=run.dataset) for run in table.runs)
    table.notes += of_the_papers_hours("inference_hours", [row[0].text for row in table.rows])
    return table


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _by_device(runs: pd.DataFrame) -> Iterable[tuple[str, str, dict[str, pd.DataFrame]]]:
    """Deal the runs of Table 1 by data set and device, and then by method: times of several devices have no mean."""
    every = labelled(runs, TABLE_1)
    for dataset, of_dataset in every.drop_duplicates(["dataset", "run"]).groupby("dataset", sort=False):  # one of several parts
        for device, of_device in of_dataset.groupby("device", sort=False):
            methods = of_device.sort_values("seed", kind="stable").groupby("label", sort=False)
            order = {str(label): own for label, own in methods}
            yield str(dataset), str(device), {method: order[method] for method in TABLE_1 if method in order}


def worst_and_adversarial(runs: pd.DataFrame) -> PaperSection:
    """Table 4: the worst unseen prompt, and Con."""
    headings = ["data set", "method", "seeds", "worst", "Con, mean", "Con, worst", "paper: Min", "worst less it"]
    headings += ["paper: Con", "mean less it"]
    table = _without_runs("table4", "Table 4: worst and adversarial prompts", headings, runs)
    printed = dict[str, FinishedRun | None]()
    for part, methods in table_1(runs).items():
        for method, row in methods.items():
            measured = [run for run in row.runs if run.results.extra_measures.adversarial is not None]
            if not measured:
                continue
            con = TableRow(measured, part, "adversarial")
            worst = TableRow(measured, part).average("min") or 0.0
            con_worst = float(con.correct.mean(2).min(1).mean())
            theirs = _min_and_con(method, part, worst, con.mean.value)
            ours = [words(part), words(NAMES[method]), seeds(measured), percentage(worst), interval(con.mean)]
            table.rows.append([*ours, percentage(con_worst), *theirs])
            printed[part] = measured[0] if theirs[0].text != "-" else printed.get(part)
            table.add_runs(measured)
        table.notes += reading({NAMES[method]: row for method, row in methods.items()}, part) if part in printed else []
    measured_how = (protocol(run, "worst_and_adversarial", part) for part, run in printed.items() if run is not None)
    table.notes += dict.fromkeys(measured_how)
    if any(printed.values()):
        table.notes.append(
            "The paper does not say which baseline its SFT is (it stands beside User), nor whether Con is the mean or the "
            "worst of ten prompts."
        )
    table.notes += nothing_printed("worst_and_adversarial", (part for part, run in printed.items() if run is None))
    return table


def _min_and_con(method: str, part: str, worst: float, con: float) -> list[Entry]:
    """Return what the paper prints, and ours minus it. Its GSM8K is tuned with GRPO and does not stand beside ours."""
    row = {"user": "sft", "paft": "paft"}.get(method, "")
    entries = []
    for what, ours in (("min", worst), ("con", con)):
        theirs = None if part == "gsm8k" else published("worst_and_adversarial", f"{row}_{what}", part)
        entries += [words("-"), words("-")] if theirs is None else [words(theirs), minus(ours, theirs)]
    return entries


_HELD_FOR = "method == 'paft' and whole_pool and unit == 'update'"
_K_AND_T = {f"K={k} T={t}": f"{_HELD_FOR} and K == {k} and T == {t}" for k, t in ((1, 3), (2, 3), (4, 3), (8, 3), (1, 6))}
_DEFAULT = "K=4 T=3"


def k_and_t(runs: pd.DataFrame) -> list[PaperSection]:
    """Table 5: the paper's five settings of K and T."""
    headings = ["K and T", *_OUR_NUMBERS, f"less {_DEFAULT}", "paper", "mean less the paper's"]
    tables = []
    for part, rows in rows_by_part(runs, _K_AND_T).items():
        if len(rows) == 1:
            continue
        table = PaperSection(file_name("table5", part), f"Table 5: K and T, {part}", headings, recipe="table5")
        for name, row in rows.items():
            theirs = beside(published("k_and_t", name, part), row.mean.value)
            table.rows.append([words(name), *_ours(row), _difference(row, rows.get(_DEFAULT)), *theirs])
            table.add_runs(row.runs)
        first = next(iter(rows.values())).runs[0]
        printed = published("k_and_t", _DEFAULT, part) is not None
        table.notes += [protocol(first, "k_and_t", part)] if printed else nothing_printed("k_and_t", [part])
        table.notes += [*best_on_the_test_prompts(rows, _DEFAULT), *reading(rows), *absent(rows, _K_AND_T)]
        tables.append(table)
    return tables or [_without_runs("table5", "Table 5: K and T", headings, runs)]


_SIZES = ("1", "2", "5", "10", "24", "60", "400, composed")


def pool_size(runs: pd.DataFrame) -> list[PaperSection]:
    """Figure 8: how many training prompts it takes; K=1, T=3."""
    headings = ["training prompts", "seen", "draws", *_OUR_NUMBERS, "less the whole pool's"]
    own = runs.query("method == 'paft' and not own_pool and unit == 'update' and K == 1 and T == 3")
    sizes = own[["composed", "templates"]].drop_duplicates().sort_values(["composed", "templates"]).itertuples(index=False)
    labels = {f"{n}, composed" if composed else str(n): f"templates == {n} and composed == {composed}" for composed, n in sizes}
    tables = []
    for part, rows in rows_by_part(own, labels).items() if labels else ():
        table = PaperSection(file_name("pool_size", part), f"Figure 8: pool size, {part}", headings, recipe="pool_size")
        whole = next((row for row in rows.values() if whole_pool(row.runs[0])), None)
        for label, row in rows.items():
            plans = [run.results.plan for run in row.runs if run.results.plan is not None]
            n, *kind = label.split(", ")
            first = Entry(label, {"": n, ": kind": kind[0] if kind else "written"})
            seen = number(_mean([plan.templates_seen for plan in plans]), ".0f")
            table.rows.append([first, seen, number(plans[0].draws, ","), *_ours(row), _difference(row, whole)])
            table.curve[label] = row
            table.add_runs(row.runs)
        table.notes = [
            "As many draws in every row, one an update; *seen*: how many of the prompts came up (mean over seeds).",
            f"The paper's curves are not tabulated. {' '.join(PAPER['pool_size']['notes'])}",
            *reading(rows),
            *absent(rows, _SIZES),
        ]
        tables.append(table)
    return tables or [_without_runs("pool_size", "Figure 8: pool size", headings, runs)]


_HELD = "PAFT, a prompt held for 4 updates (default)"
_FIXED = "one fixed prompt"
_PAFT = "method == 'paft' and whole_pool and T == 3"
_CONTROLS = {
    _HELD: DEFAULT,
    "PAFT, held for 4 examples": f"{_PAFT} and unit == 'example' and K == 4",
    "PAFT, drawn for each example anew": f"{_PAFT} and unit == 'example' and K == 1",
    "frozen: a prompt for each row (the released code)": f"{_PAFT} and unit == 'row'",
    _FIXED: USER,
    "one fixed prompt, five epochs": USER.replace("T == 3", "T == 5"),
}


def controls(runs: pd.DataFrame) -> PaperSection:
    """What the paper lacks."""
    headings = ["data set", "run", "tokens", "times the default's", *_OUR_NUMBERS, "less the default's"]
    table = _without_runs("controls", "Controls that the paper lacks", headings, runs)
    for part, rows in rows_by_part(runs, _CONTROLS).items():
        if rows.keys() <= {_HELD, _FIXED}:  # which are Table 1's
            continue
        default = rows.get(_HELD)
        for label, row in rows.items():
            ratio = None if default is None else _tokens(row) / _tokens(default)
            ours = [words(part), words(label), number(_tokens(row), ",.0f"), number(ratio, ".2f"), *_ours(row)]
            table.rows.append([*ours, _difference(row, default)])
            table.add_runs(row.runs)
        table.notes += [*reading(rows, part), *(f"{part}: {note}" for note in absent(rows, _CONTROLS))]
    table.notes.append("Tokens: those that were trained on.")
    return table


def _tokens(row: TableRow) -> float:
    return _mean(run.results.training.tokens for run in row.runs if run.results.training is not None)


def training_time(runs: pd.DataFrame) -> PaperSection:
    """Table 10: what training costs. A row is of one device."""
    headings = ["data set", "method", "device", "updates", "tokens", "tokens/s", "minutes of training", "peak memory, GiB"]
    headings += ["seeds", "times User's", "paper: hours", "paper: times User's"]
    table = PaperSection("table10", "Table 10: training time", headings, recipe="table1")
    for dataset, device, methods in _by_device(runs[runs["method"] != "base"]):
        seconds = {method: _mean(own["training.seconds"]) for method, own in methods.items()}
        for method, own in methods.items():
            row = [words(dataset), words(NAMES[method]), words(device), number(own["training.updates"].iloc[0], ",")]
            row += [number(_mean(own["training.tokens"]), ",.0f"), number(_mean(own["training.tokens_per_s"]), ",.0f")]
            row += [number(seconds[method] / 60, ".1f"), number(own["peak_memory_bytes"].max() / 2**30, ".1f")]
            row += [seeds(list(own["finished"]))]
            row += [number(seconds[method] / seconds["user"] if seconds.get("user") else None, ".2f")]
            table.rows.append([*row, *hours(*(published("training_hours", m, dataset) for m in (method, "user")))])
            table.add_runs(own["finished"])
    table.notes = [
        "Updates alone, without search, validation and evaluation, means over the row's seeds; tokens are those that were "
        "trained on; memory is the largest peak of the processes; what else the device did at the time is not known."
    ]
    table.notes += of_the_papers_hours("training_hours", [row[0].text for row in table.rows])
    return table
