"""Finished runs as a data frame, the rows of tables made of them, and the check that they belong in one table."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paft.config.base_model import called
from paft.config.compose import from_dict
from paft.config.schema import NO_NUMBER
from paft.evaluation.matrix import ScoreMatrix, read_matrix
from paft.evaluation.robustness import Robustness
from paft.evaluation.statistics import (
    Array,
    Comparison,
    Estimate,
    SeedVariance,
    can_promise,
    compare,
    estimate,
    mean_interval,
    seed_variance,
)
from paft.evaluation.tail import cvar
from paft.prompts.readers import read_prompts
from paft.reporting.page import bracketed
from paft.reporting.results import GitState, Results, ScoringSettings
from paft.runtime.errors import InputError
from paft.runtime.mappings import flat

# In the config of an evaluation, and no part of what it measures.
_OF_A_MACHINE = {"data_root", "output_root", "output", "logger", "trainer", "adapter", "fail_under"}


@dataclass(frozen=True)
class FinishedRun:
    """A finished training run or evaluation."""

    results: Results

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.results.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """Its whole config, in plain types."""
        return self.results.config

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What makes it the run it is, by the keys of its config (`optim.lr`); what its method does not use is missing."""
        if self.results.kind == "training":
            return flat(from_dict(self.config).identity())
        adapter = self.results.trained_by or self.results.adapter
        config = {key: value for key, value in self.config.items() if key not in _OF_A_MACHINE}
        settings = flat(config | ({} if adapter is None else {"adapter": adapter}))
        for key in NO_NUMBER:
            settings.pop(f"model.{key}", None)
        if settings.get("model.api") is None:  # as in results of earlier versions
            settings.pop("model.api", None), settings.pop("model.name", None)
        return settings

    @property
    def seed(self) -> int | None:
        """Its seed; None of a base model and of an evaluation, which have no use for one."""
        return self.settings.get("seed")

    @property
    def model(self) -> str:
        """Its base model."""
        section = self.config["model"]
        if section.get("api") is not None:
            return f"{section['name']}, served"
        return called(section["path"], "SmolLM2-135M-Instruct")

    @property
    def test_prompts(self) -> str:
        """Empty for the shipped test prompts, else `, ` and the name of the place of one's own."""
        pool = self.config["prompts"]["test"]
        if pool is None:
            return ""
        folder = Path(pool).parent  # outputs/random_split/piqa/test.yaml: random_split
        return f", {folder.parent.name or folder.name or Path(pool).stem}"

    @property
    def dataset(self) -> str:
        """Its data set and test prompts; a half of RACE is not the part of that name of a run on both halves."""
        section = self.config["dataset"]
        name = Path(section["path"]).stem if section["path"] else str(section["name"])
        return f"{name}{' alone' if name.startswith('race_') else ''}{self.test_prompts}"

    @property
    def parts(self) -> dict[str, Robustness]:
        """Robustness on the data set, and where it is reported in several parts, on each."""
        assert self.results.robustness is not None
        parts = {f"{name}{self.test_prompts}": part for name, part in self.results.parts.items()}
        return {self.dataset: self.results.robustness, **parts}

    def matrix(self, part: str, measure: str = "matrix") -> ScoreMatrix:
        """Return the scores of one part on the test prompts (matrix), written out (generate), or on adversarial prompts."""
        matrix = _read_matrix(self.folder / f"{measure}.parquet")
        return matrix if part == self.dataset else matrix.part(part.removesuffix(self.test_prompts))

    @property
    def pools(self) -> dict[str, str]:
        """The fingerprint of each of its prompt pools, by split."""
        pools = {split: pool.fingerprint for split, pool in self.results.fingerprints.pools.items()}
        con = self.results.extra_measures.adversarial
        return pools if con is None else {**pools, "adversarial": con.pool.fingerprint}

    def pool_file(self, split: str) -> Path:
        """Return where the prompts of a split lie: in the run, or, shared by kept runs, in pools/ beside their folder."""
        own = self.folder / "prompts" / f"{split}.yaml"
        return own if own.is_file() else self.folder.parent.parent / "pools" / f"{self.pools[split]}.yaml"

    @property
    def test_prompt_rows(self) -> list[Mapping[str, Any]]:
        """The rows of its file of test prompts (id, text, wording, layout), in the order of the scores."""
        by_id = {str(row["id"]): row for _, row in read_prompts(self.pool_file("test")).rows}
        return [by_id[id_] for id_ in self.matrix(self.dataset).prompt_ids]

    @cached_property
    def tested_on(self) -> dict[str, Any]:
        """What must be alike for the numbers over test prompts to be comparable, by what to call it."""
        prints, section = self.results.fingerprints, self.config["dataset"]
        alike: dict[str, Any] = {f"dataset.{key}": section[key] for key in ("answer", "options", "metric", "threshold")}
        alike["dataset.pattern"] = section.get("pattern")  # results of earlier versions have none
        alike["dataset.shots"] = section.get("shots", 0)  # nor these
        alike["the function of dataset.metric"] = self.results.scoring.metric and self.results.scoring.metric.source
        alike |= {"test prompts": prints.pools["test"].fingerprint, "test examples": prints.data["test"]}
        return alike | {"scoring": _way(self.results.scoring)}

    @cached_property
    def measured_by(self) -> dict[str, Any]:
        """What must be alike for all numbers on a data set to stand in one table, those of extra measures, too."""
        alike = dict(self.tested_on)
        extra = self.results.extra_measures
        if extra.generate is not None:
            alike["the scoring of generate"] = _way(extra.generate.scoring)
        if extra.adversarial is not None:
            alike["the scoring of adversarial"] = _way(extra.adversarial.scoring)
            alike["adversarial prompts"] = extra.adversarial.pool.fingerprint
        return alike


