"""What the paper's report says in words: what the runs were, what stands beside what, and what is missing."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from experiments.paper.commands import scale_of
from experiments.paper.published import NAMES, PAPER, model_of, published
from experiments.paper.rows import table_1
from paft.reporting.page import bracketed, p_value, percent
from paft.reporting.runs import FinishedRun, TableRow, paired
from paft.reporting.sweep import described, named, scoring, size, warned

PARTS = PAPER["main_results"]["columns"][:-1]  # the paper's data sets; the last column is their average

SELECTION = (
    "A difference of two rows is paired, on the seeds that both have. Everything that was chosen was chosen on validation "
    "prompts and examples; test prompts were read once."
)


def set_up(runs: pd.DataFrame) -> list[str]:
    """Say for each data set what its runs were."""
    lines = []
    for dataset, text in described(list(runs["finished"])).items():
        every = runs[runs["dataset"] == dataset]
        own = every[every["method"] != "base"]
        scale = scale_of((own if len(own) else every)["finished"].iloc[0])
        said = [*([] if scale is None else [f"`scale={scale}`"]), text]
        said += ["T=3 epochs where nothing else is said"] if len(own) else []
        pools = sorted(own[own["whole_pool"] & (own["method"] != "user")]["templates"].unique())
        said += [f"{' or '.join(map(str, pools))} training prompts"] if pools else []
        lines.append(f"**{dataset}**: {'; '.join(said)}.")
    return lines


def protocol(run: FinishedRun, table: str, column: str) -> str:
    """Say that a number of the paper, where one stands beside ours, was not measured as ours was."""
    prompts = "prompts of one's own" if run.test_prompts else "this repository's prompts"
    return (
        f"Ours: {run.model}, {scoring(run)}, on {prompts}. The paper's: {model_of(table, column)}, generated answers, "
        "on its own prompts."
    )


def nothing_printed(table: str, without: Iterable[str]) -> list[str]:
    """Name what the paper prints no number for."""
    place = PAPER[table]["title"].split(":")[0]  # such as Table 4
    names = ", ".join(NAMES.get(name, name) for name in dict.fromkeys(without))
    return [f"The paper's {place} has nothing for {names}."] if names else []


def of_the_papers_hours(table: str, datasets: Iterable[str]) -> list[str]:
    """Say what the paper's hours are of, where they stand in a table, and for which data sets there are none."""
    printed = {dataset: published(table, "paft", dataset) for dataset in datasets}
    what = f"The paper's: {PAPER[table]['model']}, {PAPER[table]['source'].split('; ')[1]}, on its own prompts."
    without = nothing_printed(table, (dataset for dataset, hour in printed.items() if hour is None))
    return [*([what] if any(printed.values()) else []), *without]


def not_one_configuration(part: str) -> list[str]:
    """Say what the paper's PAFT row is, and its number for the K that ours has."""
    same = published("k_and_t", "K=4 T=3", part)
    if not isinstance(same, list):
        return []
    return [f"The paper's PAFT row is the best K on the test prompts; its K=4, which is ours, has {same[0]} ± {same[1]}."]


def reading(rows: Mapping[str, TableRow], part: str | None = None) -> list[str]:
    """Say over what the numbers of a part of a data set are, which rows have a single seed, and what makes them mean less.

    Args:
        part: None: it is not named, because the table has no other.
    """
    runs = list({run.folder: run for row in rows.values() for run in row.runs}.values())
    single = [label for label, row in rows.items() if len(row.seeds) == 1 and not row.runs[0].results.is_base]
    where = "" if part is None else f"{part}: "
    few = [f"{where}A single seed, so that another may order the rows otherwise (exploratory): {'; '.join(single)}."]
    return [size(next(iter(rows.values())), name=part), *(few if single else []), *named(warned(runs), len(runs))]


def absent(rows: Mapping[str, TableRow], wanted: Iterable[str]) -> list[str]:
    """Say which of the wanted rows have no runs."""
    without = [label for label in wanted if label not in rows]
    return [f"No runs of {'; '.join(without)}."] if without else []


