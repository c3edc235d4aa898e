"""Perturbation: deterministic, different, and it never touches what it must not."""

import random
import re

import pytest

from paft.data.tasks import BUILT_IN
from paft.prompts import PromptPool, PromptTemplate, load_pool, shipped_pool_path
from paft.prompts.perturb import KINDS, changed, perturb
from paft.runtime.errors import InputError
from tests.prompts.test_pool import FOLDERS, shipped

TASK = BUILT_IN["piqa"]
POOL = load_pool(shipped_pool_path("piqa", "letter", "shown", "test"), TASK.form("letter", "shown"))
TEXTS = {t.id: t.text for t in POOL.templates}


def one(text: str) -> PromptPool:
    return PromptPool("p", (PromptTemplate(text, "x"),), "letter", "shown")


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_letters_come_through(kind):
    for p in perturb(POOL, [kind], 12, seed=0):
        before, after = TEXTS[p.of], p.template.text
        assert after != before and 0 < p.strength < 1 and p.kind == kind
        assert sorted(re.findall(r"\{\w+\}", after)) == sorted(re.findall(r"\{\w+\}", before))
        if kind != "distractor":
            assert sorted(re.findall(r"\b[A-Z]\b", after)) == sorted(re.findall(r"\b[A-Z]\b", before))
        assert p.template.id.startswith(p.of)


def test_it_is_a_function_of_the_seed():
    assert perturb(POOL, KINDS, 10, 0) == perturb(POOL, KINDS, 10, 0)
    assert perturb(POOL, KINDS, 10, 0) != perturb(POOL, KINDS, 10, 1)


def test_kinds_take_turns_and_no_prompt_comes_twice():
    found = perturb(POOL, KINDS, 12, 0)
    assert [p.kind for p in found] == [*KINDS, *KINDS]
    assert len({p.template.text for p in found}) == 12 and len({p.template.id for p in found}) == 12
    assert not {p.template.text for p in found} & {*TEXTS.values()}


def test_options_keep_their_order_when_parts_change_places():
    text = "Read this with care.\nThink well.\nGoal: {goal}\nA. {sol1}\nB. {sol2}\nAnswer:"
    for seed in range(10):
        (p,) = perturb(one(text), ["reorder"], 1, seed)
        assert "A. {sol1}\nB. {sol2}\n" in p.template.text and p.template.text.endswith("\nAnswer:")
        assert sorted(p.template.text.split("\n")) == sorted(text.split("\n"))


def options_of(text: str, choices: tuple[str, ...]) -> str:
    """What stands from the label of the first option to the last option."""
    places = [text.index(f"{{{name}}}") for name in choices]
    before = re.search(r"\b([A-Z0-9])\b[^\w{}]*$", text[: min(places)])  # some labels follow their option
    return (before[1] if before else "") + text[min(places) : max(places)]


@pytest.mark.parametrize("folder", [f for f in FOLDERS if BUILT_IN[f.split("/")[0]].choice_fields and "hidden" not in f])
def test_every_option_keeps_its_label(folder):
    """Else Con would be measured on prompts whose letters mean nothing."""
    choices = BUILT_IN[folder.split("/")[0]].choice_fields
    for pool in shipped(folder).values():
        for template in pool.templates:
            for kind in ("reorder", "distractor"):
                for seed in range(4):
                    after = changed(template.text, kind, random.Random(seed))
                    assert options_of(after, choices) == options_of(template.text, choices), (template.id, kind, seed)


def test_options_in_one_line_keep_their_labels():
    text = "Look here. Q: {goal} Options: A. {sol1} B. {sol2}. Think first. Answer:."
    seen = set()
    for seed in range(20):
        after = changed(text, "reorder", random.Random(seed))
        assert "Options: A. {sol1} B. {sol2}." in after
        seen.add(after)
    assert len(seen) > 1


def test_white_space_before_the_answer_stays():
    (p,) = perturb(one("Goal here: {goal} A. {sol1} B. {sol2} Answer: "), ["whitespace"], 1, 0)
    assert p.template.text.endswith(": ") and not p.template.text.endswith("  ")


def test_literal_braces_survive():
    text = '{{"goal": "{goal}", "first": "{sol1}", "second": "{sol2}", "answer": "'
    for p in perturb(one(text), ["typos", "case"], 4, 0):
        assert p.template.render({"goal": "G", "sol1": "1", "sol2": "2"}).startswith('{"')


def test_a_pool_with_nothing_to_perturb_is_refused():
    with pytest.raises(InputError, match=r"^Only \d of 10 different perturbed prompts could be made; give a larger pool"):
        perturb(one("{goal} {sol1} {sol2}"), ["punctuation"], 10, 0)
