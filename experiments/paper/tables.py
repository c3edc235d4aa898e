"""The paper's tables from finished runs, each beside the paper's numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.paper.collect import Cell
from experiments.paper.commands import commands
from experiments.paper.notes import (
    PARTS,
    absent,
    best_of_others,
    chosen,
    common_seeds,
    device_name,
    method_names,
    model_name,
    not_one_configuration,
    nothing_printed,
    protocol,
    unequal_seeds,
)
from experiments.paper.page import Entry, Table, file_name, interval, number, percent, percentage, words
from experiments.paper.published import NAMES, PAPER, beside, hours, less, published
from experiments.paper.rows import (
    METHODS,
    Found,
    by_dataset,
    is_default,
    is_paft,
    is_user,
    of_table_1,
    paired,
    rows_by_part,
    tokens,
    unit,
)
from paft.evaluation.statistics import Estimate

_SEEDS = ["seeds", "std of seeds"]
_OUR_NUMBERS = ["mean", "std", "worst", *_SEEDS]


def main_results(cells: Sequence[Cell]) -> list[Table]:
    """Table 1: one table for each part of a data set."""
    headings = ["method", "mean", "std", "worst", "Top", *_SEEDS, "paper", "mean less the paper's"]
    tables = []
    for part, methods in of_table_1(cells).items():
        table = Table(file_name("table1", part), f"Table 1: {part}", "table1", headings)
        for method, found in methods.items():
            theirs = published("main_results", method, part)
            if method == "base" and theirs is None:
                theirs = published("other_tasks", method, part)
            mean, std, worst, *seeds = _ours(found)
            table.rows.append([words(NAMES[method]), mean, std, worst, percentage(found.average("top")), *seeds])
            table.rows[-1] += beside(theirs, found.mean.value)
            _add_runs(table, found.cells)
        table.notes = [_size(methods.values()), *_of_the_paper(part, methods), *best_of_others(methods), *chosen(methods)]
        named = {NAMES[method]: found for method, found in methods.items()}
        table.notes += [*absent(named, method_names()), *unequal_seeds(named)]
        tables.append(table)
    return [*tables, *_average(cells)] or [_without_runs("table1", "Table 1: all methods", headings, cells)]


def _of_the_paper(part: str, methods: Mapping[str, Found]) -> list[str]:
    """Say how the paper's numbers in Table 1 are unlike ours, or that there are none."""
    first = next(iter(methods.values())).cells[0]
    tables = [table for table in ("main_results", "other_tasks") if published(table, "base", part) is not None]
    if not tables:
        return nothing_printed("main_results", [part])
    return [protocol(first, tables[0], part), *(not_one_configuration(part) if "paft" in methods else [])]


def _average(cells: Sequence[Cell]) -> list[Table]:
    """Return Table 1's last column: the methods that were run on all of the paper's five, averaged over them."""
    found = of_table_1(cells)
    methods = [m for m in METHODS if all(m in found.get(part, {}) for part in PARTS)]
    headings = ["method", "mean", "std", "Top", "paper", "mean less the paper's"]
    table = Table("table1_average", "Table 1: average of the five", "", headings)
    for method in methods:
        five = [found[part][method] for part in PARTS]
        means = [one.mean for one in five]
        widths = [None if m.low is None or m.high is None else (m.high - m.low) / 2 for m in means]
        value = float(np.mean([m.value for m in means]))
        estimate = Estimate(value)
        if None not in widths:
            width = float(np.linalg.norm(np.array(widths, float))) / len(five)
            estimate = Estimate(value, value - width, value + width)
        std, top = (float(np.mean([one.average(key) for one in five])) for key in ("std", "top"))
        theirs = published("main_results", method, "average")
        table.rows.append([words(NAMES[method]), interval(estimate), percentage(std), percentage(top), *beside(theirs, value)])
    table.notes = ["The interval takes the five as independent."]
    if not methods:
        return []
    firsts = [found[part][methods[0]].cells[0] for part in PARTS]
    if len(models := dict.fromkeys(map(model_name, firsts))) > 1:
        table.notes.append(f"BEWARE: the five are of {len(models)} models: {', '.join(models)}.")
    table.notes += [protocol(firsts[0], "main_results", "average"), *not_one_configuration("average")]
    return [table]


def _size(found: Iterable[Found]) -> str:
    first = next(iter(found))
    _, prompts, examples = first.correct.shape
    threshold = first.cells[0].results["threshold"]
    top = "" if threshold is None else f"; Top: prompts at or above {percent(threshold)}"
    chance = percent(first.cells[0].part(first.part).chance)
    return f"Percent, over {prompts} unseen prompts x {examples:,} test examples; chance is {chance}{top}."


