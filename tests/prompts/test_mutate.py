"""Layout mutations: the same words and fields in another layout."""

import random
from collections import Counter
from typing import get_args

import pytest

from paft.config import schema
from paft.data.tasks import BUILT_IN
from paft.prompts import PromptPool, PromptTemplate, find_pool
from paft.prompts.mutate import MUTATIONS, Mutation, Mutator
from paft.prompts.parts import FIELD

TASKS = ("story_facts", "race", "piqa", "hellaswag", "winogrande", "gsm8k", "xstorycloze")


def pool_of(name: str) -> PromptPool:
    task = BUILT_IN[name]
    return find_pool(None, task.pools, "train", task.form(_answer(name), "shown"))


def _answer(name: str) -> str:
    return "text" if name in ("story_facts", "gsm8k") else "letter"


def mutator(name: str, *kinds: Mutation) -> Mutator:
    task = BUILT_IN[name]
    return Mutator(kinds or MUTATIONS, task.choice_fields, task.fields[0], _answer(name))


def words(text: str) -> Counter[str]:
    return Counter(FIELD.sub("", text).lower().split())


def letters_only(text: str) -> str:
    return "".join(sorted(c for c in FIELD.sub("", text).lower() if c.isalpha()))


def test_the_config_names_the_kinds_there_are():
    assert get_args(schema.Mutation) == MUTATIONS


@pytest.mark.parametrize("name", TASKS)
def test_fields_and_words_stay(name):
    """But for the marks of options: "Option A:" may become "A.", and the other way round."""
    rng, kinds = random.Random(0), [kind for kind in MUTATIONS if kind != "option_style"]
    for template in pool_of(name).templates:
        for _ in range(5):
            new = mutator(name).mutated(template, rng)
            assert sorted(new.field_order) == sorted(template.field_order)
            new = mutator(name, *kinds).mutated(template, rng)
            assert letters_only(new.text) == letters_only(template.text)
            assert (new.wording, new.source) == (template.wording, template.source)
            assert new == template or (new.id.startswith(f"{template.id}~") and new.layout == "mutated")


@pytest.mark.parametrize("name", TASKS)
def test_most_shipped_prompts_have_parts_and_many_layouts(name):
    pool, rng = pool_of(name), random.Random(0)
    changeable = [t for t in pool.templates if mutator(name).can_change(t)]
    assert len(changeable) >= 0.7 * len(pool.templates)
    texts = {mutator(name).mutated(t, rng).text for t in changeable for _ in range(20)}
    assert len(texts) > 10 * len(changeable)


def test_a_mutation_is_a_function_of_its_random_numbers():
    template = pool_of("race").templates[0]
    found = [mutator("race").mutated(template, random.Random("layout 0 1 2 0")) for _ in range(3)]
    assert found[0] == found[1] == found[2]


def test_one_kind_more_changes_nothing_about_the_others():
    template = pool_of("race").templates[0]
    for seed in range(40):
        some = mutator("race", "order", "separators").mutated(template, random.Random(seed))
        more = mutator("race", "order", "separators", "casing").mutated(template, random.Random(seed))
        assert some.text.lower() == more.text.lower()


TEXT = "Read.\n\nStory: {story}\nQuestion: {question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:"


def layouts(kinds: tuple[Mutation, ...], text: str = TEXT, n: int = 300, answer: str = "letter") -> set[str]:
    task, rng = BUILT_IN["story_facts"], random.Random(0)
    made = Mutator(kinds, task.choice_fields, task.fields[0], answer)
    return {made.mutated(PromptTemplate(text, "t"), rng).text for _ in range(n)}


def test_order_keeps_the_options_behind_the_text_unless_they_may_come_first():
    found = layouts(("order",))
    assert len(found) == 12 and all(text.index("{story}") < text.index("{A}") for text in found)  # of four parts
    both = layouts(("order", "options_first"))
    assert len(both) == 24 and found < both
    assert all(text.endswith("\nAnswer:") for text in both)


def test_styles_change_what_marks_labels_and_options():
    assert "### Story\n{story}" in "".join(layouts(("labels",)))
    assert "[A] {A}\n[B] {B}" in "".join(layouts(("option_style",)))
    assert "A) {A} | B) {B} | C) {C} | D) {D}" in "".join(layouts(("option_style",)))
    assert any(text.startswith("READ.") and "STORY: {story}" in text and "A. {A}" in text for text in layouts(("casing",)))
    assert "Read.\n---\nStory: {story}\n---\nQuestion" in "".join(layouts(("separators",)))


def test_letters_follow_their_options():
    task, rng = BUILT_IN["story_facts"], random.Random(0)
    made = Mutator(("option_order", "option_style", "order"), task.choice_fields, task.fields[0], "letter")
    seen = set()
    for _ in range(200):
        new = made.mutated(PromptTemplate(TEXT, "t"), rng)
        for choice, letter in zip("ABCD", new.letters or "ABCD", strict=True):
            before = new.text[: new.text.index(f"{{{choice}}}")]
            assert [c for c in before if c in "ABCD"][-1] == letter
        seen.add(new.letters)
    assert len(seen) == 24 and "ABCD" not in seen  # the usual letters are not written down


def test_an_answer_in_words_needs_no_letter():
    task = BUILT_IN["story_facts"]
    made = Mutator(("option_order",), task.choice_fields, task.fields[0], "text")
    found = [made.mutated(PromptTemplate("{story}\n{A}, {B}, {C} or {D}?\nAnswer:", "t"), random.Random(i)) for i in range(50)]
    assert len({t.text for t in found}) > 10 and not any(t.letters for t in found)
    assert all(t.text.count(" or ") == 1 for t in found)


@pytest.mark.parametrize("text", ["{story} {question} {A} {B} {C} {D}:", "{story}, that is {A} or {B},\n{question}\nAnswer:"])
def test_a_template_without_parts_is_shown_as_it_is(text):
    assert layouts(MUTATIONS, text) == {text}


@pytest.mark.parametrize("says", ["Read the text above.", "Answer the question below.", "Use the last line.", "As follows."])
def test_a_template_that_says_where_something_stands_keeps_its_order(says):
    found = layouts(MUTATIONS, TEXT.replace("Read.", says))
    assert len(found) > 20
    order = ["{story}", "{question}"]
    assert all([text.index(name) for name in order] == sorted(text.index(name) for name in order) for text in found)
    assert all(text.lower().startswith(says.lower()[:4]) for text in found)


def test_words_keep_their_apostrophes_and_marks_their_words():
    assert any("DON'T" in text for text in layouts(("casing",), TEXT.replace("Read.", "Don't guess.")))
    named = (
        TEXT.replace("A. ", "Option A: ").replace("B. ", "Option B: ").replace("C. ", "Option C: ").replace("D. ", "Option D: ")
    )
    assert layouts(("option_style",), named) == {named}
    headed = TEXT.replace("A. {A}", "Choices\nA. {A}")
    assert all("Choices\n" in text for text in layouts(("option_style",), headed))


def test_options_whose_letters_are_not_known_stay_where_they_are():
    text = "{story}\nPerhaps {A}, perhaps {B}, {C} or {D}.\nAnswer:"
    assert layouts(("option_order",), text) == {text}
    assert len(layouts(("option_order",), text, answer="text")) == 24
