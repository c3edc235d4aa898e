"""Two arms of a comparison, paired by seed, on the test prompts and on kinds of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.worst_prompt.registered import Registered
from paft.config.compose import compose_training
from paft.evaluation.statistics import Array, Estimate
from paft.evaluation.tail import cvar_difference, kind_of
from paft.reporting.collect import Collected
from paft.reporting.runs import FinishedRun, TableRow, check_alike
from paft.runtime.errors import InputError


@dataclass(frozen=True)
class Arms:
    """Both arms on the test prompts: right and wrong (S, P, E) of paired seeds, and the families of the prompts."""

    method: Array
    baseline: Array
    seeds: list[int]
    wordings: list[str]
    kinds: list[str]

    def of_kinds(self, kinds: Sequence[str]) -> "Arms":
        """Return the arms on the prompts of some kinds of layout."""
        return self.of(self.places(kinds))

    def places(self, kinds: Sequence[str]) -> list[int]:
        """Return the places of the prompts of some kinds of layout."""
        return [i for i, kind in enumerate(self.kinds) if kind in kinds]

    def of(self, own: Sequence[int]) -> "Arms":
        """Return the arms on some of the prompts, which are named by their places."""
        return Arms(
            self.method[:, own],
            self.baseline[:, own],
            self.seeds,
            [self.wordings[i] for i in own],
            [self.kinds[i] for i in own],
        )

    def tail(self, share: float = 0.1) -> Estimate:
        """Return the difference of the mean of the worst share of the prompts."""
        return cvar_difference(self.method, self.baseline, self.wordings, share)

    def mean(self) -> Estimate:
        """Return the difference of the means, for other seeds and families: the whole share of the prompts."""
        return cvar_difference(self.method, self.baseline, self.wordings, 1.0)


def finished_by_arm(collected: Collected, typed: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[FinishedRun]]:
    """Return the finished runs of each arm that has some, one that lies in two folders once.

    Args:
        typed: the overrides of each run of each arm.

    Raises InputError if they were tested differently.
    """
    by_name = {run.results.run: run for run in collected.runs}
    names = {arm: [compose_training(overrides).run_name for overrides in own] for arm, own in typed.items()}
    found = {arm: [by_name[name] for name in own if name in by_name] for arm, own in names.items()}
    check_alike([run for own in found.values() for run in own], lambda run: run.measured_by)
    return {arm: own for arm, own in found.items() if own}


def runs_by_arm(collected: Collected, typed: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[FinishedRun]]:
    """Return what finished_by_arm does; raises InputError if no arm has a run, too."""
    found = finished_by_arm(collected, typed)
    if not found:
        raise InputError("There is no finished run of any arm; `commands` prints those that there should be.")
    return found


def missing_seeds(found: Mapping[str, Sequence[FinishedRun]], arms: Iterable[str], seeds: int) -> list[str]:
    """Say of which arms runs are missing; each should have so many seeds."""
    return [f"{arm}: {n} of {seeds} seeds" for arm in arms if (n := len(found.get(arm, []))) < seeds]


def arms_of(collected: Collected, registered: Registered) -> tuple[dict[str, list[FinishedRun]], Arms]:
    """Sort runs into the method and the baseline and pair their seeds; raises InputError if there are none of an arm."""
    both = ("baseline", "method")
    runs = finished_by_arm(collected, {arm: [registered.overrides(arm, seed) for seed in registered.seeds] for arm in both})
    for arm in both:
        if arm not in runs:
            raise InputError(f"There is no finished run of the {arm}; `commands` prints those that are registered.")
    found = paired(runs["method"], runs["baseline"])
    if found is None:
        raise InputError("The arms share no seed, so nothing can be paired.")
    return runs, found


def paired(method: Sequence[FinishedRun], baseline: Sequence[FinishedRun]) -> Arms | None:
    """Pair the runs of two arms by their seeds; None if they share none."""
    one, other = ({run.seed: run for run in side if run.seed is not None} for side in (method, baseline))
    return arms_by_seed(one, other)


def arms_by_seed(method: Mapping[int, FinishedRun], baseline: Mapping[int, FinishedRun]) -> Arms | None:
    """Pair runs of two arms that are given by their seeds; None if they share none."""
    both = sorted({*method} & {*baseline})
    if not both:
        return None
    first = method[both[0]]
    one, other = (TableRow([side[seed] for seed in both], first.dataset) for side in (method, baseline))
    prompts = first.test_prompt_rows
    wordings = [str(row.get("wording") or row["id"]) for row in prompts]
    kinds = [kind_of(str(row.get("layout") or "")) for row in prompts]
    return Arms(one.correct, other.correct, both, wordings, kinds)
