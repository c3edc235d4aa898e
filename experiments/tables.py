"""The paper's tables and figures from finished runs, each beside the paper's numbers."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from collect import Cell, by_seed

from paft.evaluation.statistics import Estimate, can_promise, compare, mean_interval

PAPER: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))
METHODS = ("base", "user", "top_accuracy", "robust", "zopo", "paft")
_NAMES = {
    "base": "Base",
    "user": "User",
    "top_accuracy": "TopAccuracy",
    "robust": "Robust (BATprompt)",
    "zopo": "ZOPO",
    "paft": "PAFT",
}


def file_name(*parts: str) -> str:
    """Return a name for a file, without its suffix."""
    return re.sub(r"\W+", "_", "_".join(parts))


@dataclass
class Table:
    """A table of the report."""

    name: str  # of its file
    title: str
    command: str  # that makes its runs
    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)  # names of PNG files
    curve: list[tuple[int, bool, float, float, float]] = field(default_factory=list)  # prompts; composed; mean, worst, std
    cells: list[Cell] = field(default_factory=list)  # that it was made from


@dataclass(frozen=True)
class Found:
    """One label of a table: its runs, one a seed, on one part of a data set."""

    cells: list[Cell]
    part: str
    measure: str = "matrix"  # the file of its scores

    @property
    def correct(self) -> np.ndarray:
        """(S, P, E) of bool as float."""
        return np.stack([cell.part(self.part, self.measure).correct for cell in self.cells]).astype(float)

    @property
    def groups(self) -> np.ndarray:
        """Which examples are no independent evidence: (E,)."""
        return np.unique(self.cells[0].part(self.part, self.measure).groups, return_inverse=True)[1]

    @cached_property
    def mean(self) -> Estimate:
        """The mean over seeds, prompts and examples, with an interval for other prompts and examples if one can be given."""
        over_seeds = self.correct.mean(0)
        if can_promise(over_seeds, self.groups):
            return mean_interval(over_seeds, self.groups)
        return Estimate(float(over_seeds.mean()))

    def average(self, key: str) -> float | None:
        """Return an entry of robustness, averaged over the seeds."""
        values = [cell.parts[self.part][key] for cell in self.cells]
        return None if values[0] is None else float(np.mean(values))

    @property
    def seeds(self) -> str:
        """The std of the means over seeds in percent, and how many there are."""
        means = [cell.parts[self.part]["mean"] for cell in self.cells]
        return f"{100 * np.std(means, ddof=1):.1f} ({len(means)})" if len(means) > 1 else f"- ({len(means)})"


def _absent(rows: Mapping[str, Found], wanted: Iterable[str]) -> list[str]:
    """Say which of the wanted rows have no runs, and which lack seeds that another has."""
    without = [label for label in wanted if label not in rows]
    said = [f"No runs of {', '.join(without)}."] if without else []
    seeds = {label: {c.seed for c in found.cells} for label, found in rows.items() if found.cells[0].method != "base"}
    every = set[int]().union(*seeds.values())
    lacking = [f"{label} lacks seed {', '.join(map(str, sorted(every - own)))}" for label, own in seeds.items() if every - own]
    return [*said, *([f"Not all have the same seeds: {'; '.join(lacking)}."] if lacking else [])]


def percent(value: float | None, sign: str = "") -> str:
    """Return a fraction as a percentage; - for None."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def bracketed(estimate: Estimate, sign: str = "") -> str:
    """Return an estimate in percent with its interval, if it has one."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value, sign)
    return f"{percent(estimate.value, sign)} [{percent(estimate.low, sign)}, {percent(estimate.high, sign)}]"


def _select(cells: Iterable[Cell], label: str, wanted: Callable[[Cell], bool]) -> list[Found]:
    """Return the runs of a label by data set and part."""
    datasets: dict[str, list[Cell]] = {}
    for cell in cells:
        if wanted(cell):
            datasets.setdefault(cell.dataset, []).append(cell)
    return [Found(by_seed(same, f"{label} on {dataset}"), part) for dataset, same in datasets.items() for part in same[0].parts]


def _is_default_paft(cell: Cell) -> bool:
    config = cell.config
    return cell.method == "paft" and cell.plain_pool and (config["K"], config["T"]) == (4, 3) and _unit(cell) == "update"


def _unit(cell: Cell) -> str:
    return str(cell.config["schedule"]["unit"])


def of_table_1(cells: Sequence[Cell]) -> dict[str, dict[str, Found]]:
    """Return part -> method -> its runs, as Table 1 has them: K=4, T=3, our own plain prompt for `user`."""

    def wanted(method: str) -> Callable[[Cell], bool]:
        if method == "paft":
            return _is_default_paft
        if method == "base":
            return lambda cell: cell.method == "base"
        if method == "user":
            return lambda cell: cell.method == "user" and cell.config["T"] == 3 and cell.config["method"]["prompt"] is None
        return lambda cell: cell.method == method and cell.config["T"] == 3 and cell.plain_pool

    found: dict[str, dict[str, Found]] = {}
    for method in METHODS:
        for one in _select(cells, method, wanted(method)):
            found.setdefault(one.part, {})[method] = one
    return found


def _published(table: str, row: str, column: str) -> list[float] | float | None:
    entry = PAPER[table]
    if not entry.get("rows") or column not in entry["columns"] or row not in entry["rows"]:
        return None
    value: list[float] | float = entry["rows"][row][entry["columns"].index(column)]
    return value


def main_results(cells: Sequence[Cell]) -> list[Table]:
    """Table 1: one table for each part of a data set."""
    command = "python train.py -m experiment=table1 scale=SCALE dataset=hellaswag,piqa,winogrande,race"
    headings = ["", "mean", "std", "worst", "Top", "std of seeds (how many)", "paper: mean ± std, Top", "mean less the paper's"]
    tables = []
    for part, methods in of_table_1(cells).items():
        table = Table(file_name("table1", part), f"Table 1: {part}", command, headings)
        for method, found in methods.items():
            theirs = _published("main_results", method, part)
            if method == "base" and theirs is None:
                theirs = _published("other_tasks", method, part)
            row = [_NAMES[method], bracketed(found.mean), percent(found.average("std")), percent(found.average("min"))]
            table.rows.append([*row, percent(found.average("top")), found.seeds, *_beside(theirs, found.mean.value)])
            table.cells += found.cells
        table.notes = [*_size(methods.values()), *_best_of_others(methods), *_chosen(methods)]
        table.notes += _absent({_NAMES[m]: found for m, found in methods.items()}, (_NAMES[m] for m in METHODS))
        tables.append(table)
    return [*tables, *_average(cells)] or [Table("table1", "Table 1: all methods", command, headings)]


def _average(cells: Sequence[Cell]) -> list[Table]:
    """Return Table 1's last column: the methods that were run on all of the paper's five, averaged over them."""
    parts, printed = PAPER["main_results"]["columns"], PAPER["main_results"]["average"]
    found = of_table_1(cells)
    methods = [m for m in METHODS if all(m in found.get(part, {}) for part in parts)]
    table = Table(
        "table1_average",
        "Table 1: average of the five",
        "",
        ["", "mean", "std", "Top", "paper: mean ± std, Top", "less the paper's"],
    )
    for method in methods:
        five = [found[part][method] for part in parts]
        means = [one.mean for one in five]
        widths = [None if m.low is None or m.high is None else (m.high - m.low) / 2 for m in means]
        value = float(np.mean([m.value for m in means]))
        estimate = Estimate(value)
        if None not in widths:
            width = float(np.linalg.norm(np.array(widths, float))) / len(five)
            estimate = Estimate(value, value - width, value + width)
        std, top = (float(np.mean([one.average(key) for one in five])) for key in ("std", "top"))
        table.rows.append([_NAMES[method], bracketed(estimate), percent(std), percent(top), *_beside(printed[method], value)])
    table.notes = ["The interval takes the five as independent."]
    return [table] if methods else []


def _beside(theirs: Any, ours: float) -> list[str]:
    """Return what the paper prints for a row, and ours (a fraction) less its mean; two dashes where it prints nothing."""
    if not isinstance(theirs, list):
        return ["-", "-"]
    mean, std, *top = theirs
    return [f"{mean:.2f} ± {std:.2f}" + (f", {top[0]}" if top else ""), f"{100 * ours - mean:+.1f}"]


def _size(found: Iterable[Found]) -> list[str]:
    first = next(iter(found))
    _, prompts, examples = first.correct.shape
    threshold = first.cells[0].results["threshold"]
    hidden = first.cells[0].config["dataset"]["options"] == "hidden"
    unlike = ["The options are hidden and likelihood is measured, which the paper does not do."] if hidden else []
    top = "" if threshold is None else f"; Top: prompts at or above {percent(threshold)}"
    chance = percent(first.cells[0].part(first.part).chance)
    return [f"Percent, over {prompts} unseen prompts x {examples:,} test examples; chance is {chance}{top}.", *unlike]


def _best_of_others(methods: Mapping[str, Found]) -> list[str]:
    """Compare PAFT with the best of the others, on the cells and seeds that both have."""
    others = [name for name in methods if name not in ("paft", "base")]
    if "paft" not in methods or not others:
        return []
    best = max(others, key=lambda name: methods[name].mean.value)
    paft, other = methods["paft"], methods[best]
    seeds = sorted({c.seed for c in paft.cells} & {c.seed for c in other.cells})
    if not seeds:
        return [f"PAFT and {_NAMES[best]} share no seed: no paired difference."]
    a, b = (Found([c for c in one.cells if c.seed in seeds], one.part) for one in (paft, other))
    found = compare(a.correct, b.correct, a.groups)
    p = "" if found.p is None else f", permutation p = {found.p:.3f}"
    return [
        f"PAFT less the best of the others ({_NAMES[best]}), paired: mean {bracketed(found.mean, '+')}; std over prompts, less "
        f"the examples' noise, {percent(found.std_a.value)} instead of {percent(found.std_b.value)}{p}; worst prompt, chosen "
        f"on other examples, {percent(found.worst_a)} instead of {percent(found.worst_b)}."
    ]


def _chosen(methods: Mapping[str, Found]) -> list[str]:
    """Say which prompts the searches chose, by id."""
    said: dict[str, list[str]] = {}
    for name, found in methods.items():
        picks = [cell.results["selection"] for cell in found.cells]
        if all(picks):
            ids = ", ".join(dict.fromkeys(pick["chosen"]["id"] for pick in picks))
            spent = f"chose {ids} with {picks[0]['renderings']:,} renderings of validation examples"
            said.setdefault(spent, []).append(_NAMES[name])
    alone = [f"{names[0]} {spent}." for spent, names in said.items() if len(names) == 1]
    alike = [f"{' and '.join(names)} each {spent}: their runs are equal." for spent, names in said.items() if len(names) > 1]
    return alone + alike


def _by_dataset(cells: Sequence[Cell]) -> dict[str, dict[str, list[Cell]]]:
    """Return data set -> method -> the runs of Table 1, for what is measured on a data set as a whole."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for methods in of_table_1(cells).values():
        for method, one in methods.items():
            found.setdefault(one.cells[0].dataset, {})[method] = one.cells
    return found