def unequal_seeds(rows: Mapping[str, TableRow]) -> list[str]:
    """Say which rows lack seeds that another has."""
    seeds = {label: {*row.seeds} for label, row in rows.items() if row.seeds}
    every = set[int]().union(*seeds.values())
    lacking = [f"{label} lacks seed {_listed(sorted(every - own))}" for label, own in seeds.items() if every - own]
    return [f"Not all have the same seeds: {'; '.join(lacking)}."] if lacking else []


def best_of_others(methods: Mapping[str, TableRow]) -> list[str]:
    """Compare PAFT with the best of the others, on the prompts, examples and seeds that both have."""
    others = [name for name in methods if name not in ("paft", "base")]
    if "paft" not in methods or not others:
        return []
    best = max(others, key=lambda name: methods[name].mean.value)
    both = paired(methods["paft"], methods[best])
    if both is None:
        return [f"PAFT and {NAMES[best]} share no seed: no paired difference."]
    compared, seeds = both
    p = "" if compared.p is None else f", permutation {p_value(compared.p)}"
    stds = f"{percent(compared.std_a.value)} instead of {percent(compared.std_b.value)}{p}"
    return [
        f"PAFT less the best of the others ({NAMES[best]}), paired, {_seeds(seeds)}: mean {bracketed(compared.mean, '+')}; "
        f"std over prompts, less the examples' noise, {stds}; "
        f"worst prompt, chosen on other examples, {percent(compared.worst_a)} instead of {percent(compared.worst_b)}."
    ]


def best_on_the_test_prompts(rows: Mapping[str, TableRow], default: str) -> list[str]:
    """Name the row that somebody would choose who looked at the test prompts."""
    seeds = sorted(set.intersection(*({*row.seeds} for row in rows.values())))
    if not seeds:
        return []
    means = {name: row.only(seeds).mean.value for name, row in rows.items()}
    best = max(means, key=lambda name: means[name])
    return [
        f"Best on the test prompts, with the seeds that all rows have ({_listed(seeds)}): {best}, {percent(means[best])}. "
        f"The paper's PAFT in Table 1 is chosen like that; ours is {default}, fixed beforehand."
    ]


def chosen(methods: Mapping[str, TableRow]) -> list[str]:
    """Say which prompts the searches chose, by id and seed, and which searches made the same runs."""
    alike: dict[tuple[tuple[tuple[int, str], ...], int], list[str]] = {}
    for name, row in methods.items():
        picks = [run.results.selection for run in row.runs if run.results.selection is not None]
        if len(picks) == len(row.runs):
            choices = tuple((seed, pick.chosen.id) for seed, pick in zip(row.seeds, picks, strict=True))
            alike.setdefault((choices, picks[0].renderings), []).append(name)
    lines = []
    for (choices, renderings), names in alike.items():
        seeds: dict[str, list[int]] = {}
        for seed, prompt in choices:
            seeds.setdefault(prompt, []).append(seed)
        picked = " and ".join(f"{prompt} ({_seeds(own)})" for prompt, own in seeds.items())
        each = " each" if len(names) > 1 else ""
        equal = all(np.array_equal(methods[name].correct, methods[names[0]].correct) for name in names)
        so = ": their runs are equal" if each and equal else ""
        who = " and ".join(NAMES[name] for name in names)
        lines.append(f"{who}{each} chose {picked} with {renderings:,} renderings of validation examples{so}.")
    return lines


def missing(runs: pd.DataFrame) -> str:
    """Say what stands in the paper and not here."""
    parts = table_1(runs)
    lacking = []
    if without := [NAMES[part] for part in PARTS if part not in parts]:
        lacking.append(f"runs on its data sets {', '.join(without)}")
    if not any(_as_in_the_paper(run) for run in runs["finished"]):
        lacking.append("its own test prompts, scored on the answers that a model writes")
    stories = [] if any(str(part).startswith("xstorycloze") for part in parts) else ["XStoryCloze"]
    others = ", ".join(["HumanEval", *stories, "Geometry3k"]) + " and T-Eval"
    lacking += [
        f"{others} (Table 2), of which it is not said what the models were trained on",
        "tuning with GRPO, of which there is no released code, reward or prompt",
        "its adversarial prompts and the names of its ten generator models, which were not published",
    ]
    return f"What stands in the paper and not here: {'; '.join(lacking)}."


def _as_in_the_paper(run: FinishedRun) -> bool:
    return run.results.scoring.scoring == "generate" and run.test_prompts not in ("", ", random_split")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
