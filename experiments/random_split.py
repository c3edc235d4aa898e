"""Deal the shipped prompts of a data set anew: test prompts that are unseen at random, as in the paper, and not by family.

    python -m experiments.random_split story_facts piqa     # outputs/random_split/<data set>/{train,validation,test}.yaml
    python train.py -m experiment=random_split scale=cpu dataset=story_facts

The sizes of the three pools stay as they are. `python -m experiments.paper` lays these runs beside the others.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.data.inputs import answer_kind
from paft.data.tasks import BUILT_IN
from paft.prompts import load_pool, shipped_pool_path
from paft.prompts.writers import write_pool
from paft.runtime.files import check_place

SPLITS = ("train", "validation", "test")


def deal(dataset: str, out: Path, seed: int) -> str:
    """Write the three pools of a data set; returns what was done, in a line. Raises InputError where no pool is shipped."""
    config = compose_training([f"dataset={dataset}"]).dataset
    task = BUILT_IN[dataset]
    form = task.form(answer_kind(config, task), config.options)
    pools = {s: load_pool(shipped_pool_path(dataset, form.answer, form.options, s), form) for s in SPLITS}
    templates = [template for pool in pools.values() for template in pool.templates]
    random.Random(f"random split {seed}").shuffle(templates)
    out.mkdir(parents=True, exist_ok=True)
    for split, pool in pools.items():
        dealt, templates = templates[: len(pool.templates)], templates[len(pool.templates) :]
        write_pool(replace(pool, templates=tuple(dealt)), out / f"{split}.yaml")
    return f"{dataset}: {' / '.join(str(len(pool.templates)) for pool in pools.values())} prompts in {out}"


def main() -> None:
    """Deal and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", choices=tuple(BUILT_IN))
    parser.add_argument("--out", type=Path, default=Path("outputs/random_split"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    check_place(f"--out {arguments.out}", arguments.out)
    for dataset in arguments.datasets:
        print(deal(dataset, arguments.out / dataset, arguments.seed))


if __name__ == "__main__":
    run_plain(main)
