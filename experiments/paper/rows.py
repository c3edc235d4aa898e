"""The runs of one row of a table, and which runs those are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.paper.collect import Cell, by_seed
from paft.evaluation.statistics import Comparison, Estimate, can_promise, compare, mean_interval

METHODS = ("base", "user", "top_accuracy", "robust", "zopo", "paft")


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

    @property
    def seeds(self) -> list[int]:
        """Its seeds; none of the base model, which has no use for one."""
        return [cell.seed for cell in self.cells if cell.method != "base"]

    def only(self, seeds: Iterable[int]) -> "Found":
        """Return the runs of these seeds."""
        return Found([cell for cell in self.cells if cell.seed in set(seeds)], self.part, self.measure)

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
    def std_of_seeds(self) -> float | None:
        """The std of the means over seeds, a fraction; None for a single one."""
        means = [cell.parts[self.part]["mean"] for cell in self.cells]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None

    @property
    def tokens(self) -> float:
        """Real tokens of all updates, averaged over the seeds."""
        return float(np.mean([tokens(cell) for cell in self.cells]))


def tokens(cell: Cell) -> int:
    """Return the real tokens of a run's updates; before they were kept, they are speed times duration."""
    training = cell.results["training"]
    return int(training.get("tokens") or round(training["tokens_per_s"] * training["seconds"]))


def paired(one: Found, other: Found) -> tuple[Comparison, list[int]] | None:
    """Compare two rows on the seeds that both have, and say which; None if they share none."""
    seeds = sorted({*one.seeds} & {*other.seeds})
    if not seeds:
        return None
    a, b = one.only(seeds), other.only(seeds)
    return compare(a.correct, b.correct, a.groups), seeds


def select(cells: Iterable[Cell], label: str, wanted: Callable[[Cell], bool]) -> list[Found]:
    """Return the runs of a label by data set and part."""
    datasets: dict[str, list[Cell]] = {}
    for cell in cells:
        if wanted(cell):
            datasets.setdefault(cell.dataset, []).append(cell)
    return [Found(by_seed(same, f"{label} on {dataset}"), part) for dataset, same in datasets.items() for part in same[0].parts]


def rows_by_part(cells: Sequence[Cell], labels: Mapping[str, Callable[[Cell], bool]]) -> dict[str, dict[str, Found]]:
    """Return part -> label -> its runs."""
    parts: dict[str, dict[str, Found]] = {}
    for label, wanted in labels.items():
        for found in select(cells, label, wanted):
            parts.setdefault(found.part, {})[label] = found
    return parts


def of_table_1(cells: Sequence[Cell]) -> dict[str, dict[str, Found]]:
    """Return part -> method -> its runs, as Table 1 has them: K=4, T=3, our own plain prompt for `user`."""
    labels: dict[str, Callable[[Cell], bool]] = {method: _searched(method) for method in METHODS}
    labels |= {"base": lambda cell: cell.method == "base", "user": lambda cell: is_user(cell, 3), "paft": is_default}
    return rows_by_part(cells, labels)


def by_dataset(cells: Sequence[Cell]) -> dict[str, dict[str, list[Cell]]]:
    """Return data set -> method -> the runs of Table 1, for what is measured on a data set as a whole."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for methods in of_table_1(cells).values():
        for method, one in methods.items():
            found.setdefault(one.cells[0].dataset, {})[method] = one.cells
    return found


def is_default(cell: Cell) -> bool:
    """Say whether a run is PAFT as it comes: K=4, T=3."""
    return is_paft(cell, 4, 3)


def is_paft(cell: Cell, k: int, t: int) -> bool:
    """Say whether a run is PAFT on the whole pool, a prompt held for k updates, t epochs."""
    held = (cell.config["K"], cell.config["T"]) == (k, t)
    return cell.method == "paft" and cell.plain_pool and held and unit(cell) == "update"


def is_user(cell: Cell, epochs: int) -> bool:
    """Say whether a run is one on our own plain prompt."""
    return cell.method == "user" and cell.config["T"] == epochs and cell.config["method"]["prompt"] is None


def unit(cell: Cell) -> str:
    """Return what its K counts."""
    return str(cell.config["schedule"]["unit"])


def _searched(method: str) -> Callable[[Cell], bool]:
    return lambda cell: cell.method == method and cell.config["T"] == 3 and cell.plain_pool
