"""Reading a template as its parts."""

import pytest

from paft.prompts import PromptTemplate
from paft.prompts.parts import Parts, read_parts

CHOICES = ("A", "B", "C", "D")


def parts_of(text: str) -> Parts | None:
    return read_parts(PromptTemplate(text, "t"), CHOICES)


def kinds(text: str) -> list[str]:
    found = parts_of(text)
    assert found is not None and found.text == text
    return [part.kind for part in found.parts]


def test_a_usual_prompt_is_instruction_fields_options_and_cue():
    text = "Read this.\nThen answer.\n\nStory: {story}\nQuestion: {question}\nOptions:\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:"
    assert kinds(text) == ["text", "field", "field", "options"]
    found = parts_of(text)
    assert [part.label for part in found.parts] == ["", "Story", "Question", "Options"]
    assert found.parts[0].text == "Read this.\nThen answer." and found.cue == "Answer:"
    assert found.parts[3].marks == CHOICES and found.separators == ("\n\n", "\n", "\n", "\n")


@pytest.mark.parametrize(
    ("lead", "label"),
    [
        ("Story: ", "Story"), ("[Story] ", "Story"), ("**The story:** ", "The story"), ("### Story\n", "Story"),
        ("Story\n", "Story"), ("Story:\n", "Story"), ("<Story> ", "Story"), ("STORY - ", "STORY"), ("Story = ", "Story"),
        ("Here is what I read this morning: ", ""), ("", ""), ("You know ", ""),
    ],
)  # fmt: skip
def test_labels_are_read_with_what_marks_them(lead, label):
    found = parts_of(f"Read.\n\n{lead}{{story}}\nAnswer:")
    assert found is not None and found.parts[1].label == label
    if label:
        assert (found.parts[1].lead, found.parts[1].body) == (lead, "{story}")


@pytest.mark.parametrize("enclosed", ["<story> {story} </story>", "[Story: {story}]", "**Story: {story}**", "({story} was it)"])
def test_a_label_that_encloses_its_field_is_left_as_it_is(enclosed):
    found = parts_of(f"Read.\n\n{enclosed}\nAnswer:")
    assert found is not None and found.parts[1].label == ""


@pytest.mark.parametrize(
    ("options", "marks"),
    [
        ("A. {A}\nB. {B}\nC. {C}\nD. {D}", CHOICES),
        ("(A) {A} (B) {B} (C) {C} (D) {D}", CHOICES),
        ("Options: [A] {A}; [B] {B}; [C] {C}; [D] {D}", CHOICES),
        ("Option A: {A}\nOption B: {B}\nOption C: {C}\nOption D: {D}", CHOICES),
        ("A - {A}\n\nB - {B}\n\nC - {C}\n\nD - {D}", CHOICES),
        ("- {A}\n- {B}\n- {C}\n- {D}", ("",) * 4),
        ("One of these: {A} / {B} / {C} / {D}", ("",) * 4),
        ("A. {A}\nB) {B}\nC. {C}\nD. {D}", CHOICES),
        ("{A}, {B}, {C} or {D}", ()),
        ("First {A}, then {B}, {C}, {D}", ()),
        ("1) {A}\n2) {B}\n3) {C}\n4) {D}", ()),
    ],
)
def test_options_have_marks_where_all_are_written_alike(options, marks):
    found = parts_of(f"{{story}}\n{options}\nAnswer:")
    assert found is not None and found.parts[1].kind == "options" and found.parts[1].marks == marks


def test_a_label_and_a_sentence_that_leads_over_stay_with_what_follows():
    assert kinds("{story}\n\nNow say, going by the lines above:\n\n{question}\n\n{A}\n{B}\n\nI think") == [
        "field",
        "field",
        "options",
    ]
    headed = "## The story of today\n\n{story}\n\n[What they want to know]\n\n{question}\n\nAnswer:"
    assert kinds(headed) == ["field", "field"]
    assert kinds("Text\n{story}\n\nChoose one:\n\n- {A}\n- {B}\nAnswer:") == ["field", "options"]


@pytest.mark.parametrize(
    "text",
    [
        "A friend told me that {story} and asks {question}\n{A}\n{B}\nAnswer:",  # fields inside a sentence
        "{story}\n{A}\nThe question is: {question}\n{B}\nAnswer:",  # options in two blocks
        "{story}\n{question} {A} {B}\nAnswer:",
        '{{"story": "{story}",\n"question": "{question}"}}\nAnswer:',
        "<story>\n{story}\n</story>\n{question}\nAnswer:",
        "{story}\n{story}\nAnswer:",  # shown twice
        "{story}\n{question}",  # no cue
        "Read.\nAnswer:",
        "{story} Answer:",
        "{story}\nAnswer:\n---",
        "---\n{story}\nAnswer:",
        'Story:\n"""\n{story}\n"""\n\nQuestion: {question}\nAnswer:',  # a fence has two ends
        "--- BEGIN STORY ---\n{story}\n--- END STORY ---\n{question}\nAnswer:",
        "[STORY]\n{story}\n[/STORY]\n{question}\nAnswer:",
        "Story:\n---\n{story}\n---\n{question}\nAnswer:",  # a rule that belongs to the label
    ],
)
def test_what_has_no_parts(text):
    assert parts_of(text) is None
