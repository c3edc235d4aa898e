"""The page of the RACE runs that are kept in experiments/results/race_qwen05: python -m experiments.race

First evidence on real data: 3,000 of RACE's training rows, 200 of its test rows under all 50 test prompts, two seeds. By their
configs the runs come from

    python train.py -m dataset=race model.path=MODEL method=paft,user seed=0,1 K=4 T=3 train_examples=3000 \\
        optim.lr=3e-4 model.lora.dropout=0.0 validation.prompts=4 validation.examples=40 eval_examples=200

and from method=base and method=top_accuracy method.budget=2400 (seed 0).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paft.cli.hydra_app import run_plain
from paft.evaluation.statistics import of_these_prompts
from paft.reporting.collect import collect
from paft.reporting.compare import compare_sides
from paft.reporting.page import bracketed, p_value, percent, table, write
from paft.reporting.runs import TableRow
from paft.reporting.sweep import report

KEPT = Path("experiments/results/race_qwen05")

_NOTES = (
    "First evidence, no benchmark: two seeds (the search: one), 3,000 of RACE's training rows, 200 of its test rows, one "
    "model, the same learning rate for all methods, fixed beforehand.",
    "What is missing: the runs name no commit of the code; their model is called qwen2.5-coder-0.5b-instruct, which is a "
    "placeholder and no place on the hub. It is Qwen2.5-Coder-0.5B-Instruct, its weights dequantised from a GGUF file, on one "
    "H100.",
)


def paired_note() -> str:
    """Compare PAFT with one fixed prompt, paired on both seeds."""
    paft, user = (sorted((KEPT / "runs").glob(f"*-{method}-*seed[01]-*")) for method in ("paft", "user"))
    compared = compare_sides(paft, user)
    pair, sides = compared.comparison, (compared.a, compared.b)
    seeds = [" and ".join(percent(float(run.matrix.correct.mean())) for run in side) for side in sides]
    tails = [*map(percent, compared.worst_tenths)]
    p = "" if pair.p is None else f" (permutation {p_value(pair.p)})"
    return (
        f"PAFT minus one fixed prompt, paired, seeds 0, 1: mean {bracketed(pair.mean, '+')} points "
        f"({seeds[0]} against {seeds[1]}), on {pair.wins} of the 50 prompts. The worst tenth of "
        f"the prompts (CVaR10) has {tails[0]} instead of {tails[1]}; two seeds are too few for an interval. The single worst, "
        f"chosen on other examples, has {percent(pair.worst_a)} instead of {percent(pair.worst_b)}, and the std over prompts, "
        f"minus the examples' noise, is {percent(pair.std_a.value)} instead of {percent(pair.std_b.value)}{p}. "
        f"{_beside_one_choice()}"
    )


def _beside_one_choice() -> str:
    """Say whether one fixed prompt is told from one choice throughout."""
    user = sides()["user"]
    constant = user.runs[0].matrix(user.part).constant or 0.0
    told = user.mean.low is not None and user.mean.low > constant
    how = "better than" if told else "not told from"
    return f"One fixed prompt, {bracketed(user.mean)}, is {how} one choice throughout, {percent(constant)}."


def sides() -> dict[str, TableRow]:
    """Return PAFT, one fixed prompt and the base model on the whole of the test rows, all seeds."""
    runs = collect([KEPT / "runs"]).runs
    own = {name: [run for run in runs if run.config["method"]["name"] == name] for name in ("paft", "user", "base")}
    return {name: TableRow(sorted(found, key=lambda run: run.seed or 0), found[0].dataset) for name, found in own.items()}


def family_table(rows: dict[str, TableRow], prompts: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Return the table of the families of a kind, the one that PAFT answers worst first."""
    correct = {name: row.correct for name, row in rows.items()}
    found = []
    for family in dict.fromkeys(row[key] for row in prompts):
        own = [place for place, row in enumerate(prompts) if row[key] == family]
        of_seeds = correct["paft"][:, own].mean((1, 2))
        gain = of_these_prompts((correct["paft"] - correct["user"])[:, own].mean(0), rows["paft"].groups)
        means = [percent(float(correct[name][:, own].mean())) for name in ("base", "user", "paft")]
        seeds = ", ".join(percent(float(value)) for value in of_seeds)
        found.append((float(of_seeds.mean()), [family, str(len(own)), *means, seeds, bracketed(gain, "+")]))
    headings = [key, "prompts", "base", "one prompt", "PAFT", "its seeds", "PAFT minus one prompt"]
    return table(headings, [cells for _, cells in sorted(found)])


def prompt_table(rows: dict[str, TableRow], prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of all prompts, the one that PAFT answers worst first."""
    means = {name: row.correct.mean((0, 2)) for name, row in rows.items()}
    order = np.argsort(means["paft"], kind="stable")
    cells = [[*(prompts[i][key] for key in ("id", "layout", "wording")),
              *(percent(float(means[name][i])) for name in ("base", "user", "paft"))] for i in order]  # fmt: skip
    return table(["prompt", "layout", "wording", "base", "one prompt", "PAFT"], cells)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    report([KEPT / "runs"], KEPT, keep=True, notes=[*_NOTES, paired_note()])
    rows = sides()
    prompts = rows["paft"].runs[0].test_prompt_rows
    *page, made_by = (KEPT / "README.md").read_text(encoding="utf-8").rstrip().splitlines()
    page += ["", "## By layout", "", *family_table(rows, prompts, "layout"), _OF_ROWS, ""]
    page += ["## By wording", "", *family_table(rows, prompts, "wording"), _OF_ROWS, ""]
    page += ["## Every prompt", "", *prompt_table(rows, prompts), "Percent, both parts, mean over seeds.", ""]
    write(KEPT, [*page, made_by.replace("`paft report RUNS... --out DIR`", "`python -m experiments.race`"), ""])


_OF_ROWS = (
    "Percent, both parts, mean over seeds. In brackets 95% intervals for other articles under these prompts; a family has few "
    "prompts, so that nothing is said of others of it."
)


if __name__ == "__main__":
    run_plain(main)
