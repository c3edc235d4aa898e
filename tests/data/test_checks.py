"""Data files that would make a measure meaningless: what is refused, what is left out, and what is only said."""

import json
from pathlib import Path
from typing import Any

import pytest

from paft.data.checks import LeftOut, leave_out
from paft.data.inputs import EvaluationInputs, Inputs, load_evaluation_inputs, load_inputs
from paft.data.rows import load_examples
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation


def row(n: int, **changes: Any) -> dict[str, Any]:
    options = [f"{n}", f"{n + 1}", f"{n + 2}", f"{n + 3}"]
    return {"id": n, "q": f"Question {n}?", **dict(zip("ABCD", options, strict=True)), "label": n % 4} | changes


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def own(folder: Path, *overrides: str, texts: tuple[str, ...] = ("Which one? {q} {A} {B} {C} {D}",)) -> Inputs:
    (folder / "mine.jsonl").write_text(json.dumps({"text": "{q}\n{A}/{B}/{C}/{D}\nPick:"}) + "\n")
    (folder / "unseen.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    typed = ["dataset=jsonl", f"dataset.path={folder}", "dataset.choices=[A,B,C,D]", "dataset.gold=label"]
    typed += [f"prompts.train={folder / 'mine.jsonl'}", f"prompts.test={folder / 'unseen.jsonl'}"]
    return load_inputs(compose_config(*typed, *overrides))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, train=[row(n) for n in range(40)], test=[row(n) for n in range(100, 140)])