def inference(cells: Sequence[Cell]) -> Table:
    """Table 3: what it costs to have the answers written out."""
    command = "python train.py -m experiment=table3 scale=SCALE"
    headings = [
        "",
        "",
        "seeds",
        "tokens a rendering",
        "s for all",
        "times the base model's",
        "mean",
        "no answer",
        "paper: hours",
        "paper: times the base model's",
    ]
    table = Table("table3", "Table 3: inference, answers written out", command, headings)
    for dataset, methods in _by_dataset(cells).items():
        took = {
            m: [c.results["also"]["generate"] for c in same if "generate" in c.results["also"]] for m, same in methods.items()
        }
        seconds = {m: float(np.mean([g["seconds"] for g in found])) for m, found in took.items() if found}
        for method, found in took.items():
            if not found:
                continue
            ratio = f"{seconds[method] / seconds['base']:.2f}" if "base" in seconds else "-"
            theirs, base = (_published("inference_hours", m, dataset) for m in (method, "base"))
            mean = percent(float(np.mean([g["robustness"]["mean"] for g in found])))
            unanswered = percent(float(np.mean([g["unanswered"] / _renderings(g) for g in found])))
            tokens = f"{np.mean([g['output_tokens'] for g in found]):.1f}"
            row = [dataset, _NAMES[method], str(len(found)), tokens, f"{seconds[method]:.0f}", ratio, mean, unanswered]
            table.rows.append([*row, *_hours(theirs, base)])
            table.cells += [cell for cell in methods[method] if "generate" in cell.results["also"]]
    table.notes = ["Greedy, up to a line break, end-of-text or 256 tokens. Seconds: on the runs' own device."]
    return table


