"""If all your prompts have their parts in one order, does changing the order make up for prompts that nobody has written?

    python -m experiments.one_order pools                                        # the training prompts of the arms
    python -m experiments.one_order commands                                     # what to run; seed by seed
    python -m experiments.one_order page RUNS --out experiments/results/one_order [--keep]

Of the 60 shipped training prompts of story_facts 31 show the story, then the question, then the options. Trained on are

* these 31 as they are,
* these 31 with their parts in another order at each draw, the options never above the story (three orders), or anywhere (six),
* these 31 as `sampler=mutated` has them, which changes labels, separators, case and options besides the six orders,
* 31 that are drawn from all 60, which have five orders, for each seed anew,
* all 60.

The 50 shipped test prompts are scored; 16 have another order than the 31, and 13 of these have the options above the story.
All arms were fixed before they were run, but for `mutated as shipped`, which was added when the others were known. Nothing was
chosen by these scores, but the arms are in no registration.
"""

import argparse
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.worst_prompt.arms import missing_seeds, paired, runs_by_arm
from experiments.worst_prompt.files import add_page_arguments
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.data.tasks.story_facts import STORY_FACTS
from paft.data.updates import mutator_of
from paft.evaluation.statistics import Array
from paft.prompts.parts import shown_order
from paft.prompts.pool import PromptPool, load_pool, shipped_pool_path
from paft.prompts.template import PromptTemplate
from paft.prompts.writers import write_pool
from paft.reporting.collect import Collected, collect, keep_runs
from paft.reporting.page import bracketed, percent, table, write, write_json
from paft.reporting.runs import FinishedRun, TableRow
from paft.reporting.sweep import origin
from paft.runtime.files import check_place

SEEDS = (0, 1, 2)
POOLS = Path("outputs/one_order/pools")
ORDER = ("story", "question", "options")
_FORM = STORY_FACTS.form("text", "shown")
_ONE = f"prompts.train={POOLS}/one_order.yaml"
_SOME = f"prompts.train={POOLS}/five_orders_{{seed}}.yaml"
COMMON = ("scale=cpu", "dataset=story_facts", "train_examples=400", "model.dtype=bf16", "validation.prompts=4",
          "eval_prompts=null", "eval_examples=100", "score_base=false")  # fmt: skip
ARMS = {
    "31 prompts of one order": ("K=1", _ONE),
    "the same in three orders": ("K=1", _ONE, "sampler=mutated", "sampler.mutations=[order]"),
    "the same in all six orders": ("K=1", _ONE, "sampler=mutated", "sampler.mutations=[order,options_first]"),
    "the same, mutated as shipped": ("K=1", _ONE, "sampler=mutated"),
    "31 prompts of five orders": ("K=1", _SOME),
    "60 prompts of five orders": ("K=1",),
}
AGAINST = (
    ("the same in three orders", "31 prompts of one order"),
    ("the same in all six orders", "31 prompts of one order"),
    ("the same, mutated as shipped", "31 prompts of one order"),
    ("the same, mutated as shipped", "the same in all six orders"),
    ("31 prompts of five orders", "31 prompts of one order"),
    ("the same in all six orders", "31 prompts of five orders"),
    ("the same, mutated as shipped", "31 prompts of five orders"),
    ("60 prompts of five orders", "31 prompts of five orders"),
)
SAME, OTHER, ABOVE = "in the order of the 31", "in another order", "of these with the options above the story"


def main() -> None:
    """Run the command in sys.argv."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.one_order", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="pools | commands | page")
    pools = commands.add_parser("pools", help=f"write the training prompts of the arms to {POOLS}")
    pools.set_defaults(command=lambda _: write_pools(POOLS))
    typed = commands.add_parser("commands", help="print the command of each run")
    typed.set_defaults(command=lambda _: print_commands())
    page = commands.add_parser("page", help="compare the arms that are finished")
    add_page_arguments(page, Path("outputs/one_order"))
    page.set_defaults(command=lambda a: _page(a.runs, a.out, a.keep))
    arguments = parser.parse_args()
    arguments.command(arguments)


def order_of(template: PromptTemplate) -> tuple[str, ...]:
    """Return the order in which a template first shows its fields, the options as one."""
    return shown_order(template, _FORM.choice_fields)


def shipped_pool() -> PromptPool:
    """Return the shipped training prompts."""
    return load_pool(shipped_pool_path("story_facts", "text", "shown", "train"), _FORM)


def of_one_order(pool: PromptPool) -> list[PromptTemplate]:
    """Return the templates of the order of which most are."""
    return [template for template in pool.templates if order_of(template) == ORDER]


def share_in_order(arm: str, templates: Sequence[PromptTemplate]) -> float:
    """Return which share of an arm's draws show a template in the order that it has in the pool, by 100 draws of each."""
    mutator, rng = mutator_of(compose_training(overrides(arm, 0)), STORY_FACTS), random.Random(0)
    assert mutator is not None
    drawn = [order_of(mutator.mutated(template, rng)) for template in templates for _ in range(100)]
    return drawn.count(ORDER) / len(drawn)