def refused(folder: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        own(folder, *overrides)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return str(error.value)


def test_rows_with_nothing_wrong_are_all_used_and_nothing_is_said(folder):
    inputs = own(folder)
    assert (inputs.left_out, inputs.warnings, len(inputs.examples.test)) == (LeftOut(0, 0), (), 40)
    assert (inputs.seen.copies, inputs.seen.near_copies) == (0, 0) and inputs.examples.files is None


# A right answer that is always the same.


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("label", [0, "A", 3])
def test_a_right_answer_that_is_always_the_same_choice_is_refused_from_20_rows_on(folder, split, label):
    write(folder, train=[row(n, label="ABCD"[n % 4] if label == "A" else n % 4) for n in range(40)])
    write(folder, test=[row(n, label="ABCD"[n % 4] if label == "A" else n % 4) for n in range(100, 140)])
    write(folder, **{split: [row(n, label=label) for n in range(200, 220)]})
    choice = "A" if label == "A" else "ABCD"[int(label)]
    sentence = f"{folder / split}.jsonl: the right answer ('label') is the choice '{choice}' in all 20 rows"
    assert refused(folder).startswith(sentence)
    assert refused(folder, "eval_examples=3", "train_examples=8").startswith(sentence)  # the file is judged, not the draw
    write(folder, **{split: [row(n, label=label) for n in range(200, 219)]})
    own(folder)  # 19 rows may be chance
    write(folder, **{split: [row(n, label=label) for n in range(200, 219)] + [row(219, label="B" if label == "A" else 1)]})
    own(folder)


def test_a_right_text_that_is_always_the_same_is_refused_wherever_it_stands(folder):
    options = [["all of these", "x", "y", "z"][-n % 4 :] + ["all of these", "x", "y", "z"][: -n % 4] for n in range(40)]
    rows = [row(n) | dict(zip("ABCD", options[n - 100], strict=True)) for n in range(100, 140)]
    write(folder, test=[r | {"label": "all of these"} for r in rows], train=[row(n, label=str(n + n % 4)) for n in range(40)])
    assert "test.jsonl: the right answer ('label') is the text 'all of these' in all 40 rows" in refused(folder)


def test_a_free_form_answer_that_is_always_the_same_is_refused(tmp_path):
    write(tmp_path, train=[row(n, label=f"{n}") for n in range(40)], test=[row(n, label="yes") for n in range(100, 120)])
    config = compose_config("dataset=jsonl", f"dataset.path={tmp_path}", "dataset.gold=label").dataset
    with pytest.raises(InputError, match=r"test\.jsonl: the right answer \('label'\) is the text 'yes' in all 20 rows"):
        load_examples(config, None, 10, 2)


def test_a_gold_field_that_is_a_choice_is_refused_whatever_the_number_of_rows(tmp_path):
    write(tmp_path, train=[row(0), row(1)], test=[row(2)])
    sentence = "dataset.gold=B: this is one of dataset.choices, so the same choice would be right in every row"
    assert refused(tmp_path, "dataset.gold=B").startswith(sentence)


# Counting from 1.


def test_counting_from_one_is_named_where_it_shows(folder):
    write(folder, train=[row(n, label=1 + n % 4) for n in range(3, 9)])
    assert refused(folder) == (
        f"{folder / 'train.jsonl'}, line 1: 'label' is 4, and 0 is in no row, so it counts from 1; count the 4 choices from 0, "
        "or write letters."
    )
    write(folder, train=[row(n, label=n % 5) for n in range(40)])  # 0 is there: one label is wrong, not all
    assert "train.jsonl, line 5: 'label' is 4; it must be the index from 0" in refused(folder)


@pytest.mark.parametrize(("rows", "said"), [(24, False), (25, True), (40, True)])
def test_a_first_choice_that_is_never_right_is_only_said(folder, rows, said):
    """0.75 ** 24 is above, 0.75 ** 25 below one in a thousand."""
    write(folder, train=[row(n, label=1 + n % 3) for n in range(rows)])
    line = f"{folder / 'train.jsonl'}: the first choice, 'A', is right in none of {rows} rows; does 'label' count from 1?"
    assert own(folder).warnings == ((line,) if said else ())


def test_texts_of_which_one_is_never_right_are_not_remarked_on(folder):
    fixed = dict(zip("ABCD", ["red", "green", "blue", "grey"], strict=True))
    write(folder, train=[row(n, **fixed, label="green" if n % 2 else "blue") for n in range(40)])
    write(folder, test=[row(n, **fixed, label="green" if n % 2 else "blue") for n in range(100, 140)])
    assert own(folder).warnings == ()


def test_numbers_that_could_be_indices_are_read_as_texts_and_this_is_said(folder):
    fixed = dict(zip("ABCD", ["1", "2", "3", "0"], strict=True))
    write(folder, train=[row(n, **fixed, label=n % 4) for n in range(40)])
    write(folder, test=[row(n, **fixed, label=n % 4) for n in range(100, 140)])
    inputs = own(folder)
    assert {e.fields["q"]: e.answer for e in inputs.examples.test} == {f"Question {n}?": str(n % 4) for n in range(100, 140)}
    line = f"{folder / 'train.jsonl'}: 'label' is read as the text of a choice, though in every row it could be an index"
    assert len(inputs.warnings) == 1 and inputs.warnings[0].startswith(line)


# Rows that are left out of the score.


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """200 test rows, of which one has equal choices and one is a training row under another id."""
    tested = [row(n) for n in range(1000, 1198)]
    tested.insert(7, row(2000, A="same", B="other", C=" same ", D="last", label=2))
    tested.insert(50, row(3) | {"id": 9999})
    return write(tmp_path, train=[row(n) for n in range(40)], test=tested)


def test_equal_choices_and_training_rows_are_left_out_after_the_draw(large):
    config = compose_config("dataset=jsonl", f"dataset.path={large}", "dataset.choices=[A,B,C,D]", "dataset.gold=label")
    for most, overrides in ((200, ["eval_examples=null"]), (150, ["eval_examples=150"]), (20, ["eval_examples=20"])):
        drawn = load_examples(config.dataset, None, None, most).test
        inputs = own(large, *overrides)
        without = [e for e in drawn if e.fields["q"] not in ("Question 2000?", "Question 3?")]
        assert list(inputs.examples.test) == without
        counts = [sum(e.fields["q"] == f"Question {n}?" for e in drawn) for n in (2000, 3)]
        assert inputs.left_out == LeftOut(*counts) and len(drawn) == len(without) + sum(counts)
    assert own(large, "eval_examples=null").left_out == LeftOut(1, 1)


def test_a_row_is_another_where_the_prompts_show_what_differs(large):
    shown = own(large, "eval_examples=null", texts=("{id}: which one? {q} {A} {B} {C} {D}",))
    assert shown.left_out == LeftOut(1, 0)
    write(large, train=[row(n, label=(n + 1) % 4) for n in range(40)])  # another right answer
    assert own(large, "eval_examples=null").left_out == LeftOut(1, 0)


def test_more_than_one_row_in_a_hundred_is_refused(large):
    tested = [json.loads(line) for line in (large / "test.jsonl").read_text().splitlines()]
    write(large, test=[*tested[:20], row(5), row(6), *tested[20:]])
    assert refused(large, "eval_examples=2").startswith(
        f"{large / 'test.jsonl'}, line 21: the row was trained or validated on, in what the prompts show and in its answer "
        "(and so are 2 more of 202 rows)"
    )
    write(large, test=[*tested[:20], *(row(n, A="a", B="a", label=n % 2) for n in (3000, 3001)), *tested[20:]])
    assert refused(large, "eval_examples=2").startswith(
        f"{large / 'test.jsonl'}, line 8: another choice equals the right one, so that no answer is right or wrong (and so "
        "are 2 more of 202 rows)"
    )


def test_equal_choices_that_are_wrong_do_no_harm(large):
    tested = [json.loads(line) for line in (large / "test.jsonl").read_text().splitlines()]
    write(large, test=[*tested, *(row(n, A="a", B="a", label=3) for n in range(3000, 3020))])
    assert own(large, "eval_examples=null").left_out == LeftOut(1, 1)


def test_a_row_is_the_same_with_its_choices_in_another_order(large):
    turned = [row(n, A=f"{n + 3}", D=f"{n}", label={0: 3, 3: 0}.get(n % 4, n % 4)) for n in range(3)]
    write(large, test=[*turned, *(row(n) for n in range(1000, 1297))])
    assert own(large, "eval_examples=null").left_out == LeftOut(0, 3)


def test_test_rows_that_choose_the_checkpoint_are_left_out_too(large):
    write(large, validation=[row(n) for n in range(2000, 2020)], test=[row(n) for n in (2000, *range(1000, 1299))])
    assert own(large, "eval_examples=null").left_out == LeftOut(0, 1)


def test_few_rows_are_left_out_but_never_all(tmp_path):
    write(tmp_path, train=[row(n) for n in range(30)], test=[row(3), row(100), row(101)])
    inputs = own(tmp_path)
    assert inputs.left_out == LeftOut(0, 1) and len(inputs.examples.test) == 2
    write(tmp_path, test=[row(3), row(4)])
    assert "none of the 2 test rows can be scored" in refused(tmp_path)


def test_training_rows_that_are_not_at_hand_are_not_counted():
    example = load_examples(compose_config("dataset=story_facts").dataset, None, 1, 1).test
    assert leave_out(example, example, None, {"story"}, own=False) == (example, LeftOut(0, None))


# The same in an evaluation.


def evaluated(folder: Path, *overrides: str) -> EvaluationInputs:
    (folder / "unseen.jsonl").write_text(json.dumps({"text": "Which one? {q} {A} {B} {C} {D}"}) + "\n")
    typed = ["model=smollm2_135m", "dataset=jsonl", f"dataset.path={folder}", "dataset.choices=[A,B,C,D]", "dataset.gold=label"]
    return load_evaluation_inputs(compose_evaluation(*typed, f"prompts.test={folder / 'unseen.jsonl'}", *overrides))


def test_an_evaluation_scores_the_rows_that_a_training_run_scores(large):
    inputs = evaluated(large, "eval_examples=150")
    assert inputs.examples == own(large, "eval_examples=150").examples.test and inputs.seen is None
    alone = evaluated(large, f"dataset.path={large / 'test.jsonl'}", "eval_examples=null")
    assert alone.left_out == LeftOut(1, 0) and len(alone.examples) == 199
    (large / "train.jsonl").write_text("no JSON\n")
    with pytest.raises(InputError, match=r"train\.jsonl, line 1"):
        own(large)


def test_an_evaluation_judges_the_whole_file(large):
    write(large, test=[row(n, label=2) for n in range(100, 130)])
    with pytest.raises(InputError, match=r"the right answer \('label'\) is the choice 'C' in all 30 rows"):
        evaluated(large, "eval_examples=2")


def test_copies_of_rows_are_counted(folder):
    rows = [row(n) for n in range(100, 140)]
    write(folder, test=[*rows, *rows[:2]])
    (said,) = own(folder).warnings
    assert said.startswith(f"{folder / 'test.jsonl'}: 2 of 42 rows repeat another one: intervals are too narrow")


def test_what_was_asked_for_and_is_not_there_is_said(folder):
    inputs = own(folder, "eval_examples=50", "eval_prompts=7", "validation.prompts=3")
    assert inputs.notes == ("test rows: 50 were asked for (eval_examples), 40 are there",)
    assert inputs.test.notes == ("7 were asked for, 1 are there",)
    assert inputs.validation.notes == ("3 were asked for, 1 are there",)
    assert own(folder, "eval_examples=40", "eval_prompts=1", "validation.prompts=1").notes == ()