def _hours(theirs: Any, of: Any) -> list[str]:
    """Return the paper's hours, and how many times those of another row they are."""
    return ["-", "-"] if theirs is None else [f"{theirs:.2f}", f"{theirs / of:.2f}"]


def _renderings(generated: Mapping[str, Any]) -> int:
    return int(generated["robustness"]["n_prompts"] * generated["robustness"]["n_examples"])


def worst_and_adversarial(cells: Sequence[Cell]) -> Table:
    """Table 4: the worst unseen prompt, and Con."""
    command = "python train.py -m experiment=table4 scale=SCALE"
    headings = ["", "", "seeds", "worst", "Con, mean", "Con, worst", "paper: Min", "worst less it"]
    headings += ["paper: Con", "mean less it"]
    table = Table("table4", "Table 4: worst and adversarial prompts", command, headings)
    for part, methods in of_table_1(cells).items():
        for method, found in methods.items():
            measured = [cell for cell in found.cells if "adversarial" in cell.results["also"]]
            if not measured:
                continue
            con = Found(measured, part, "adversarial")
            row = {"user": "sft", "paft": "paft"}.get(method, "")
            theirs = [_published("worst_and_adversarial", f"{row}_{what}", part) for what in ("min", "con")]
            worst = Found(measured, part).average("min") or 0.0
            con_worst = float(con.correct.mean(2).min(1).mean())
            printed = []
            for value, ours in zip(theirs, (worst, con.mean.value), strict=True):
                if isinstance(value, float) and part != "gsm8k":
                    printed += [f"{value:.2f}", f"{100 * ours - value:+.1f}"]
                else:
                    printed += ["-", "-"]
            row_of_ours = [percent(worst), bracketed(con.mean), percent(con_worst)]
            table.rows.append([part, _NAMES[method], str(len(measured)), *row_of_ours, *printed])
            table.cells += measured
    table.notes = [
        "The paper does not say which baseline its SFT is, nor whether Con is the mean or the worst of ten prompts. Its GSM8K "
        "is tuned with GRPO and does not stand beside ours."
    ]
    return table


