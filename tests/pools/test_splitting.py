"""Splits: 8:1, nothing lost or doubled, and what is held out is really held out."""

from collections import Counter

import pytest

from paft.pools.splitting import split
from paft.prompts import PromptTemplate
from paft.prompts.families import layout, wordings
from paft.runtime.errors import InputError

CHOICES = frozenset({"A", "B"})


def pool(n_wordings=8, n_layouts=6, sources=10, each=4) -> list[PromptTemplate]:
    return [
        PromptTemplate(f"w{w} l{k} {i} {{question}}:", f"{w}-{k}-{i}", f"model-{(w + k + i) % sources}", f"w{w}", f"l{k}")
        for w in range(n_wordings)
        for k in range(n_layouts)
        for i in range(each)
        if (w + k) % 3 != 1  # families are never spread evenly
    ]


@pytest.mark.parametrize("way", ["random", "generator", "family"])
def test_a_split_loses_and_doubles_nothing_and_is_a_function_of_the_seed(way):
    templates = pool()
    found = split(templates, way, seed=0)
    assert Counter(t.id for part in found.values() for t in part) == Counter(t.id for t in templates)
    assert found == split(templates, way, seed=0)
    assert way == "generator" or found != split(templates, way, seed=1)  # there one choice may simply be the best
    assert len(found["train"]) > len(found["validation"]) and len(found["train"]) > len(found["test"]) > 0


def test_random_is_eight_to_one():
    found = split(pool()[:90], "random", seed=3)
    assert [len(found[name]) for name in ("train", "validation", "test", "dropped")] == [70, 10, 10, 0]


def test_no_generator_is_on_two_sides():
    found = split(pool(), "generator", seed=0)
    sources = [{t.source for t in found[name]} for name in ("train", "validation", "test")]
    assert not sources[0] & sources[1] and not sources[0] & sources[2] and not sources[1] & sources[2]
    assert not found["dropped"]


@pytest.mark.parametrize("seed", range(5))
def test_no_family_is_on_two_sides(seed):
    templates = pool()
    found = split(templates, "family", seed)
    for family in ("wording", "layout"):
        sides = [{getattr(t, family) for t in found[name]} for name in ("train", "validation", "test")]
        assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert len(found["train"]) >= len(templates) / 4


@pytest.mark.parametrize(
    ("way", "templates", "says"),
    [
        ("generator", pool(sources=1), "nothing is left for validation of 128 prompts by 1 generators (three are needed)"),
        ("generator", pool(sources=2), "by 2 generators"),
        ("family", pool(n_wordings=1), "in 1 wording and "),
        ("random", pool()[:1], "nothing is left for "),
    ],
)
def test_what_cannot_be_split_is_said(way, templates, says):
    with pytest.raises(InputError) as error:
        split(templates, way, 0)
    assert says in str(error.value) and str(error.value).startswith(f"--split {way}: ")


# Families read off the text.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Question: {question}\nA. {A}\nB. {B}\nAnswer:", "question options | A. | lines"),
        ("Pick the best of the two: {question}\nA. {A}\nB. {B}\nAnswer:", "instruct question options | A. | lines"),
        ("(A) {A}\n(B) {B}\n{question}\nAnswer:", "options question | (A) | lines"),
        ("{question} Option A: {A}, Option B: {B} Answer:", "question options | Option A: | inline"),
        ("{question}\n- {A}\n- {B}\n=>", "question options | - | lines"),
        ("{question}\n1) {A}\n2) {B}\nNumber:", "question options | 1) | lines"),
        ("{question} Is it {A} or {B}? It is", "question options | words | inline"),
    ],
)
def test_a_layout_is_read_off_the_text(text, name):
    assert layout(PromptTemplate(text, "x"), CHOICES) == name


def test_like_wordings_are_one_family():
    texts = [
        "Please choose the right answer to the question: {question} {A} {B} Answer:",
        "Please choose the right answer to this question! {question} {A} {B} Answer:",
        "Choose the right answer to the question, please. {question} {A} {B} My answer:",
        "On a rainy evening an old sailor asks you {question} and whether {A} or {B}; you tell him",
        "On a stormy evening an old sailor asked you {question} and whether {A} or {B}; you told him",
    ]
    names = wordings([PromptTemplate(text, str(i)) for i, text in enumerate(texts)])
    assert names == ["wording-01"] * 3 + ["wording-02"] * 2
    assert wordings([PromptTemplate("{question}", "x")]) == ["wording-01"] and wordings([]) == []
