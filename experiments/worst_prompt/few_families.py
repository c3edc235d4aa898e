"""Training pools of equal size with few or many families, drawn anew for each seed, so that no family decides."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from paft.data.tasks.story_facts import STORY_FACTS
from paft.prompts.pool import load_pool, shipped_pool_path
from paft.prompts.template import PromptTemplate
from paft.prompts.writers import write_pool

SIZE = 40  # prompts in each pool
FEW_WORDINGS = 5  # of 25, of which each has 8 prompts
FEW_LAYOUTS = 3  # of those that have a third of SIZE or more

Templates = Sequence[PromptTemplate]


def write_pools(seeds: Sequence[int], out: Path) -> None:
    """Write a pool of each kind for each seed, as KIND_SEED.yaml, and print what they hold."""
    file = shipped_pool_path("story_facts", "text", "shown", "train", "v2_train")
    pool = load_pool(file, STORY_FACTS.form("text", "shown"))
    out.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Callable[[Templates, random.Random], list[PromptTemplate]]] = {
        "few_wordings": few_wordings,
        "few_layouts": few_layouts,
        "many": many,
    }
    for name, drawn in kinds.items():
        for seed in seeds:
            taken = sorted(drawn(pool.templates, random.Random(seed)), key=lambda template: template.id)
            write_pool(replace(pool, templates=tuple(taken)), out / f"{name}_{seed}.yaml")
            wordings, layouts = len({template.wording for template in taken}), len({template.layout for template in taken})
            print(f"{out}/{name}_{seed}.yaml: {len(taken)} prompts, {wordings} wordings, {layouts} layouts")


def few_wordings(templates: Templates, draw: random.Random) -> list[PromptTemplate]:
    """Return all prompts of some wordings."""
    taken = draw.sample(sorted({template.wording for template in templates}), FEW_WORDINGS)
    return [template for template in templates if template.wording in taken]


def few_layouts(templates: Templates, draw: random.Random) -> list[PromptTemplate]:
    """Return prompts of some of the layouts that have enough."""
    sizes = Counter(template.layout for template in templates)
    taken = draw.sample(sorted(name for name, n in sizes.items() if n * FEW_LAYOUTS >= SIZE), FEW_LAYOUTS)
    return draw.sample([template for template in templates if template.layout in taken], SIZE)


def many(templates: Templates, draw: random.Random) -> list[PromptTemplate]:
    """Return prompts one by one, each of the wording and the layout that were taken least."""
    left, taken, used = draw.sample(templates, len(templates)), list[PromptTemplate](), Counter[str]()
    while len(taken) < SIZE:
        best = min(left, key=lambda template: used[template.wording] + used[template.layout])
        left.remove(best)
        taken.append(best)
        used.update((best.wording, best.layout))
    return taken