def _ours(found: Found) -> list[Entry]:
    """Return mean, std, worst and what the seeds are and do."""
    values = [interval(found.mean), percentage(found.average("std")), percentage(found.average("min"))]
    return [*values, _seeds(found.cells), percentage(found.std_of_seeds)]


def _seeds(cells: Sequence[Cell]) -> Entry:
    seeds = [str(cell.seed) for cell in cells if cell.method != "base"]
    return Entry(", ".join(seeds) or "-", {"": " ".join(seeds), ": n": str(len(cells))})


def _difference(found: Found, other: Found | None) -> Entry:
    """Return how much better a row is than another, on the seeds that both have; - for the same and for none."""
    both = None if other is None or found is other else paired(found, other)
    if both is None:
        return words("-")
    comparison, seeds = both
    some = "" if seeds == found.seeds else f" (seed {', '.join(map(str, seeds))})"
    entry = interval(comparison.mean, "+", some)
    return Entry(entry.text, {**entry.values, ": seeds": " ".join(map(str, seeds))})


def _add_runs(table: Table, cells: Sequence[Cell]) -> None:
    table.cells += cells
    table.commands = commands(table.recipe, table.cells)


def _without_runs(name: str, title: str, headings: list[str], cells: Iterable[Cell]) -> Table:
    """Return an empty table, with the commands that would fill it for the data sets of these runs."""
    own = [cell for cell in cells if not cell.prompts]
    return Table(name, title, name, headings, commands=commands(name, own))


def inference(cells: Sequence[Cell]) -> Table:
    """Table 3: what it costs to have the answers written out. A row is of one device."""
    headings = ["data set", "method", "device", "seeds", "tokens a rendering", "s for all", "times the base model's", "mean"]
    headings += ["no answer", "paper: hours", "paper: times the base model's"]
    shown = [cell for cell in cells if cell.config["dataset"]["options"] == "shown"]  # no model can write a hidden one
    table = _without_runs("table3", "Table 3: inference, answers written out", headings, shown)
    for dataset, device, methods in _by_device(cells, _generated_on):
        seconds = {m: float(np.mean([_generated(c)["seconds"] for c in same])) for m, same in methods.items()}
        for method, same in methods.items():
            took = [_generated(cell) for cell in same]
            ratio = seconds[method] / seconds["base"] if "base" in seconds else None
            unanswered = float(np.mean([g["unanswered"] / _renderings(g) for g in took]))
            row = [words(dataset), words(NAMES[method]), words(device), _seeds(same)]
            row += [number(float(np.mean([g["output_tokens"] for g in took])), ".1f"), number(seconds[method], ".0f")]
            row += [number(ratio, ".2f"), percentage(float(np.mean([g["robustness"]["mean"] for g in took])))]
            row += [percentage(unanswered)]
            table.rows.append([*row, *hours(*(published("inference_hours", m, dataset) for m in (method, "base")))])
            _add_runs(table, same)
    table.notes = ["Greedy, up to a line break, end-of-text or 256 tokens. Seconds are those of the row's device."]
    table.notes += _of_the_papers_hours("inference_hours", table)
    return table


def _of_the_papers_hours(name: str, table: Table) -> list[str]:
    """Say what the paper's hours are of, where they stand in a table, and for which data sets there are none."""
    datasets = {row[0].text: published(name, "paft", row[0].text) for row in table.rows}
    shown = (
        [f"The paper's: {PAPER[name]['model']}, {PAPER[name]['source'].split('; ')[1]}, on its own prompts."]
        if any(datasets.values())
        else []
    )
    return [*shown, *nothing_printed(name, (dataset for dataset, hour in datasets.items() if hour is None))]


def _by_device(cells: Sequence[Cell], device_of: Callable[[Cell], Any]) -> Iterable[tuple[str, str, dict[str, list[Cell]]]]:
    """Deal the runs of Table 1 by data set and device: times of several devices have no mean.

    Args:
        device_of: returns a run's device; None leaves the run out.
    """
    for dataset, methods in by_dataset(cells).items():
        devices: dict[str, dict[str, list[Cell]]] = {}
        for method, same in methods.items():
            for cell in same:
                if (device := device_of(cell)) is not None:
                    devices.setdefault(device_name(device), {}).setdefault(method, []).append(cell)
        for device, of_device in devices.items():
            yield dataset, device, of_device


def _generated(cell: Cell) -> Any:
    return cell.results["also"].get("generate")


def _generated_on(cell: Cell) -> Any:
    return None if _generated(cell) is None else _generated(cell)["device"]


def _renderings(generated: Mapping[str, Any]) -> int:
    return int(generated["robustness"]["n_prompts"] * generated["robustness"]["n_examples"])


