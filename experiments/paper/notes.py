"""What the report says in words: what the runs were, what stands beside what, and what is missing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.paper.collect import Cell
from experiments.paper.commands import scale_of
from experiments.paper.page import bracketed, percent
from experiments.paper.published import NAMES, PAPER, model_of, published
from experiments.paper.rows import METHODS, Found, of_table_1, paired

PARTS = PAPER["main_results"]["columns"][:-1]  # the paper's data sets; the last column is their average

READING = (
    "Mean: over seeds, prompts and examples, in brackets with a 95% interval for other prompts and examples of the kind; the "
    "seeds are those at hand, and their spread comes on top. std, worst and Top: over prompts, averaged over seeds. A "
    "difference of two rows is paired, on the seeds that both have."
)
SELECTION = "Everything that was chosen was chosen on validation prompts and examples; test prompts were read once."


def model_name(cell: Cell) -> str:
    """Return the name of a run's base model."""
    return str(cell.config["model"]["path"] or "SmolLM2-135M-Instruct")


def device_name(device: Mapping[str, Any]) -> str:
    """Return what a run was made on."""
    threads = f", {device['threads']} threads" if device["type"] == "cpu" and "threads" in device else ""
    return f"{device['type']} {device['name']}{threads}"


def set_up(cells: Sequence[Cell]) -> list[str]:
    """Say of each data set what its runs were."""
    datasets: dict[str, list[Cell]] = {}
    for cell in cells:
        datasets.setdefault(cell.dataset, []).append(cell)
    return [f"* **{dataset}**: {_runs_of(same)}" for dataset, same in datasets.items()]


def _runs_of(cells: Sequence[Cell]) -> str:
    trained = [cell for cell in cells if cell.method != "base"]
    first = (trained or cells)[0]
    config, robust = first.config, first.results["robustness"]
    scale = scale_of(first)
    sizes = f"{robust['n_prompts']} test prompts x {robust['n_examples']:,} test examples, {scoring(first)}"
    devices = " and ".join(dict.fromkeys(device_name(cell.results["device"]) for cell in cells))
    said = [f"`scale={scale}`"] if scale else []
    said.append(f"{model_name(first)} in {first.results['dtype']}")
    if trained:
        said.append(f"LoRA r={config['model']['lora']['r']}")
        said.append(f"{first.results['plan']['train_examples']:,} training rows, {config['examples_per_update']} an update")
        said.append(f"learning rate {config['optim']['lr']:g}, T=3 epochs where nothing else is said")
        pools = sorted({cell.results["plan"]["templates"] for cell in trained if cell.method != "user" and cell.plain_pool})
        said += [f"{' or '.join(map(str, pools))} training prompts"] if pools else []
    return "; ".join([*said, sizes, f"on {devices}"]) + "."


def scoring(cell: Cell) -> str:
    """Return how a run's answers were told right from wrong."""
    how = cell.results["how"]
    if how["scoring"] == "generate":
        return "scored on answers written out"
    options = " with the options hidden" if cell.config["dataset"]["options"] == "hidden" else ""
    return f"scored by likelihood ({'summed' if how['normalise'] == 'sum' else 'per ' + how['normalise']}){options}"


def protocol(cell: Cell, table: str, column: str) -> str:
    """Say that a number of the paper, where one stands beside ours, was not measured as ours was."""
    prompts = "prompts of one's own" if cell.prompts else "this repository's prompts"
    return (
        f"Ours: {model_name(cell)}, {scoring(cell)}, on {prompts}. The paper's: {model_of(table, column)}, generated answers, "
        "on its own prompts."
    )


def nothing_printed(table: str, without: Iterable[str]) -> list[str]:
    """Name what the paper prints no number for."""
    place = PAPER[table]["title"].split(":")[0]  # such as Table 4
    names = ", ".join(NAMES.get(name, name) for name in dict.fromkeys(without))
    return [f"The paper's {place} has nothing for {names}."] if names else []


def not_one_configuration(part: str) -> list[str]:
    """Say what the paper's PAFT row is, and its number for the K that ours has."""
    same = published("k_and_t", "K=4 T=3", part)
    if not isinstance(same, list):
        return []
    return [f"The paper's PAFT row is the best K on the test prompts; its K=4, which is ours, has {same[0]} ± {same[1]}."]


def absent(rows: Mapping[str, Found], wanted: Iterable[str]) -> list[str]:
    """Say which of the wanted rows have no runs."""
    without = [label for label in wanted if label not in rows]
    return [f"No runs of {'; '.join(without)}."] if without else []