_K_AND_T = {f"K={k} T={t}": (k, t) for k, t in ((1, 3), (2, 3), (4, 3), (8, 3), (1, 6))}


def k_and_t(cells: Sequence[Cell]) -> list[Table]:
    """Table 5: the paper's five cells."""
    command = "python train.py -m experiment=table5 scale=SCALE dataset=..."
    headings = ["", "mean", "std", "worst", "std of seeds (how many)", "paper: mean ± std", "mean less the paper's"]
    parts: dict[str, Table] = {}
    rows: dict[str, dict[str, Found]] = {}
    for name, (k, t) in _K_AND_T.items():

        def wanted(cell: Cell, k: int = k, t: int = t) -> bool:
            held = (cell.config["K"], cell.config["T"]) == (k, t)
            return cell.method == "paft" and cell.plain_pool and held and _unit(cell) == "update"

        for found in _select(cells, name, wanted):
            table = parts.setdefault(
                found.part, Table(file_name("table5", found.part), f"Table 5: K and T, {found.part}", command, headings)
            )
            theirs = _published("k_and_t", name, found.part)
            row = [name, bracketed(found.mean), percent(found.average("std")), percent(found.average("min"))]
            table.rows.append([*row, found.seeds, *_beside(theirs, found.mean.value)])
            table.cells += found.cells
            rows.setdefault(found.part, {})[name] = found
    for part, table in parts.items():
        best = max(rows[part], key=lambda name: rows[part][name].mean.value)
        table.notes.append(
            f"Best on the test prompts: {best}, {percent(rows[part][best].mean.value)}. The paper's row for PAFT in Table 1 "
            "is chosen like that; ours is K=4, T=3, fixed beforehand."
        )
        table.notes += _absent(rows[part], _K_AND_T)
    compared = [table for table in parts.values() if len(table.rows) > 1]
    return compared or [Table("table5", "Table 5: K and T", command, headings)]


_SIZES = ("1", "2", "5", "10", "24", "60", "400, composed")


def pool_size(cells: Sequence[Cell]) -> list[Table]:
    """Figure 8: how many training prompts it takes; K=1, T=3."""
    command = "python train.py -m experiment=pool_size scale=SCALE dataset=..."
    headings = ["training prompts", "seen", "draws", "mean", "std", "worst", "std of seeds (how many)"]
    parts: dict[str, Table] = {}
    rows: dict[str, dict[str, Found]] = {}
    one_each = [c for c in cells if c.method == "paft" and (c.config["K"], c.config["T"]) == (1, 3) and _unit(c) == "update"]
    own = [c for c in one_each if c.composed or c.config["prompts"]["train"] is None]
    for n, composed in sorted({(c.results["plan"]["templates"], c.composed) for c in own}):

        def wanted(cell: Cell, n: int = n, composed: bool = composed) -> bool:
            return bool(cell.results["plan"]["templates"] == n) and cell.composed == composed

        for found in _select(own, f"{n} prompts", wanted):
            table = parts.setdefault(
                found.part, Table(file_name("pool_size", found.part), f"Figure 8: pool size, {found.part}", command, headings)
            )
            plans = [cell.results["plan"] for cell in found.cells]
            label = f"{n}, composed" if composed else str(n)
            seen = f"{np.mean([plan['templates_seen'] for plan in plans]):.0f}"
            row = [label, seen, f"{plans[0]['draws']:,}", bracketed(found.mean), percent(found.average("std"))]
            table.rows.append([*row, percent(found.average("min")), found.seeds])
            table.curve.append((n, composed, found.mean.value, found.average("min") or 0.0, found.average("std") or 0.0))
            table.cells += found.cells
            rows.setdefault(found.part, {})[label] = found
    for part, table in parts.items():
        table.notes.append(
            "As many draws in every row, one an update; *seen*: how many of the prompts came up (mean over seeds)."
        )
        table.notes += _absent(rows[part], _SIZES)
    return list(parts.values()) or [Table("pool_size", "Figure 8: pool size", command, headings)]