def worst_and_adversarial(cells: Sequence[Cell]) -> Table:
    """Table 4: the worst unseen prompt, and Con."""
    headings = ["data set", "method", "seeds", "worst", "Con, mean", "Con, worst", "paper: Min", "worst less it"]
    headings += ["paper: Con", "mean less it"]
    table = _without_runs("table4", "Table 4: worst and adversarial prompts", headings, cells)
    printed = dict[str, Cell | None]()
    for part, methods in of_table_1(cells).items():
        for method, found in methods.items():
            measured = [cell for cell in found.cells if "adversarial" in cell.results["also"]]
            if not measured:
                continue
            con = Found(measured, part, "adversarial")
            worst = Found(measured, part).average("min") or 0.0
            con_worst = float(con.correct.mean(2).min(1).mean())
            row = [words(part), words(NAMES[method]), _seeds(measured), percentage(worst), interval(con.mean)]
            theirs = _min_and_con(method, part, worst, con.mean.value)
            table.rows.append([*row, percentage(con_worst), *theirs])
            printed[part] = measured[0] if theirs[0].text != "-" else printed.get(part)
            _add_runs(table, measured)
    measured_how = (protocol(cell, "worst_and_adversarial", part) for part, cell in printed.items() if cell is not None)
    table.notes += dict.fromkeys(measured_how)
    if any(printed.values()):
        table.notes.append(
            "The paper does not say which baseline its SFT is (it stands beside User), nor whether Con is the mean or the "
            "worst of ten prompts."
        )
    table.notes += nothing_printed("worst_and_adversarial", (part for part, cell in printed.items() if cell is None))
    return table


def _min_and_con(method: str, part: str, worst: float, con: float) -> list[Entry]:
    """Return what the paper prints, and ours less it. Its GSM8K is tuned with GRPO and does not stand beside ours."""
    row = {"user": "sft", "paft": "paft"}.get(method, "")
    entries = []
    for what, ours in (("min", worst), ("con", con)):
        theirs = None if part == "gsm8k" else published("worst_and_adversarial", f"{row}_{what}", part)
        entries += [words("-"), words("-")] if theirs is None else [words(theirs), less(ours, theirs)]
    return entries


_K_AND_T = {f"K={k} T={t}": (k, t) for k, t in ((1, 3), (2, 3), (4, 3), (8, 3), (1, 6))}
_DEFAULT = "K=4 T=3"


def k_and_t(cells: Sequence[Cell]) -> list[Table]:
    """Table 5: the paper's five cells."""
    headings = ["K and T", *_OUR_NUMBERS, f"less {_DEFAULT}", "paper", "mean less the paper's"]
    labels = {name: partial(is_paft, k=k, t=t) for name, (k, t) in _K_AND_T.items()}
    tables = []
    for part, rows in rows_by_part(cells, labels).items():
        if len(rows) == 1:
            continue
        table = Table(file_name("table5", part), f"Table 5: K and T, {part}", "table5", headings)
        for name, found in rows.items():
            theirs = beside(published("k_and_t", name, part), found.mean.value)
            table.rows.append([words(name), *_ours(found), _difference(found, rows.get(_DEFAULT)), *theirs])
            _add_runs(table, found.cells)
        first = next(iter(rows.values())).cells[0]
        theirs_too = published("k_and_t", _DEFAULT, part) is not None
        table.notes += [protocol(first, "k_and_t", part)] if theirs_too else nothing_printed("k_and_t", [part])
        table.notes += [*_best_on_the_test_prompts(rows), *absent(rows, _K_AND_T)]
        tables.append(table)
    return tables or [_without_runs("table5", "Table 5: K and T", headings, cells)]


def _best_on_the_test_prompts(rows: Mapping[str, Found]) -> list[str]:
    """Name the row that somebody would choose who looked at the test prompts."""
    seeds = common_seeds(rows.values())
    if not seeds:
        return []
    means = {name: found.only(seeds).mean.value for name, found in rows.items()}
    best = max(means, key=lambda name: means[name])
    return [
        f"Best on the test prompts, with the seeds that all rows have ({', '.join(map(str, seeds))}): {best}, "
        f"{percent(means[best])}. The paper's PAFT in Table 1 is chosen like that; ours is {_DEFAULT}, fixed beforehand."
    ]


_SIZES = ("1", "2", "5", "10", "24", "60", "400, composed")