def unequal_seeds(rows: Mapping[str, Found]) -> list[str]:
    """Say which rows lack seeds that another has."""
    seeds = {label: {*found.seeds} for label, found in rows.items() if found.seeds}
    every = set[int]().union(*seeds.values())
    lacking = [f"{label} lacks seed {_listed(sorted(every - own))}" for label, own in seeds.items() if every - own]
    return [f"Not all have the same seeds: {'; '.join(lacking)}."] if lacking else []


def best_of_others(methods: Mapping[str, Found]) -> list[str]:
    """Compare PAFT with the best of the others, on the cells and seeds that both have."""
    others = [name for name in methods if name not in ("paft", "base")]
    if "paft" not in methods or not others:
        return []
    best = max(others, key=lambda name: methods[name].mean.value)
    both = paired(methods["paft"], methods[best])
    if both is None:
        return [f"PAFT and {NAMES[best]} share no seed: no paired difference."]
    found, seeds = both
    p = "" if found.p is None else f", permutation p = {found.p:.3f}"
    return [
        f"PAFT less the best of the others ({NAMES[best]}), paired, {_seeds(seeds)}: mean {bracketed(found.mean, '+')}; std "
        f"over prompts, less the examples' noise, {percent(found.std_a.value)} instead of {percent(found.std_b.value)}{p}; "
        f"worst prompt, chosen on other examples, {percent(found.worst_a)} instead of {percent(found.worst_b)}."
    ]


def chosen(methods: Mapping[str, Found]) -> list[str]:
    """Say which prompts the searches chose, by id and seed, and which searches made the same runs."""
    alike: dict[tuple[tuple[tuple[int, str], ...], int], list[str]] = {}
    for name, found in methods.items():
        picks = [cell.results["selection"] for cell in found.cells]
        if all(picks):
            choices = tuple((seed, pick["chosen"]["id"]) for seed, pick in zip(found.seeds, picks, strict=True))
            alike.setdefault((choices, picks[0]["renderings"]), []).append(name)
    said = []
    for (choices, renderings), names in alike.items():
        seeds: dict[str, list[int]] = {}
        for seed, prompt in choices:
            seeds.setdefault(prompt, []).append(seed)
        picked = " and ".join(f"{prompt} ({_seeds(own)})" for prompt, own in seeds.items())
        each = " each" if len(names) > 1 else ""
        equal = all(np.array_equal(methods[name].correct, methods[names[0]].correct) for name in names)
        so = ": their runs are equal" if each and equal else ""
        who = " and ".join(NAMES[name] for name in names)
        said.append(f"{who}{each} chose {picked} with {renderings:,} renderings of validation examples{so}.")
    return said


def common_seeds(rows: Collection[Found]) -> list[int]:
    """Return the seeds that all rows have."""
    return sorted(set.intersection(*({*found.seeds} for found in rows)))


def beware(cells: Sequence[Cell]) -> list[str]:
    """Warn of runs whose numbers may differ for other reasons than the tables name."""
    said = []
    if (states := len({str(cell.results["git"]) for cell in cells})) > 1:
        said.append(f"at {states} states of the code")
    if len(versions := {str(cell.results["versions"]) for cell in cells}) > 1:
        said.append(f"with {len(versions)} sets of library versions")
    if len(devices := {device_name(cell.results["device"]) for cell in cells}) > 1:
        said.append(f"on {len(devices)} kinds of devices")
    return [f"BEWARE: the runs were made {' and '.join(said)}, which may move numbers, too.", ""] if said else []


def missing(cells: Sequence[Cell]) -> str:
    """Say what stands in the paper and not here."""
    there = of_table_1(cells)
    said = []
    if without := [NAMES[part] for part in PARTS if part not in there]:
        said.append(f"runs on its data sets {', '.join(without)}")
    if not any(cell.results["how"]["scoring"] == "generate" and cell.prompts not in ("", ", random_split") for cell in cells):
        said.append("its own test prompts, scored on the answers that a model writes")
    said += [
        "HumanEval, XStoryCloze, Geometry3k and T-Eval (Table 2), of which it is not said what the models were trained on",
        "tuning with GRPO, of which there is no released code, reward or prompt",
        "its adversarial prompts and the names of its ten generator models, which were not published",
    ]
    return f"What stands in the paper and not here: {'; '.join(said)}."


def method_names(methods: Iterable[str] = METHODS) -> list[str]:
    """Return how methods are called."""
    return [NAMES[method] for method in methods]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
