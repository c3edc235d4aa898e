"""The pools of prompts=v2: sizes, kinds of layout, families disjoint over splits, pairs that are unseen."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

import paft.prompts
from paft.data.tasks import BUILT_IN
from paft.pools.audit import audit, read_for_audit
from paft.prompts import PromptPool, find_pool
from paft.prompts.parts import read_parts
from paft.prompts.pool import Form
from tests.conftest import compose_config

POOLS = Path(paft.prompts.__file__).parent / "shipped"
TASKS = ("story_facts", "race", "piqa", "hellaswag", "winogrande")
# Prompts of each kind of layout, and at least so many families of wording and of layout.
KINDS = {
    "v2_train": {"sections": 200},
    "v2_validation": {"sections": 20, "code": 10, "letter": 10},
    "v2_test": {"sections": 100, "options-first": 20, "prose": 20, "markup": 20, "transcript": 20, "trailing-marks": 20},
    "v2_composition": {"sections": 40},
}
FAMILIES = {"v2_train": (25, 16), "v2_validation": (10, 8), "v2_test": (40, 25), "v2_composition": (15, 10)}


def form_of(name: str) -> Form:
    return BUILT_IN[name].form("text" if name == "story_facts" else "letter", "shown")


def pools_of(name: str) -> dict[str, PromptPool]:
    return {split: find_pool(split, name, split, form_of(name)) for split in KINDS}


def test_the_group_names_the_pools():
    prompts = compose_config("prompts=v2").prompts
    assert (prompts.train, prompts.validation, prompts.test) == ("v2_train", "v2_validation", "v2_test")
    assert compose_config("prompts=v2", "prompts.test=mine.yaml").prompts.test == "mine.yaml"


@pytest.mark.parametrize("name", TASKS)
def test_sizes_kinds_and_families(name):
    for split, pool in pools_of(name).items():
        assert dict(Counter(t.layout.split("/")[0] for t in pool.templates)) == KINDS[split]
        wordings, layouts = FAMILIES[split]
        assert len({t.wording for t in pool.templates}) >= wordings and len({t.layout for t in pool.templates}) >= layouts
        assert len({t.id for t in pool.templates}) == len(pool.templates) and pool.notes == ()


@pytest.mark.parametrize("name", TASKS)
def test_training_shows_each_wording_in_several_layouts(name):
    layouts = defaultdict(set)
    for template in pools_of(name)["v2_train"].templates:
        layouts[template.wording].add(template.layout)
    assert min(map(len, layouts.values())) >= 5


@pytest.mark.parametrize("name", TASKS)
def test_no_family_and_no_prompt_is_in_two_splits(name):
    folder = POOLS / name / ("text" if name == "story_facts" else "letter")
    files = {split: folder / f"{split}.yaml" for split in ("v2_train", "v2_validation", "v2_test")}
    found = audit({split: read_for_audit(path, form_of(name)) for split, path in files.items()})
    assert not found.leaks
    assert [(d["id"], d["reason"], d["detail"]) for facts in found.files.values() for d in facts["defects"]] == []
    assert all(facts["near_copies_within"] == 0 for facts in found.files.values())


@pytest.mark.parametrize("name", TASKS)
def test_composition_is_known_wordings_in_known_layouts_as_unseen_pairs(name):
    pools = pools_of(name)
    seen = {(t.wording, t.layout) for t in pools["v2_train"].templates}
    wordings, layouts = ({family[i] for family in seen} for i in (0, 1))
    texts = {t.text for t in pools["v2_train"].templates}
    for template in pools["v2_composition"].templates:
        assert template.wording in wordings and template.layout in layouts and template.text not in texts
        assert (template.wording, template.layout) not in seen


@pytest.mark.parametrize("name", TASKS)
def test_the_new_prompts_are_not_those_of_the_other_pools(name):
    old = {t.text for split in ("train", "validation", "test") for t in find_pool(split, name, split, form_of(name)).templates}
    assert all(t.text not in old for pool in pools_of(name).values() for t in pool.templates)


@pytest.mark.parametrize("name", TASKS)
def test_mutations_change_sections_and_cannot_make_the_other_kinds(name):
    """Training has sections alone, and a mutation of these is never prose, markup, a transcript or marks behind options."""
    task = BUILT_IN[name]
    counts: dict[str, Counter[bool]] = defaultdict(Counter)
    for pool in pools_of(name).values():
        for template in pool.templates:
            kind = template.layout.split("/")[0]
            order = template.field_order
            first = order.index(task.choice_fields[0]) < order.index(task.fields[0])
            assert first == (kind == "options-first") or kind not in ("sections", "options-first"), template.id
            counts[kind][read_parts(template, task.choice_fields) is not None] += 1
    shares = {kind: count[True] / count.total() for kind, count in counts.items()}
    assert shares["sections"] >= 0.95 and shares["prose"] == 0, shares