def pool_size(cells: Sequence[Cell]) -> list[Table]:
    """Figure 8: how many training prompts it takes; K=1, T=3."""
    headings = ["training prompts", "seen", "draws", *_OUR_NUMBERS, "less the whole pool's"]
    one_each = [c for c in cells if c.method == "paft" and (c.config["K"], c.config["T"]) == (1, 3) and unit(c) == "update"]
    own = [c for c in one_each if c.composed or c.config["prompts"]["train"] is None]
    sizes = sorted({(c.composed, c.results["plan"]["templates"]) for c in own})
    labels = {f"{n}, composed" if composed else str(n): partial(_has_pool, n=n, composed=composed) for composed, n in sizes}
    tables = []
    for part, rows in rows_by_part(own, labels).items():
        table = Table(file_name("pool_size", part), f"Figure 8: pool size, {part}", "pool_size", headings)
        whole = next((found for found in rows.values() if found.cells[0].plain_pool), None)
        for label, found in rows.items():
            plans = [cell.results["plan"] for cell in found.cells]
            n, *kind = label.split(", ")
            seen = number(float(np.mean([plan["templates_seen"] for plan in plans])), ".0f")
            row = [Entry(label, {"": n, ": kind": kind[0] if kind else "written"}), seen, number(plans[0]["draws"], ",")]
            table.rows.append([*row, *_ours(found), _difference(found, whole)])
            table.curve[label] = found
            _add_runs(table, found.cells)
        table.notes = [
            "As many draws in every row, one an update; *seen*: how many of the prompts came up (mean over seeds).",
            f"The paper's curves are not tabulated. {' '.join(PAPER['pool_size']['notes'])}",
            *absent(rows, _SIZES),
        ]
        tables.append(table)
    return tables or [_without_runs("pool_size", "Figure 8: pool size", headings, cells)]


def _has_pool(cell: Cell, n: int, composed: bool) -> bool:
    return bool(cell.results["plan"]["templates"] == n) and cell.composed == composed


_HELD = "PAFT, a prompt held for 4 updates (default)"


def controls(cells: Sequence[Cell]) -> Table:
    """What the paper lacks."""
    headings = ["data set", "run", "tokens", "times the default's", *_OUR_NUMBERS, "less the default's"]
    table = _without_runs("controls", "Controls that the paper lacks", headings, cells)
    labels: dict[str, Callable[[Cell], bool]] = {
        _HELD: is_default,
        "PAFT, held for 4 examples": partial(_is_control, held="example", k=4),
        "PAFT, drawn for each example anew": partial(_is_control, held="example", k=1),
        "frozen: a prompt for each row (the released code)": partial(_is_control, held="row", k=None),
        "one fixed prompt": partial(is_user, epochs=3),
        "one fixed prompt, five epochs": partial(is_user, epochs=5),
    }
    for part, rows in rows_by_part(cells, labels).items():
        if rows.keys() <= {_HELD, "one fixed prompt"}:  # which are Table 1's
            continue
        default = rows.get(_HELD)
        for label, found in rows.items():
            ratio = None if default is None else found.tokens / default.tokens
            row = [words(part), words(label), number(found.tokens, ",.0f"), number(ratio, ".2f")]
            table.rows.append([*row, *_ours(found), _difference(found, default)])
            _add_runs(table, found.cells)
        table.notes += [f"{part}: {note}" for note in absent(rows, labels)]
    table.notes.append("Tokens: those that were trained on.")
    return table


def _is_control(cell: Cell, held: str, k: int | None) -> bool:
    own = cell.method == "paft" and cell.plain_pool and cell.config["T"] == 3 and unit(cell) == held
    return own and k in (None, cell.config["K"])


def training_time(cells: Sequence[Cell]) -> Table:
    """Table 10: what training costs. A row is of one device."""
    headings = ["data set", "method", "device", "updates", "tokens", "tokens/s", "minutes of training", "peak memory, GiB"]
    headings += ["seeds", "times User's", "paper: hours", "paper: times User's"]
    table = Table("table10", "Table 10: training time", "table1", headings)
    for dataset, device, methods in _by_device(cells, lambda c: None if c.method == "base" else c.results["device"]):
        seconds = {m: float(np.mean([c.results["training"]["seconds"] for c in same])) for m, same in methods.items()}
        for method, same in methods.items():
            trained = [cell.results["training"] for cell in same]
            row = [words(dataset), words(NAMES[method]), words(device), number(trained[0]["updates"], ",")]
            row += [number(float(np.mean([tokens(cell) for cell in same])), ",.0f")]
            row += [number(float(np.mean([t["tokens_per_s"] for t in trained])), ",.0f"), number(seconds[method] / 60, ".1f")]
            row += [number(max(cell.results["peak_memory_bytes"] for cell in same) / 2**30, ".1f"), _seeds(same)]
            row += [number(seconds[method] / seconds["user"] if "user" in seconds else None, ".2f")]
            table.rows.append([*row, *hours(*(published("training_hours", m, dataset) for m in (method, "user")))])
            _add_runs(table, same)
    table.notes = [
        "Updates alone, without search, validation and evaluation, means over the row's seeds; tokens are those that were "
        "trained on; memory is the whole process's peak; what else the device did at the time is not known."
    ]
    table.notes += _of_the_papers_hours("training_hours", table)
    return table
