"""A template for rows with another number of options."""

import pytest

from paft.data.tasks import BUILT_IN
from paft.prompts import PromptTemplate, find_pool
from paft.prompts.options import unlike_options, with_options

LINES = "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:"


def of(text: str, n: int, letters: str = "") -> str:
    return with_options(PromptTemplate(text, "t", letters=letters), n).text


def test_options_are_left_out_and_added_in_the_same_style():
    assert of(LINES, 3) == "{question}\nA. {A}\nB. {B}\nC. {C}\nAnswer:"
    assert of(LINES, 5) == "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nE. {E}\nAnswer:"
    assert of(LINES, 4) == LINES


@pytest.mark.parametrize(
    ("text", "with_three"),
    [
        ("(A) {A} (B) {B} (C) {C} (D) {D}\n{question}", "(A) {A} (B) {B} (C) {C}\n{question}"),
        ("{question}\n- {A}\n- {B}\nAnswer:", "{question}\n- {A}\n- {B}\n- {C}\nAnswer:"),
        ("1) {A}\n2) {B} {question}", "1) {A}\n2) {B}\n3) {C} {question}"),
        ("Option A: {A}\nOption B: {B}\n{question}", "Option A: {A}\nOption B: {B}\nOption C: {C}\n{question}"),
        ("a) {A}; b) {B}. {question}", "a) {A}; b) {B}; c) {C}. {question}"),
        ("Is it {A}, {B}, {C} or {D}? {question}", "Is it {A}, {B} or {C}? {question}"),
        ("{A} or {B}? {question}", "{A}, {B} or {C}? {question}"),
        ("{{x}} {A} | {B} {{y}} {question}", "{{x}} {A} | {B} | {C} {{y}} {question}"),
        ('{{"a": "{A}", "b": "{B}"}} {question}', '{{"a": "{A}", "b": "{B}", "c": "{C}"}} {question}'),
        ("<A>{A}</A>\n<B>{B}</B>\n{question}", "<A>{A}</A>\n<B>{B}</B>\n<C>{C}</C>\n{question}"),
    ],
)
def test_any_style_of_options(text, with_three):
    assert of(text, 3) == with_three
    PromptTemplate(with_three, "t")


@pytest.mark.parametrize(
    ("said", "with_three", "with_two"),
    [
        ("Answer with A, B, C, or D.", "Answer with A, B, or C.", "Answer with A or B."),
        ("Pick one of A/B/C/D:", "Pick one of A/B/C:", "Pick one of A/B:"),
        ("One letter (A-D)?", "One letter (A-C)?", "One letter (A-B)?"),
        ("A to D", "A to C", "A to B"),
        ("[A] [B] [C] [D]", "[A] [B] [C]", "[A] [B]"),
        ("'A', 'B', 'C' oder 'D'", "'A', 'B' oder 'C'", "'A' oder 'B'"),
        ("WITH A, B, C OR D", "WITH A, B OR C", "WITH A OR B"),  # as a change of case writes them
        ("A, B, C Or D; A TO D", "A, B Or C; A TO C", "A Or B; A TO B"),
        ("A or B", "A or B", "A or B"),  # of four options: these are two of them
        ("DNA-D, ABBA", "DNA-D, ABBA", "DNA-D, ABBA"),
    ],
)
def test_letters_that_are_enumerated_follow(said, with_three, with_two):
    for place in (f"{said}\n{LINES}", LINES + said, f"{said} {LINES} {said}"):
        for n, wanted in ((3, with_three), (2, with_two)):
            assert of(place, n) == of(place.replace(said, "@"), n).replace("@", wanted)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A. {A}\n{question}\nB. {B}", "another field stands between"),
        ("B. {B}\nA. {A} {question}", "does not mark its options one after the other"),
        ("<A>{A}</A><B>{B} {question}", "does not mark its options alike"),
        ("{A} is A, {B} is B or so. {question}", "does not mark its options one after the other"),
        ("{A} {question}", "shows {A} alone"),
        ("{A} {B} {D} {question}", "{A} {B} {D}, which are not the first letters"),
        ("{A} {B} {A} {question}", "not the first letters, each once"),
        ("A. {A}\nB) {B}\nC. {C} {question}", "does not write its options alike"),
        ("Is it A) {A} or B) {B}? {question}", "writes its two options as a phrase"),
        ("{A} {{or}} {B} {question}", "braces stand between"),
    ],
)
def test_what_cannot_be_changed_is_said(text, why):
    assert why in unlike_options(PromptTemplate(text, "t"))


def test_a_template_without_options_is_left_alone():
    assert unlike_options(PromptTemplate("{question} {Q}", "t")) == "" and of("{question} {Q}", 3) == "{question} {Q}"


def test_options_in_another_order_keep_it_and_their_letters_follow():
    """As option_order shows them: the marks stay in their order, `letters` are those of the choices."""
    moved = PromptTemplate("{q}\nA. {C}\nB. {A}\nC. {D}\nD. {B}\n:", "t", letters="BDAC")
    fewer, more = with_options(moved, 3), with_options(moved, 5)
    assert (fewer.text, fewer.letters) == ("{q}\nA. {C}\nB. {A}\nC. {B}\n:", "BCA")
    assert (more.text, more.letters) == ("{q}\nA. {C}\nB. {A}\nC. {D}\nD. {B}\nE. {E}\n:", "BDACE")


def test_most_shipped_prompts_can_be_changed_and_back():
    task = BUILT_IN["race"]
    templates = find_pool(None, task.pools, "train", task.form("letter", "shown")).templates
    able = [template for template in templates if not unlike_options(template)]
    assert len(able) > 0.7 * len(templates)
    for template in able:
        for n in (2, 3, 5, 6):
            changed = with_options(template, n)
            assert sorted(changed.fields & {*"ABCDEF"}) == [*"ABCDEF"[:n]] and not unlike_options(changed)
