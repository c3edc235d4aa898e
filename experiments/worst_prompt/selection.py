"""Stage 1: which settings each side of the comparison is registered with, chosen on validation prompts and rows alone.

Both sides have as many candidates and the same seeds. Of each side the candidate is taken whose worst tenth of the validation
prompts is best by a lower bound: the mean over seeds minus its standard error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from experiments.worst_prompt.files import read_yaml, typed_path
from experiments.worst_prompt.planning import budget_lines, power_lines
from paft.config.compose import compose_training
from paft.evaluation.statistics import Array
from paft.evaluation.tail import cvar, kind_of
from paft.reporting.collect import Collected, keep_runs
from paft.reporting.page import bullets, percent, table, write, write_json
from paft.reporting.runs import FinishedRun, check_alike
from paft.reporting.sweep import origin
from paft.runtime.errors import InputError

FILE = Path(__file__).with_name("candidates.yaml")
Side = Literal["baseline", "method"]
SIDES: tuple[Side, Side] = ("baseline", "method")
_MOST = 12  # candidates in all
PLANNED_SEEDS = 12
STUDY = (200, 25)  # test prompts and examples of the comparison that is registered with the choice


class Candidates(BaseModel):
    """The candidates of both sides, as overrides of conf/train.yaml by name."""

    model_config = ConfigDict(extra="forbid")
    note: str = ""  # what a reader of the page should know first
    common: list[str]  # overrides of all
    seeds: list[int] = Field(min_length=2)
    baseline: dict[str, list[str]] = Field(min_length=1)
    method: dict[str, list[str]] = Field(min_length=1)

    @model_validator(mode="after")
    def _equal_trials(self) -> "Candidates":
        if len(self.baseline) != len(self.method):
            raise ValueError("the baseline and the method must have as many candidates, or one of them had more trials")
        if len(self.baseline) + len(self.method) > _MOST:
            raise ValueError(f"at most {_MOST} candidates in all: more find the luckiest, not the best")
        if not all("evaluate=false" in self.overrides(side, name) for side in SIDES for name in self.of(side)):
            raise ValueError("every candidate needs evaluate=false: settings are chosen without looking at the test")
        return self

    def of(self, side: Side) -> dict[str, list[str]]:
        """Return the candidates of a side."""
        return self.baseline if side == "baseline" else self.method

    def overrides(self, side: Side, name: str) -> list[str]:
        """Return all overrides of a candidate but the seed."""
        return [*self.common, *self.of(side)[name]]


def read(path: Path = FILE) -> Candidates:
    """Read candidates; raises InputError that names the file and what is wrong."""
    return read_yaml(path, Candidates, "there is no such file of candidates.")


@dataclass(frozen=True)
class Trial:
    """A candidate and the accuracies (S, P) of its finished runs under the validation prompts."""

    side: Side
    name: str
    accuracy: Array
    runs: list[FinishedRun]
    kinds: list[str]  # of the prompts

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [run.seed or 0 for run in self.runs]

    @property
    def tails(self) -> Array:
        """The mean of the worst tenth of the prompts of each seed (S,)."""
        return cvar(self.accuracy, 0.1)

    @property
    def bound(self) -> float:
        """The lower bound by which candidates are chosen; minus infinity for a single seed."""
        n = len(self.seeds)
        return float(self.tails.mean() - self.tails.std(ddof=1) / n**0.5) if n > 1 else -np.inf


def trials(collected: Collected, candidates: Candidates) -> list[Trial]:
    """Return the candidates that have finished runs, in their order; raises InputError if none has."""
    by_name = {run.results.run: run for run in collected.runs}
    found: list[tuple[Side, str, list[FinishedRun]]] = []
    for side in SIDES:
        for name in candidates.of(side):
            own = [compose_training([*candidates.overrides(side, name), f"seed={seed}"]).run_name for seed in candidates.seeds]
            found.append((side, name, [by_name[run] for run in own if run in by_name]))
    check_alike([run for _, _, runs in found for run in runs], lambda run: run.measured_by)
    trials = [_trial(side, name, runs) for side, name, runs in found if runs]
    if not trials:
        raise InputError("There is no finished run of any candidate; `commands --stage 1` prints those that there should be.")
    return trials


def _trial(side: Side, name: str, runs: Sequence[FinishedRun]) -> Trial:
    first = runs[0]
    kinds = [kind_of(str(row.get("layout") or "")) for row in first.test_prompt_rows]
    accuracy = np.stack([run.matrix(run.dataset).accuracy for run in runs])
    return Trial(side, name, accuracy, list(runs), kinds)


def chosen(found: Sequence[Trial]) -> Mapping[Side, str]:
    """Return the candidate that each side is to be registered with; a side without one of at least two seeds is left out."""
    best: dict[Side, str] = {}
    for side in SIDES:
        own = [trial for trial in found if trial.side == side and len(trial.seeds) > 1]
        if own:
            best[side] = max(own, key=lambda trial: trial.bound).name
    return best


def write_selection(collected: Collected, candidates: Candidates, path: Path, out: Path, keep: bool) -> None:
    """Write README.md and results.json: every candidate, finished or not, and the choice.

    Args:
        path: the file of the candidates.
    """
    found = trials(collected, candidates)
    best = chosen(found)
    kinds = list(dict.fromkeys(found[0].kinds))
    rows = []
    for side in SIDES:
        for name in candidates.of(side):
            own = next((trial for trial in found if (trial.side, trial.name) == (side, name)), None)
            rows.append(_row(side, name, own, kinds, best.get(side) == name))
    n_prompts = found[0].accuracy.shape[1]
    runs = [run for trial in found for run in trial.runs]
    taken = {trial.side: trial.runs for trial in found if trial.name == best.get(trial.side)}
    complete = all(len(trial.seeds) == len(candidates.seeds) for trial in found) and len(found) == len(rows)
    page = ["# Which settings the comparison is registered with", "", *origin(runs)]
    page += [candidates.note, ""] if candidates.note else []
    page += [] if complete else ["Not all runs are finished: what is chosen may change.", ""]
    page += table(["", "candidate", "seeds", "CVaR10", "lower bound", "mean", *kinds, "chosen"], rows)
    page += [
        f"Percent, on {n_prompts} validation prompts and validation rows; the test was not scored. CVaR10: the mean of the "
        "worst tenth of the prompts within a trained model, mean over seeds ± std over seeds. Lower bound: that mean minus its "
        "standard error; of each side the highest is chosen. Kinds of layout: mean accuracy.",
        "",
        *bullets(budget_lines(runs, 2, PLANNED_SEEDS)),
        *power_lines(taken.get("method", []), taken.get("baseline", []), *STUDY),
        f"What makes a run, for each candidate: `{typed_path(path)}`. Made by `python -m experiments.worst_prompt choose RUNS "
        f"--candidates {typed_path(path)}`.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    numbers = [
        {"side": t.side, "name": t.name, "seeds": t.seeds, "cvar10": t.tails.tolist(), "mean": t.accuracy.mean(axis=1).tolist()}
        for t in found
    ]
    write_json(out, {"candidates": candidates.model_dump(), "chosen": best, "trials": numbers})
    if keep:
        keep_runs(Collected(runs, {}, []), out)
    print("\n".join(page))


def _row(side: Side, name: str, trial: Trial | None, kinds: Sequence[str], is_best: bool) -> list[str]:
    if trial is None:
        return [side, name, "-", "-", "-", "-", *("-" for _ in kinds), ""]
    several = len(trial.seeds) > 1
    std = f" ± {percent(float(trial.tails.std(ddof=1)))}" if several else ""
    of_kind = [
        percent(float(trial.accuracy[:, [i for i, own in enumerate(trial.kinds) if own == kind]].mean())) for kind in kinds
    ]
    return [
        side,
        name,
        ", ".join(map(str, trial.seeds)),
        f"{percent(float(trial.tails.mean()))}{std}",
        percent(trial.bound) if several else "-",
        percent(float(trial.accuracy.mean())),
        *of_kind,
        "yes" if is_best else "",
    ]