def _way(scoring: ScoringSettings) -> dict[str, Any]:
    return scoring.model_dump(include={"scoring", "normalise", "max_new_tokens", "stop_at_line_break"})


@cache
def _read_matrix(path: Path) -> ScoreMatrix:
    return read_matrix(path)


@dataclass(frozen=True)
class TableRow:
    """A row of a table: runs that differ in their seed alone, on a data set or a part of it."""

    runs: list[FinishedRun]
    part: str
    measure: str = "matrix"  # the file of the scores

    @property
    def correct(self) -> Array:
        """Right (1) and wrong (0), or scores between them, of all seeds (S, P, E)."""
        return np.stack([run.matrix(self.part, self.measure).correct for run in self.runs]).astype(float)

    @property
    def groups(self) -> Any:
        """Which examples are no independent evidence (E,)."""
        return self.runs[0].matrix(self.part, self.measure).group_numbers

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, where they have one."""
        return [run.seed for run in self.runs if run.seed is not None]

    def only(self, seeds: Collection[int]) -> "TableRow":
        """Return the runs of these seeds."""
        return TableRow([run for run in self.runs if run.seed in seeds], self.part, self.measure)

    @cached_property
    def mean(self) -> Estimate:
        """The mean over seeds, prompts and examples, with an interval for other prompts and examples where one can be given."""
        over_seeds = self.correct.mean(0)
        if can_promise(over_seeds, self.groups):
            return mean_interval(over_seeds, self.groups)
        return Estimate(float(over_seeds.mean()))

    def average(self, key: str) -> float | None:
        """Return an entry of robustness, averaged over the seeds."""
        values = [getattr(run.parts[self.part], key) for run in self.runs]
        return None if values[0] is None else float(np.mean(values))

    @property
    def cvar10(self) -> float:
        """The mean accuracy of the worst tenth of the prompts of a trained model, averaged over the seeds."""
        return float(cvar(self.correct.mean(2), 0.1).mean())

    @cached_property
    def spread(self) -> SeedVariance | None:
        """How much of the spread comes from seeds, from prompts, and from both together; None for a single seed or group."""
        shape = self.correct.shape
        if shape[0] < 2 or shape[1] < 2 or self.groups.max() == 0:
            return None
        return seed_variance(self.correct, self.groups)

    @property
    def std_of_seeds(self) -> float | None:
        """The std over seeds of the mean, a fraction; None for a single seed."""
        means = [run.parts[self.part].mean for run in self.runs]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None


def paired(one: TableRow, other: TableRow) -> tuple[Comparison, list[int]] | None:
    """Compare two rows on the seeds that both have, and return these seeds; None if they share none."""
    seeds = sorted({*one.seeds} & {*other.seeds})
    if not seeds:
        return None
    a, b = one.only(seeds), other.only(seeds)
    return compare(a.correct, b.correct, a.groups), seeds


def not_better(row: TableRow, base: TableRow) -> Estimate | None:
    """Return the gain of a row's mean over that of its base model, if it does not show that training helped; else None.

    See `no_sign_of`.
    """
    correct, of_base = row.correct.mean(0), base.correct.mean(0)
    gain = estimate(correct - of_base, row.groups)
    return gain if no_sign_of(gain) else None


def no_sign_of(gain: Estimate) -> bool:
    """Return whether a gain is no sign of a better model: its interval, or where it has none its value, is not above zero."""
    return (gain.value if gain.low is None else gain.low) <= 0


def no_gain(gain: Estimate) -> str:
    """Say that a model is no better than its base model, and what to try."""
    return (
        f"nothing shows that training made the base model better ({bracketed(gain, '+')} points); try a larger optim.lr, more "
        "epochs or rows, or a larger model."
    )


def by_seed(runs: Iterable[FinishedRun], what: str) -> list[FinishedRun]:
    """Return the runs of one row, in the order of their seeds; raises InputError if a seed is there twice."""
    seeds: dict[int | None, FinishedRun] = {}
    for run in sorted(runs, key=lambda run: run.seed or 0):
        if (other := seeds.setdefault(run.seed, run)) is not run:
            seed = "" if run.seed is None else f", seed {run.seed}"
            raise InputError(f"{what}{seed}: there are two runs, {other.folder.name} and {run.folder.name}; give one.")
    return list(seeds.values())


def check_alike(runs: Iterable[FinishedRun], alike: Callable[[FinishedRun], Mapping[str, Any]]) -> None:
    """Refuse runs on a data set whose numbers do not belong in one table.

    Args:
        alike: returns what must be alike in all runs that have it, by what to call it.

    Raises InputError that names two runs and what they differ in.
    """
    first: dict[tuple[str, str], tuple[FinishedRun, Any]] = {}
    for run in runs:
        for key, value in alike(run).items():
            other, same = first.setdefault((run.dataset, key), (run, value))
            if value != same:
                raise InputError(
                    f"{run.folder.name} and {other.folder.name} differ in {key}, so their numbers do not belong in one "
                    "report; give runs of one scale and one version."
                )


def frame(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return a row for each run and part of its data set, the data set itself first; the index is the run's place in `runs`.

    Columns: run, kind, dataset and part; the settings, by their keys (`optim.lr`; missing where the method does not use
    them); plan and training (`training.tokens`); robustness (mean, std, min, max, spread, top, n_prompts, n_examples), as
    fractions; and where the numbers come from (commit, dirty, device, dtype, wall_s, peak_memory_bytes).
    """
    rows = []
    for place, run in enumerate(runs):
        r = run.results
        about = {"run": r.run, "kind": r.kind, "dataset": run.dataset}
        took = {"plan": r.plan.model_dump() if r.plan else {}, "training": r.training.model_dump() if r.training else {}}
        origin: dict[str, Any] = {"commit": r.git.commit, "dirty": r.git.dirty, "device": str(r.device), "dtype": r.dtype}
        origin |= {"wall_s": r.wall_s, "peak_memory_bytes": r.peak_memory_bytes}
        settings = {key: _hashable(value) for key, value in run.settings.items()}
        for part, robustness in run.parts.items():
            rows.append({"": place, **about, "part": part, **settings, **flat(took), **vars(robustness), **origin})
    return pd.DataFrame(rows).set_index("").rename_axis(None).convert_dtypes()


def typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _hashable(value: Any) -> Any:
    return typed(value) if isinstance(value, list) else value


def commits(states: Iterable[GitState]) -> str:
    """Name the commits that runs were made at, and where they are several, how many runs at each."""
    counts = Counter(
        f"{state.commit[:7] if state.commit else 'no commit'}{' with changes' if state.dirty else ''}" for state in states
    )
    return ", ".join(f"{name} ({n} runs)" if len(counts) > 1 else name for name, n in counts.items())
