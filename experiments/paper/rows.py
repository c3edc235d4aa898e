"""Which runs stand in which row of the paper's tables: selections on the data frame of the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paft.reporting.runs import FinishedRun, TableRow, by_seed, frame

# Table 1, by method; PAFT is K=4, T=3, `user` the shipped plain prompt.
DEFAULT = "method == 'paft' and whole_pool and unit == 'update' and K == 4 and T == 3"
USER = "method == 'user' and not own_prompt and T == 3"
TABLE_1 = {
    "base": "method == 'base'",
    "user": USER,
    **{method: f"method == '{method}' and whole_pool and T == 3" for method in ("top_accuracy", "robust", "zopo")},
    "paft": DEFAULT,
}

_NEEDED = ["K", "T", "seed", "schedule.unit", "method.prompt", "prompts.train", "train_prompts", "plan.templates"]
_MAY_DIFFER = {"method", "K", "T", "seed", "schedule", "train_prompts"}  # between runs that stand in one table


def paper_frame(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return the data frame of training runs, with the columns by which the tables select; RACE is its two halves.

    finished holds the runs themselves, generate what was measured where answers were written out (None where they were not).
    """
    every = frame(runs)
    every = every[(every["part"] != every["dataset"]) | ~every.index.duplicated(keep=False)]
    data = every.reindex(columns=[*every.columns, *(name for name in _NEEDED if name not in every)])
    finished = [runs[place] for place in data.index]
    return data.assign(
        finished=finished,
        generate=[run.results.extra_measures.generate for run in finished],
        method=data["method.name"],
        unit=data["schedule.unit"],
        templates=data["plan.templates"],
        own_prompt=data["method.prompt"].notna(),
        composed=data["prompts.train"].eq("composed").fillna(False).astype(bool),
        own_pool=[run.config["prompts"]["train"] not in (None, "composed") for run in finished],
        whole_pool=[whole_pool(run) for run in finished],
    )


def whole_pool(run: FinishedRun) -> bool:
    """Say whether a run was trained on the whole pool that belongs to its test prompts."""
    own = run.config["prompts"]["train"] is None or bool(run.test_prompts)
    return own and run.config["train_prompts"] is None


def alike(run: FinishedRun) -> dict[str, Any]:
    """Return what must be alike in all runs on a data set whose numbers stand in the paper's tables, by what to call it."""
    results = run.results
    prints, pools = results.fingerprints, run.pools
    same = {
        key: value for key, value in run.settings.items() if key.split(".")[0] not in _MAY_DIFFER and key != "prompts.train"
    }
    same |= run.measured_by | {"base model": prints.base_model.sample, "dtype": results.dtype}
    if results.training is not None:
        same |= {"training examples": prints.data["train"], "validation prompts": pools["validation"]}
        if run.config["method"]["name"] != "user" and whole_pool(run):
            same["training prompts"] = pools["train"]
    if results.selection is not None:
        same["method.budget"] = run.config["method"]["budget"]
    return same


def labelled(runs: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the runs that the labels' queries select, in the order of the labels, with a column `label`."""
    return pd.concat([runs.query(query).assign(label=label) for label, query in labels.items()])


def rows_by_part(runs: pd.DataFrame, labels: Mapping[str, str]) -> dict[str, dict[str, TableRow]]:
    """Return part -> label -> its row, for queries by label; raises InputError if a row has a seed twice."""
    parts: dict[str, dict[str, TableRow]] = {}
    for (part, label), same in labelled(runs, labels).groupby(["part", "label"], sort=False):
        row = TableRow(by_seed(same["finished"], f"{label} on {part}"), str(part))
        parts.setdefault(row.part, {})[str(label)] = row
    return parts


def table_1(runs: pd.DataFrame) -> dict[str, dict[str, TableRow]]:
    """Return part -> method -> its row, as Table 1 has them."""
    return rows_by_part(runs, TABLE_1)
