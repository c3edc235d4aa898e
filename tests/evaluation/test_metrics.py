"""Metrics of free-form answers: each by its definition, F1 against torchmetrics' copy of SQuAD's official script."""

import random

import pytest

from paft.data.splits import fingerprint
from paft.data.tasks.base import Example, Task
from paft.evaluation.answers import found_by, token_f1
from paft.evaluation.metrics import Metric
from paft.runtime.errors import InputError


def row(*answers: str) -> Example:
    return Example("0", {"q": "?"}, (), -1, answers[0], "0", "mine", others=answers[1:])


STADIUM = (
    "Santa Clara, California",
    "Levi's Stadium",
    "Levi's Stadium in the San Francisco Bay Area at Santa Clara, California.",
)


@pytest.mark.parametrize(
    ("text", "answers", "score"),
    [
        ("Denver Broncos", ("Denver Broncos",), 1),
        ("the denver Broncos!", ("Denver Broncos",), 1),
        ("Broncos", ("Denver Broncos",), 2 / 3),
        ("Carolina Panthers", ("Denver Broncos",), 0),
        ("", ("Denver Broncos",), 0),
        ("the", ("Denver Broncos",), 0),
        ("in Santa Clara, California", STADIUM, 6 / 7),
        ("Levi's Stadium in Santa Clara", STADIUM, 5 / 8),
        ("gold gold", ("gold",), 2 / 3),
        ("gold and gold", ("gold, gold",), 4 / 5),
        ("24-10", ("24 - 10",), 0),  # punctuation goes, no space comes in its place
        ("24-10", ("2410",), 1),
        ("theatre", ("the atre",), 0),
        ("Beyoncé", ("beyoncé",), 1),
    ],
)
def test_f1_of_tokens(text, answers, score):
    assert Metric("f1").score(text, row(*answers)) == pytest.approx(score)


def official(text: str, answers: tuple[str, ...]) -> float:
    from torchmetrics.functional.text import squad

    target = {"answers": {"answer_start": [0] * len(answers), "text": list(answers)}, "id": "0"}
    return float(squad([{"prediction_text": text, "id": "0"}], [target])["f1"]) / 100


def test_f1_is_that_of_the_official_script():
    words = ["the", "a", "An", "Broncos", "24-10", "gold,", "gold", "(golden)", "anniversary", "'s", "Ünal", "—", "\n", " "]
    draw = random.Random(0)
    for _ in range(300):
        text = " ".join(draw.choices(words, k=draw.randrange(6)))
        answers = tuple(" ".join(draw.choices(words, k=draw.randrange(1, 6))) for _ in range(draw.randrange(1, 4)))
        if not all(token_f1(answer, answer) for answer in answers):  # of articles alone, which count for nothing
            continue
        assert Metric("f1").score(text, row(*answers)) == pytest.approx(official(text, answers), abs=1e-6), (text, answers)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"answer is (\w+)", "So the answer is Paris.", "Paris"),
        (r"\d+", "7 and 8", "7"),  # no group: the whole match; the first of them
        (r"(?s).*answer: (\w+)", "answer: no\nanswer: yes", "yes"),
        (r"A: (\w+)|B: (\w+)", "B: no", "no"),  # the first group that took part
        (r"A: (\w+)", "B: no", None),
        (r"x(y)?", "x", None),
        (r"x*", "y", ""),
        (r"(?i)ANSWER (?P<mine>.+)", "answer  four ", " four "),
        ("\N{THAI CHARACTER KO KAI}", "\N{THAI CHARACTER KO KAI}", "\N{THAI CHARACTER KO KAI}"),
    ],
)
def test_what_a_pattern_finds(pattern, text, found):
    assert found_by(pattern, text) == found


def test_what_a_pattern_finds_is_compared_as_by_exact():
    metric = Metric("regex", r"answer is (.+?)[.!]")
    assert metric.score("I see.\nThe answer is new  york!", row("New York")) is True
    assert metric.score("The answer is York.", row("New York")) is False
    assert metric.score("The answer is York.", row("New York", "York")) is True
    assert metric.score("New York", row("New York")) is False and metric.read("New York") is None
    assert Metric("regex", "x*").score("y", row("x")) is False and Metric("regex", "x*").read("y") == ""


def test_right_and_wrong():
    number, exact = Metric("last_number"), Metric("exact")
    assert number.score("so 6 + 6 = 12.\n#### 12", row("#### 12")) is True and number.score("", row("#### 12")) is False
    assert number.score("none", row("none at all")) is False, "no number is no answer"
    assert exact.score(" New  york\n", row("New York")) is True and exact.score("York", row("New York")) is False
    assert exact.score("york", row("New York", "York")) is True


def test_texts_that_count_as_equal_read_alike():
    assert Metric("f1").read("The  Broncos!") == Metric("f1").read("broncos") == "broncos"
    assert Metric("exact").read("The  Broncos") == "the broncos" and Metric("last_number").read("1,200 of 3") == 3
    assert Metric("f1").read("the!") == "" and Metric("exact").read(" \n") == ""


def test_names_and_kinds():
    kinds = {name: (Metric(name).called, Metric(name).graded) for name in ("choice", "exact", "last_number", "regex", "f1")}
    assert set(map(kinds.get, ("choice", "exact", "last_number", "regex"))) == {("accuracy", False)}
    assert kinds["f1"] == ("F1", True)


def test_several_right_answers_are_a_list():
    task = Task("jsonl", (), (), ("q",), gold="a")
    several = task.example("f, line 1", {"q": "?", "a": ["Denver", 7, "Denver"]}, "0", "mine")
    assert several.answer == "Denver" and several.answers == ("Denver", "7")
    one = task.example("f, line 1", {"q": "?", "a": ["Denver"]}, "0", "mine")
    assert one == task.example("f, line 1", {"q": "?", "a": "Denver"}, "0", "mine")
    assert len({fingerprint([several]), fingerprint([one])}) == 2
    for empty in ([], ["Denver", " "], ""):
        with pytest.raises(InputError, match="f, line 1: 'a' is empty; a free-form row needs its answer"):
            task.example("f, line 1", {"q": "?", "a": empty}, "0", "mine")
    with pytest.raises(InputError, match="f, line 1: 'a' is a list; it must be a text"):
        task.example("f, line 1", {"q": "?", "a": [["Denver"]]}, "0", "mine")