def write_pools(out: Path) -> None:
    """Write the shipped training prompts of one order, and for each seed as many that are drawn from all."""
    check_place(f"{out}", out)
    pool = shipped_pool()
    out.mkdir(parents=True, exist_ok=True)
    one = of_one_order(pool)
    drawn = {f"five_orders_{seed}": random.Random(seed).sample(pool.templates, len(one)) for seed in SEEDS}
    for name, templates in {"one_order": one, **drawn}.items():
        taken = tuple(sorted(templates, key=lambda template: template.id))
        write_pool(replace(pool, templates=taken), out / f"{name}.yaml")
        print(f"{out}/{name}.yaml: {len(taken)} prompts, {len({*map(order_of, taken)})} orders")


def overrides(arm: str, seed: int) -> list[str]:
    """Return what is typed for a run."""
    return [*COMMON, *(override.replace("{seed}", str(seed)) for override in ARMS[arm]), f"seed={seed}"]


def print_commands() -> None:
    """Print the command of each run, seed by seed, so that whatever is cut off, the rest is paired."""
    for seed in SEEDS:
        for arm in ARMS:
            print(shlex.join(["paft", "train", *overrides(arm, seed)]))


def _page(runs: Sequence[Path], out: Path, keep: bool) -> None:
    check_place(f"--out {out}", out)
    write_page(collect(runs), out, keep)


def groups_of(run: FinishedRun) -> dict[str, Array]:
    """Return which test prompts have the order of the 31, another one, and the options above the story (P,)."""
    orders = [order_of(PromptTemplate(str(row["text"]), id=str(row["id"]))) for row in run.test_prompt_rows]
    same = np.array([order == ORDER for order in orders])
    above = np.array([order.index("options") < order.index("story") for order in orders])
    return {SAME: same, OTHER: ~same, ABOVE: above}


def write_page(collected: Collected, out: Path, keep: bool) -> None:
    """Write README.md and results.json: each arm on the prompts of each order, and the differences."""
    found = runs_by_arm(collected, {arm: [overrides(arm, seed) for seed in SEEDS] for arm in ARMS})
    every = [run for own in found.values() for run in own]
    groups = groups_of(every[0])
    accuracy = {arm: TableRow(own, own[0].dataset).correct.mean(2) for arm, own in found.items()}
    missing = missing_seeds(found, ARMS, len(SEEDS))
    one = of_one_order(shipped_pool())
    shares = [percent(share_in_order(arm, one)) for arm in ("the same in three orders", "the same in all six orders")]
    n_examples = every[0].matrix(every[0].dataset).correct.shape[1]
    page = ["# Prompts of one order, and the same prompts in all orders", "", *origin(every)]
    page += [f"Not all runs are finished: {'; '.join(missing)}.", ""] if missing else []
    headings = [f"{int(own.sum())} {name}" for name, own in groups.items()]
    rows = [[arm, str(len(own)), *(_cell(own[:, which]) for which in groups.values())] for arm, own in accuracy.items()]
    page += table(["trained on", "seeds", *headings], rows)
    page += [
        "Percent: the mean over seeds and, in parentheses, the single worst prompt of each seed, averaged: among more prompts "
        "it is lower. "
        f"{len(groups[SAME])} shipped test prompts, {n_examples} test examples.",
        "",
        "## Differences",
        "",
        *table(["", "seeds", *headings, "all, CVaR10"], _differences(found, groups)),
        "Points of the mean; the last column: of the mean of the worst tenth of all test prompts. In brackets 95% intervals for"
        " other seeds and other families of wordings, where there are three seeds and ten families; they do not cover other "
        "examples or other tasks, and are not corrected for how many there are.",
        "",
        f"In three orders the options never come before the story, so that {int(groups[ABOVE].sum())} of the test prompts have "
        "orders which training never showed. A template that says where something stands keeps its order: of the draws in "
        f"three orders {shares[0]}% are in the order of the 31, in six {shares[1]}%. All arms have as many rows and updates.",
        "",
        f"All arms: `{' '.join(COMMON)}`. Made by `python -m experiments.one_order page`.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    write_json(out, {
        "common": COMMON, "missing": missing, "groups": {name: own.tolist() for name, own in groups.items()},
        "arms": {arm: {"overrides": ARMS[arm], "seeds": [run.seed for run in found[arm]], "accuracy": own.tolist()}
                 for arm, own in accuracy.items()},
    })  # fmt: skip
    if keep:
        keep_runs(Collected(every, {}, []), out)
    print("\n".join(page))


def _cell(accuracy: Array) -> str:
    """Return the mean of accuracies (S, P), and of the worst of each seed."""
    return f"{percent(float(accuracy.mean()))} ({percent(float(accuracy.min(1).mean()))})"


def _differences(found: Mapping[str, Sequence[FinishedRun]], groups: Mapping[str, Array]) -> list[list[str]]:
    rows = []
    for arm, other in AGAINST:
        arms = paired(found[arm], found[other]) if arm in found and other in found else None
        if arms is not None:
            means = [arms.of(np.flatnonzero(own).tolist()).mean() for own in groups.values()]
            cells = [bracketed(estimate, "+") for estimate in [*means, arms.tail()]]
            rows.append([f"{arm} minus {other}", str(len(arms.seeds)), *cells])
    return rows


if __name__ == "__main__":
    run_plain(main)
