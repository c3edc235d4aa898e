"""Perturbation: deterministic, different, and it never touches what it must not."""

import re

import pytest

from paft.data.task import BUILT_IN
from paft.errors import InputError
from paft.prompts import PromptPool, PromptTemplate, load_pool, shipped_pool_path
from paft.prompts.perturb import KINDS, perturb

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