def controls(cells: Sequence[Cell]) -> Table:
    """What the paper lacks."""
    command = "python train.py -m experiment=controls scale=SCALE dataset=..."
    headings = ["", "", "tokens", "mean", "std", "worst", "std of seeds (how many)"]
    table = Table("controls", "Controls that the paper lacks", command, headings)
    labels: dict[str, Callable[[Cell], bool]] = {
        "PAFT, a prompt held for 4 updates (default)": _is_default_paft,
        "PAFT, held for 4 examples": lambda c: _is_control(c, "example", 4),
        "PAFT, drawn for each example anew": lambda c: _is_control(c, "example", 1),
        "frozen: a prompt for each row (the released code)": lambda c: _is_control(c, "row", None),
        "one fixed prompt": lambda c: _is_user(c, 3),
        "one fixed prompt, five epochs: about as many tokens": lambda c: _is_user(c, 5),
    }
    parts: dict[str, dict[str, Found]] = {}
    for label, wanted in labels.items():
        for found in _select(cells, label, wanted):
            parts.setdefault(found.part, {})[label] = found
    of_table_1 = {"PAFT, a prompt held for 4 updates (default)", "one fixed prompt"}
    for part, rows in parts.items():
        if rows.keys() <= of_table_1:
            continue
        for label, found in rows.items():
            tokens = f"{np.mean([cell.results['plan']['tokens'] for cell in found.cells]):,.0f}"
            values = [bracketed(found.mean), percent(found.average("std")), percent(found.average("min")), found.seeds]
            table.rows.append([part, label, tokens, *values])
            table.cells += found.cells
        table.notes += [f"{part}: {note}" for note in _absent(rows, labels)]
    return table


def _is_control(cell: Cell, unit: str, k: int | None) -> bool:
    own = cell.method == "paft" and cell.plain_pool and cell.config["T"] == 3 and _unit(cell) == unit
    return own and k in (None, cell.config["K"])


def _is_user(cell: Cell, epochs: int) -> bool:
    return cell.method == "user" and cell.config["T"] == epochs and cell.config["method"]["prompt"] is None


def training_time(cells: Sequence[Cell]) -> Table:
    """Table 10: what training costs."""
    command = "python train.py -m experiment=table1 scale=SCALE"
    headings = ["", "", "updates", "tokens", "tokens/s", "minutes of training", "peak memory, GiB"]
    headings += ["times User's", "paper: hours", "paper: times User's"]
    table = Table("table10", "Table 10: training time", command, headings)
    for dataset, methods in _by_dataset(cells).items():
        seconds = {m: np.mean([c.results["training"]["seconds"] for c in same]) for m, same in methods.items() if m != "base"}
        for method, same in methods.items():
            if method == "base":
                continue
            trained = [cell.results["training"] for cell in same]
            theirs, user = (_published("training_hours", m, dataset) for m in (method, "user"))
            row = [dataset, _NAMES[method], f"{trained[0]['updates']:,}"]
            row += [f"{np.mean([cell.results['plan']['tokens'] for cell in same]):,.0f}"]
            row += [f"{np.mean([t['tokens_per_s'] for t in trained]):,.0f}", f"{seconds[method] / 60:.1f}"]
            row += [f"{max(cell.results['peak_memory_bytes'] for cell in same) / 2**30:.1f}"]
            row += [f"{seconds[method] / seconds['user']:.2f}" if "user" in seconds else "-"]
            table.rows.append([*row, *_hours(theirs, user)])
            table.cells += same
    table.notes = [
        "Updates alone, without search, validation and evaluation; tokens as planned; memory is the whole process's peak."
    ]
    return table
