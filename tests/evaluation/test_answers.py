"""What a generated text answers."""

import pytest

from paft.data.tasks.base import Example
from paft.evaluation.answers import first_option, first_text, last_number
from paft.evaluation.generation import take_several_lines
from paft.evaluation.metrics import Metric


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B", "B"),
        ("C.", "C"),
        ("(D)", "D"),
        ("B: the second", "B"),
        ("The answer is C", "C"),
        ("The answer is: (B)", "B"),
        ("the correct answer is **D**", "D"),
        ("The answer is option B.", "B"),
        ("The correct answer is \\boxed{C}", "C"),
        ("The correct option is: \\boxed{A}", "A"),
        ("The answer to the question is (D).", "D"),
        ("The answer is (B), since A is wrong.", "B"),
        ("I would take B, not C.", "C"),  # a letter that ends the text comes first, there and so here
        ("I would take B, and nothing else.", "B"),
        ("B\nBecause A is wrong.", "B"),
        ("1. C", "C"),
        ("optionB", "B"),
        ("A dog is what it is: B", "B"),
        ("Answer: B", "B"),
        ("ANSWER : C or so", "C"),
        ("Correct choice: D", "D"),
        ("A dog is what it is.", "A"),  # an article is a letter too, there and so here
        ("Both B and C are possible.", "B"),
        ("BECAUSE", "B"),  # any letter, if nothing better is there
        ("E", ""),
        ("the answer is unclear", ""),
        ("", ""),
        ("a", ""),
    ],
)
def test_first_option(text, letter):
    assert first_option(text, 4) == "ABCD".find(letter or "?")


def test_only_letters_of_options_count():
    assert first_option("C or B", 2) == 1 and first_option("D", 2) == -1


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("the hall", 1),
        ("The  HALL.", 1),
        ("the hall closet", 0),
        ("It is in the hall, not in the hall closet", 1),
        ("the hallway", -1),
        ("", -1),
        ("the attic", 2),
    ],
)
def test_first_text(text, choice):
    assert first_text(text, ["the hall closet", "the hall", "the attic"]) == choice


@pytest.mark.parametrize(
    ("text", "number"),
    [("#### 72", 72), ("it is $1,050.50.", 1050.5), ("from 3 to -4", -4), ("none", None), ("5 apples, 7.", 7), ("18.00", 18)],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_a_line_break_ends_a_text_unless_answers_hold_some():
    one, several = (Example("0", {}, (), -1, answer, "g", "all") for answer in ("42\n", "6 * 7 = 42\n#### 42"))
    exact = Metric("exact")
    assert not take_several_lines([one], exact) and take_several_lines([one, several], exact)
    unlabelled = Example("0", {}, (), -1, "", "g", "all")
    assert take_several_lines([unlabelled], Metric("last_number"))  # as for rows whose answers are known
    assert take_several_lines([one], Metric("regex", "is (.*)")) and not take_several_lines([one], Metric("f1"))
