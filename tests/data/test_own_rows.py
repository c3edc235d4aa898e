"""What one's own rows mean: labels, listed choices, chats, and what rows show about themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

from paft.data.inputs import Inputs, load_evaluation_inputs, load_inputs
from paft.data.render import render, right_answer
from paft.data.rows import Examples, load_examples
from paft.data.tasks.base import Example
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation


def written(folder: Path, rows: list[dict], split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def splits(folder: Path, rows: list[dict]) -> Path:
    """Write the same rows as train, validation and test."""
    for split in ("train", "validation", "test"):
        written(folder, rows, split)
    return folder


def apart(folder: Path, rows: list[dict], field: str) -> Path:
    """Write the same rows as test, and as train and validation with another text in one field."""
    splits(folder, [row | {field: f"{row[field]}, trained on"} for row in rows])
    return written(folder, rows, "test")


def load(folder: Path | str, *overrides: str) -> Examples:
    dataset = compose_config("dataset=jsonl", f"dataset.path={folder}", *overrides).dataset
    return load_examples(dataset, None, None, None)


def refused(folder: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        load(folder, *overrides)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "@")


def by_question(examples: tuple[Example, ...], field: str = "q") -> dict[str, Example]:
    return {example.fields[field]: example for example in examples}


def inputs_of(folder: Path, *overrides: str, train: str, test: str) -> Inputs:
    for name, text in (("mine", train), ("unseen", test)):
        (folder / f"{name}.yaml").write_text(json.dumps({"prompts": [{"text": text}]}))
    pools = [f"prompts.train={folder / 'mine.yaml'}", f"prompts.test={folder / 'unseen.yaml'}"]
    return load_inputs(compose_config("dataset=jsonl", f"dataset.path={folder}", "prompts.allow_seen=true", *pools, *overrides))


# Labels.

TICKETS = [{"ticket": f"Ticket {i}", "label": ["shipping", "refund", "other"][i % 3]} for i in range(30)]


def test_labels_are_the_choices_of_every_row(tmp_path):
    examples = load(splits(tmp_path, TICKETS), "dataset.gold=label", "dataset.labels=[shipping,refund,other]")
    assert examples.task.labels == ("shipping", "refund", "other") and examples.task.has_choices
    for example in examples.train:
        assert example.choices == example.names == ("shipping", "refund", "other")
        assert example.answer == TICKETS[int(example.fields["ticket"].split()[1])]["label"] == example.choices[example.gold]
        assert example.fields["labels"] == "shipping, refund, other" and example.fields["B"] == "refund"


def test_a_label_that_no_training_row_has_is_said(tmp_path):
    written(tmp_path, TICKETS)
    written(tmp_path, [*TICKETS, {"text": "Where is it?", "label": "Refnd"}], "test")
    (said,) = [note for note in load(tmp_path, "dataset.labels=from_gold").task.notes if "in no row of" in note]
    assert said.endswith(f"train.jsonl: Refnd ({tmp_path / 'test.jsonl'}, line {len(TICKETS) + 1}); are they misspelt?")


def test_labels_are_counted_in_the_rows_that_are_trained_on_and_tested(tmp_path):
    apart(tmp_path, [*TICKETS, {"ticket": "Ticket 30", "label": "other"}], "ticket")
    rows = ["dataset.gold=label", "dataset.labels=[shipping,refund,other]", "train_examples=6", "validation.examples=3"]
    asked = {"train": "{ticket} ->", "test": "Ticket: {ticket}\nLabel:"}
    notes = inputs_of(tmp_path, *rows, **asked).notes
    (trained,) = [note for note in notes if note.startswith("labels of 6 training rows: ")]
    assert sum(int(pair.split()[1]) for pair in trained.split(": ")[1].split(", ")) == 6
    assert "labels of 31 test rows: shipping 10, refund 10, other 11" in notes
    many = [{"ticket": f"Ticket {i}", "label": f"area {i % 13}"} for i in range(131)]
    notes = inputs_of(apart(tmp_path, many, "ticket"), "dataset.gold=label", "dataset.labels=from_gold", **asked).notes
    rarest = ", ".join(f"area {i} 10" for i in (1, 10, 11, 12, 2))
    assert any(note == f"labels of 131 test rows: the rarest are {rarest}" for note in notes), notes


def test_rows_of_validation_under_another_name_are_not_passed_over_in_silence(tmp_path):
    splits(tmp_path, TICKETS)
    (tmp_path / "validation.jsonl").rename(tmp_path / "dev.jsonl")
    remarks = load(tmp_path, "dataset.labels=from_gold").files.remarks
    assert f"{tmp_path / 'dev.jsonl'} is not read: rows that choose the checkpoint are in validation.jsonl." in remarks


def test_labels_are_taken_from_the_answers_of_all_splits(tmp_path):
    splits(tmp_path, TICKETS)
    written(tmp_path, [*TICKETS, {"ticket": "?", "label": "billing"}], "test")
    examples = load(tmp_path, "dataset.labels=from_gold")
    assert examples.task.labels == ("billing", "other", "refund", "shipping")
    assert any(
        "labels: billing, other, refund, shipping, of 1 to 30 rows each (from 'label')" in n for n in examples.task.notes
    )
    assert examples.task.inferred == {"gold": "label", "choices": [], "labels": ["billing", "other", "refund", "shipping"]}


@pytest.mark.parametrize(
    ("golds", "labels"),
    [([0, 1, 10, 2], ("0", "1", "2", "10")), ([True, False], ("false", "true")), (["b ", "a"], ("a", "b"))],
    ids=["numbers", "truth values", "white space"],
)
def test_labels_of_any_kind(tmp_path, golds, labels):
    rows = [{"q": str(i), "label": gold} for i, gold in enumerate(golds * 4)]
    examples = load(splits(tmp_path, rows), "dataset.labels=from_gold")
    assert examples.task.labels == labels
    named = load(tmp_path, f"dataset.labels=[{','.join(labels)}]")
    assert by_question(named.test).keys() == by_question(examples.test).keys()
    for question, example in by_question(examples.test).items():
        assert (
            example.answer == by_question(named.test)[question].answer == str(golds[int(question) % len(golds)]).lower().strip()
        )


def test_a_label_that_is_none_is_named_with_its_line_and_the_nearest(tmp_path):
    splits(tmp_path, TICKETS)
    written(tmp_path, [*TICKETS[:4], {"ticket": "?", "label": "Refnd"}], "test")
    said = refused(tmp_path, "dataset.labels=[shipping,refund,other]")
    assert said == (
        "@/test.jsonl, line 5: 'label' is 'Refnd', which is none of the 3 labels ('shipping', 'refund', 'other'); write "
        "'refund' if that is meant."
    )
    written(tmp_path, [*TICKETS[:4], {"ticket": "?", "label": "xyz"}], "test")
    assert refused(tmp_path, "dataset.labels=[shipping,refund,other]").endswith(
        "mend the row, or name the label in dataset.labels."
    )
    written(tmp_path, [*TICKETS[:4], {"ticket": "?"}], "test")
    assert "@/test.jsonl, line 5: the row lacks the field 'label'" in refused(tmp_path, "dataset.labels=from_gold")


def test_labels_that_are_none_are_refused(tmp_path):
    splits(tmp_path, TICKETS)
    for value, sentence in (
        ("refund", "dataset.labels=refund: should be a list of two labels or more, e.g. [yes,no], or from_gold."),
        ("[refund]", "should be a list of two labels or more"),
        ("[refund,refund]", "should name each label once"),
        ("[refund,'']", "should name each label once, and none that is empty"),
        (f"[{','.join(f'l{i}' for i in range(257))}]", "dataset.labels names 257 labels; at most 256 can be scored."),
    ):
        with pytest.raises(InputError) as error:
            load(tmp_path, f"dataset.labels={value}")
        assert sentence in str(error.value)
    assert refused(tmp_path, "dataset.labels=[a,b]", "dataset.choices=[A,B]").startswith("dataset.labels are the choices of ev")
    splits(tmp_path / "many", [{"q": str(i), "answer": str(i)} for i in range(300)])
    said = refused(tmp_path / "many", "dataset.labels=from_gold")
    assert said.startswith("dataset.labels=from_gold: 'answer' holds 300 different answers, and a set of labels has 2 to 256;")


def test_a_label_that_is_never_right_is_said(tmp_path):
    task = load(splits(tmp_path, TICKETS), "dataset.labels=[shipping,refund,other,billing]").task
    assert "labels that are right in no row: billing" in task.notes


def test_prompts_of_a_classification_need_not_show_the_labels_but_may(tmp_path):
    apart(tmp_path, TICKETS, "ticket")
    labels = "dataset.labels=[shipping,refund,other]"
    found = inputs_of(tmp_path, labels, train="Classify: {ticket}\nLabel:", test="One of {labels}. {ticket} ({A}?)")
    assert (found.train.answer, found.train.options) == ("text", "hidden")
    assert render(found.test.templates[0], by_question(found.examples.test, "ticket")["Ticket 1"]).startswith(
        "One of shipping, refund, other. Ticket 1 (shipping?)"
    )
    with pytest.raises(InputError, match=r"mine\.yaml, line 1: the template shows nothing of the row; it needs one of"):
        inputs_of(tmp_path, labels, train="One of {labels}:", test="{ticket}")
    shown = [labels, "dataset.options=shown"]
    assert inputs_of(tmp_path, *shown, train="{ticket} {labels}", test="{ticket}: {A}, {B}, {C}?").train.options == "shown"
    with pytest.raises(InputError, match=r"the template lacks \{A\}; it needs \{A\} \{B\} \{C\}"):
        inputs_of(tmp_path, *shown, train="Classify: {ticket}", test="{ticket} {labels}?")


def test_labels_with_letters(tmp_path):
    apart(tmp_path, TICKETS, "ticket")
    letters = ["dataset.labels=[shipping,refund,other]", "dataset.answer=letter"]
    texts = {"train": "{ticket}\nA. {A}\nB. {B}\nC. {C}\nLetter:", "test": "{A} (A), {B} (B), {C} (C): which for {ticket}?"}
    found = inputs_of(tmp_path, *letters, **texts)
    assert (found.train.answer, found.train.options) == ("letter", "shown")
    assert right_answer(found.train.templates[0], by_question(found.examples.test, "ticket")["Ticket 1"], "letter") == "B"
    with pytest.raises(InputError, match=r"the template lacks \{A\}"):
        inputs_of(tmp_path, *letters, train="{labels} {ticket}", test="{ticket}")
    apart(tmp_path, [row | {"A": "mine"} for row in TICKETS], "ticket")
    with pytest.raises(InputError, match=r"train\.jsonl, line 1: the row has a field 'A' of its own, which dataset\.answer="):
        inputs_of(tmp_path, *letters, **texts)
    own = inputs_of(tmp_path, letters[0], train="Classify: {ticket} {A}", test="{A} says: {ticket}")  # with texts it may
    assert render(own.train.templates[0], own.examples.test[0]).endswith(" mine")


def test_more_labels_than_letters(tmp_path):
    rows = [{"q": str(i), "label": f"class {i % 30}"} for i in range(300)]
    apart(tmp_path, rows, "q")
    assert len(load(tmp_path, "dataset.labels=from_gold").task.labels) == 30
    found = inputs_of(tmp_path, "dataset.labels=from_gold", train="{q}:", test="Which one? {q}")
    assert len(found.examples.test[0].choices) == 30
    with pytest.raises(InputError, match=r"dataset\.answer=letter: 30 choices are more than there are letters"):
        inputs_of(tmp_path, "dataset.labels=from_gold", "dataset.answer=letter", train="{q}:", test="Which one? {q}")


def test_the_base_of_a_classification_is_evaluated_on_one_file(tmp_path):
    splits(tmp_path, TICKETS)
    (tmp_path / "mine.yaml").write_text(json.dumps({"prompts": [{"text": "Classify: {ticket}"}]}))
    asked = ["model=smollm2_135m", "dataset=jsonl", f"dataset.path={tmp_path / 'test.jsonl'}", "dataset.labels=from_gold"]
    found = load_evaluation_inputs(compose_evaluation(*asked, f"prompts.test={tmp_path / 'mine.yaml'}"))
    assert found.task.labels == ("other", "refund", "shipping") and len(found.examples) == 30
    rows = written(tmp_path / "new", [{"ticket": "?"}], "rows") / "rows.jsonl"
    asked = [*asked[:2], f"dataset.path={rows}", f"prompts.test={tmp_path / 'mine.yaml'}", "output=out.jsonl"]
    with pytest.raises(InputError, match=r"dataset\.labels=from_gold needs rows with answers"):
        load_evaluation_inputs(compose_evaluation(*asked, "dataset.labels=from_gold"))
    named = load_evaluation_inputs(compose_evaluation(*asked, "dataset.labels=[a,b]"))
    assert named.examples[0].names == ("a", "b") and named.examples[0].gold == -1


# Listed choices.


def listed(choices: Any, answer: Any, q: str = "?") -> dict[str, Any]:
    return {"q": q, "choices": choices, "answerKey": answer}


FORMS = {
    "texts": (["x", "y", "z"], ("A", "B", "C")),
    "the hub's": ({"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, ("1", "2", "3")),
    "objects": ([{"label": "P", "text": "x"}, {"label": "Q", "text": "y"}, {"label": "R", "text": "z"}], ("P", "Q", "R")),
    "objects without labels": ([{"text": "x"}, {"text": "y"}, {"text": "z"}], ("A", "B", "C")),
}


@pytest.mark.parametrize(("choices", "names"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("form", ["label", "text", "index"])
def test_choices_in_one_field(tmp_path, choices, names, form):
    golds = {"label": names, "text": ("x", "y", "z"), "index": (0, 1, 2)}[form]
    golds = names if names == ("1", "2", "3") else golds  # 1 is a label, which no index may be taken for
    splits(tmp_path, [listed(choices, gold, str(i)) for i, gold in enumerate(golds)])
    for overrides in ((), ("dataset.choices=choices", "dataset.gold=answerKey"), ("dataset.choices=[choices]",)):
        examples = load(tmp_path, *overrides)
        for i, example in enumerate(sorted(examples.test, key=lambda e: e.fields["q"])):
            assert (example.choices, example.names, example.gold) == (("x", "y", "z"), names, i)
            assert {**example.fields} == {"q": str(i), "A": "x", "B": "y", "C": "z"}
    assert examples.task.inferred == {"gold": "answerKey", "choices": ["choices"]}


def test_numbers_that_are_labels_are_no_indices(tmp_path):
    """Of ARC: most rows have letters, some the labels 1 to 4."""
    lettered = {"text": ["1", "2", "3"], "label": ["A", "B", "C"]}
    numbered = {"text": ["1", "2", "3"], "label": ["1", "2", "3"]}
    rows = [listed(lettered, "ABC"[i % 3], str(i)) for i in range(9)] + [listed(numbered, "1", "n")]
    examples = by_question(load(splits(tmp_path, rows)).test)
    assert [examples[str(i)].gold for i in range(3)] == [0, 1, 2] and examples["n"].gold == 0


BAD_LISTS = {
    "a text": (
        "x",
        "dataset.choices=choices: @/train.jsonl, line 1 holds one text there; name several fields, '[A,B]', or one",
    ),
    "an object": (
        {"a": 1},
        "line 1: 'choices' lists no choices; it should be a list of texts, or {label: [...], text: [...]}.",
    ),
    "lists in it": ([["x"], ["y"]], "line 1: 'choices' lists no choices"),
    "one": (["x"], "line 1: 'choices' lists 1 choices; a row has 2 to 26."),
    "too many": ([str(i) for i in range(27)], "line 1: 'choices' lists 27 choices; a row has 2 to 26."),
    "fewer labels": ({"text": ["x", "y"], "label": ["A"]}, "line 1: 'choices' has not as many labels as texts."),
    "an empty one": (["x", " "], "line 1: the choice 'B' is empty; every choice needs a text."),
}


@pytest.mark.parametrize(("choices", "sentence"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_list_that_is_none_is_refused(tmp_path, choices, sentence):
    splits(tmp_path, [listed(choices, "A")])
    assert sentence in refused(tmp_path, "dataset.choices=choices", "dataset.gold=answerKey")


def test_a_field_that_its_choices_need_is_not_taken_over(tmp_path):
    splits(tmp_path, [listed(["x", "y"], "A") | {"B": "mine"}])
    assert "line 1: the row has a field 'B' of its own, which its listed choices need" in refused(tmp_path)


# A different number of choices.

RAGGED = [listed([f"{i}{c}" for c in "abcde"[: 3 + i % 3]], "ABCDE"[i % (3 + i % 3)], f"q{i}") for i in range(30)]
LETTERS = "{q}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer (A-D):"


def test_rows_that_differ_in_their_number_of_choices_are_shown_as_they_are(tmp_path):
    found = inputs_of(apart(tmp_path, RAGGED, "q"), train=LETTERS, test="{q} ({A}, {B} or {C})")
    note = "rows differ in their number of choices, and prompts show as many as there are: 30 rows have 3, 30 rows have 4, 30"
    assert any(n.startswith(note) for n in found.notes)
    for i in range(3):
        example = by_question(found.examples.test)[f"q{i}"]
        lines = render(found.train.templates[0], example).split("\n")
        assert lines == [f"q{i}", *(f"{c}. {i}{c.lower()}" for c in "ABCDE"[: 3 + i]), f"Answer (A-{'CDE'[i]}):"]
        last = example.choices[-1]
        assert render(found.test.templates[0], example) == f"q{i} ({', '.join(example.choices[:-1])} or {last})"


def test_the_same_by_fields_of_which_the_last_may_be_empty(tmp_path):
    rows = [{"q": row["q"], **dict(zip("ABCDE", row["choices"], strict=False)), "answer": row["answerKey"]} for row in RAGGED]
    by_list = load(splits(tmp_path / "lists", RAGGED))
    for absent in ({}, {"D": None, "E": ""}, {"D": "", "E": " "}):
        by_field = load(splits(tmp_path / "fields", [absent | row for row in rows]))
        assert by_field.task.choices_vary and by_field.task.choice_fields == tuple("ABCDE")
        for question, example in by_question(by_field.test).items():
            same = by_question(by_list.test)[question]
            assert (example.choices, example.names, example.gold) == (same.choices, same.names, same.gold)
    splits(tmp_path / "holes", [*rows, {"q": "x", "A": "1", "B": "2", "D": "4", "answer": "A"}])
    assert "line 31: the choice 'C' or one before it is empty, and 'D' is not; leave none out" in refused(tmp_path / "holes")
    splits(tmp_path / "empty", [{**row, "D": "", "E": ""} for row in rows if "D" not in row])
    empty = load(tmp_path / "empty")
    assert empty.task.choice_fields == tuple("ABC") and not empty.task.choices_vary and empty.test[0].names == tuple("ABC")
    splits(tmp_path / "none", [{name: row[name] for name in ("q", "A", "B", "C", "answer")} for row in rows])
    said = refused(tmp_path / "none", "dataset.choices=[A,B,C,D]", "dataset.gold=answer")
    assert said == "@/train.jsonl, line 1: the row lacks the field 'D'; it has q, A, B, C, answer."


def test_prompts_whose_options_cannot_be_changed_are_refused(tmp_path):
    apart(tmp_path, RAGGED, "q")
    with pytest.raises(InputError, match=r"mine\.yaml, line 1: rows have other numbers of choices than .* another field"):
        inputs_of(tmp_path, train="A. {A}\n{q}\nB. {B}", test="{q} {A} {B}")
    with pytest.raises(InputError, match=r"the template lacks \{B\}; it needs \{A\} \{B\}"):
        inputs_of(tmp_path, train="{q} {A}", test="{q} {A} {B}")
    with pytest.raises(InputError, match=r"\{f\} is no field of this task"):
        inputs_of(tmp_path, train="{q} {A} {B} {C} {D} {E} {f}", test="{q} {A} {B}")
    as_they_are = [listed(["x", "y"], "AB"[i % 2], f"q{i}") for i in range(8)]  # all rows have what the template shows
    found = inputs_of(apart(tmp_path / "two", as_they_are, "q"), train="A. {A}\n{q}\nB. {B}", test="{q} {A} {B} {C}")
    assert render(found.train.templates[0], found.examples.test[0]).startswith("A. x\nq")
    assert render(found.test.templates[0], found.examples.test[0]).endswith(" x y")
    hidden = ["dataset.answer=text", "dataset.options=hidden"]
    assert inputs_of(tmp_path, *hidden, train="{q}", test="Well, {q}").train.options == "hidden"


def test_layouts_of_rows_that_differ_are_mutated_and_letters_follow(tmp_path):
    import random

    from paft.data.updates import mutator_of

    mutated = ["sampler=mutated", "sampler.mutations=[option_order]"]
    found = inputs_of(apart(tmp_path, RAGGED, "q"), *mutated, train=LETTERS, test="{q} {A} {B}")
    config = compose_config("dataset=jsonl", f"dataset.path={tmp_path}", *mutated)
    mutator, moved = mutator_of(config, found.examples.task), 0
    for seed in range(40):
        template = mutator.mutated(found.train.templates[0], random.Random(seed))
        moved += template.letters != ""
        for example in found.examples.test:
            letter = right_answer(template, example, "letter")
            lines = render(template, example).split("\n")
            assert f"{letter}. {example.answer}" in lines
            assert [line[0] for line in lines[1:-1]] == [*"ABCDE"[: len(example.choices)]]
    assert moved > 5


# Chats and Alpaca's rows.


def turns(*texts: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in texts]


TALK = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "2 + 2?"), ("assistant", "4"))


@pytest.mark.parametrize("form", ["messages", "conversations"])
def test_the_turns_of_a_chat_are_fields(tmp_path, form):
    rows = [{form: TALK, "lang": "en"}, {form: turns(("user", "1 + 1?"), ("assistant", "2"))}]
    if form == "conversations":
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        rows = [row | {form: [{"from": names[t["role"]], "value": t["content"]} for t in row[form]]} for row in rows]
    for overrides in ((), (f"dataset.gold={form}",)):
        examples = load(splits(tmp_path, rows), "dataset.metric=exact", *overrides)
        found = by_question(examples.test, "input")
        assert (found["2 + 2?"].answer, found["1 + 1?"].answer) == ("4", "2")
        history = {"history": "User: Hi\nAssistant: Hello", "system": "Be brief.", "lang": "en"}
        assert {**found["2 + 2?"].fields} == {"input": "2 + 2?", **history}
        assert {**found["1 + 1?"].fields} == {"input": "1 + 1?", "history": "", "system": ""}
    assert any(note.startswith(f"rows are chats ({form}): {{input}} is ") for note in load(tmp_path).task.notes)


BAD_CHATS = {
    "no answer": (turns(("user", "Hi")), "line 2: 'messages' ends without an answer; a free-form row needs its answer."),
    "a tool": (
        turns(("user", "Hi"), ("tool", "{}"), ("assistant", "4")),
        "line 2: turn 2 of 'messages' is of 'tool'; the turns of",
    ),
    "no user": (turns(("system", "Hi"), ("assistant", "4")), "line 2: 'messages' holds no turn of the user before the answer."),
    "a late system": (
        turns(("user", "Hi"), ("system", "!"), ("user", "?"), ("assistant", "4")),
        "line 2: a turn of the system",
    ),
    "no text": ([{"role": "user", "content": 3}], "line 2: turn 1 of 'messages' holds no text."),
    "no turns": ([{"role": "user"}], "line 2: 'messages' holds no turns; each is an object with 'role' and 'content'."),
}


@pytest.mark.parametrize(("messages", "sentence"), BAD_CHATS.values(), ids=BAD_CHATS)
def test_a_chat_that_cannot_be_read_is_named(tmp_path, messages, sentence):
    splits(tmp_path, [{"messages": TALK}, {"messages": messages}])
    assert sentence in refused(tmp_path, "dataset.gold=messages", "dataset.metric=exact")


def test_a_chat_in_parts_and_a_system_beside_it(tmp_path):
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    rows = [{"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "4"}], "system": "Be brief."}]
    example = load(splits(tmp_path, rows), "dataset.metric=exact").test[0]
    assert {**example.fields} == {"input": "2 + 2?", "history": "", "system": "Be brief."}
    splits(tmp_path, [{"messages": TALK, "input": "mine"}])
    assert "the row has a field 'input' of its own, which the turns of its chat need" in refused(tmp_path)


def test_a_turn_of_the_system_that_the_model_does_not_see_is_said(tmp_path):
    for split in ("train", "validation", "test"):
        talks = [turns(*([("system", "Be brief.")] * (i < 5)), ("user", f"{split} {i}"), ("assistant", "4")) for i in range(8)]
        written(tmp_path, [{"messages": talk} for talk in talks], split)

    def said(*overrides: str, train: str = "{input} Answer:") -> list[str]:
        asked = ("dataset.metric=exact", "train_examples=null", *overrides)
        inputs = inputs_of(tmp_path, *asked, train=train, test="{system} {input} =>")
        return [note for note in inputs.notes if note.startswith("chats: ")]

    (note,) = said()
    assert note.startswith("chats: 5 of 8 training rows begin with a system's turn, which no prompt shows; ")
    assert said(train="{system} {input} Answer:") == []
    assert said("model.chat_template=true", "model.system_prompt=Short") == []


def test_rows_that_are_no_chats_have_no_turn_of_the_system(tmp_path):
    rows = [{"input": f"{i}?", "history": "", "system": "linux", "answer": "4"} for i in range(8)]
    inputs = inputs_of(apart(tmp_path, rows, "input"), "dataset.metric=exact", train="{input} A:", test="{input} =>")
    assert not [note for note in inputs.notes if note.startswith("chats: ")]


def test_a_chat_may_be_a_classification(tmp_path):
    rows = [{"messages": turns(("user", f"Ticket {i}"), ("assistant", ["yes", "no"][i % 2]))} for i in range(8)]
    examples = load(splits(tmp_path, rows), "dataset.labels=from_gold")
    assert {e.answer for e in examples.train} == {"yes", "no"} and examples.task.labels == ("no", "yes")


def test_rows_of_alpaca(tmp_path):
    rows = [{"instruction": f"Add {i}.", "input": "" if i % 2 else f"{i}", "output": f"{2 * i}"} for i in range(4)]
    examples = load(splits(tmp_path, rows), "dataset.metric=exact")
    assert examples.task.notes == ("rows in the form of Alpaca: the right answer is in 'output' (dataset.gold)",)
    assert {**by_question(examples.test, "instruction")["Add 2."].fields} == {"instruction": "Add 2.", "input": "2"}
    splits(tmp_path, [row | {"label": "x"} for row in rows])
    assert refused(tmp_path) == (
        "@/train.jsonl: dataset.gold has no value, and the answer may be in 'label' or 'output'; name one."
    )
    splits(tmp_path, [{"messages": TALK, "answer": "4"}])
    assert "the answer may be in 'messages' or 'answer'" in refused(tmp_path)


# What rows show.


@pytest.mark.parametrize(
    ("row", "inferred"),
    [
        ({"q": "?", "A": "x", "B": "y", "answer": "A"}, {"gold": "answer", "choices": ["A", "B"]}),
        ({"q": "?", "A": "x", "B": "y", "D": "z", "label": "A"}, {"gold": "label", "choices": ["A", "B"]}),
        ({"q": "?", "options": ["x", "y"], "gold": 1}, {"gold": "gold", "choices": ["options"]}),
        ({"q": "?", "answer": "x", "label": "y"}, {"gold": "answer", "choices": []}),
        ({"q": "?", "answer": None, "target": "y"}, {"gold": "target", "choices": []}),
        ({"q": "?", "answer": " ", "response": "y"}, {"gold": "response", "choices": []}),
    ],
)
def test_usual_names_need_no_settings(tmp_path, row, inferred):
    task = load(splits(tmp_path, [row])).task
    assert task.inferred == inferred
    assert any(f"the right answer is in {inferred['gold']!r} (dataset.gold)" in note for note in task.notes)
    assert not inferred["choices"] or any("(dataset.choices)" in note for note in task.notes)


def test_what_cannot_be_told_is_asked(tmp_path):
    splits(tmp_path, [{"q": "?", "a": "x"}])
    assert refused(tmp_path).startswith("@/train.jsonl: dataset.gold has no value, and none of answer, label, answerKey, gold,")
    splits(tmp_path, [{"q": "?", "answer": "A"}, {"q": "?", "label": "B"}])  # in every row
    assert "which has q, answer; name the field" in refused(tmp_path)
    splits(tmp_path, [{"q": "?", "A": "x", "B": "y", "choices": ["x", "y"], "answer": "A"}])
    assert refused(tmp_path).endswith("the options may be 'choices' or 'A,B'; name them.")


def test_nothing_is_looked_for_where_the_settings_say_it(tmp_path):
    splits(tmp_path, [{"q": "?", "A": "x", "B": "y", "answer": "A", "note": ["a list"]}])
    named = load(tmp_path, "dataset.gold=answer", "dataset.metric=exact")
    assert named.task.inferred["choices"] == [] and named.task.notes == ()
    free = load(tmp_path, "dataset.metric=exact")  # a free-form metric: the fields A and B are no options
    assert free.task.inferred == {"gold": "answer", "choices": []}


def test_a_field_that_holds_a_list_hurts_only_where_it_is_shown(tmp_path):
    apart(tmp_path, [{"q": str(i), "A": "x", "B": "y", "answer": "AB"[i % 2], "tags": ["a"]} for i in range(4)], "q")
    found = inputs_of(tmp_path, train="{q} {A} {B}", test="{q}? {A} or {B}")
    assert "tags" not in found.examples.test[0].fields
    with pytest.raises(InputError, match=r"line \d: the field 'tags' is a list or an object, and the train prompts can"):
        inputs_of(tmp_path, train="{q} {A} {B} {tags}", test="{q}? {A} or {B}")


def test_old_runs_on_own_rows_keep_their_names(tmp_path):
    """The settings that came later are part of a run's name only where they do something."""
    typed = ["dataset=jsonl", f"dataset.path={tmp_path}", "dataset.gold=answer", "dataset.choices=[A,B]"]
    identity = compose_config(*typed).identity()["dataset"]
    assert set(identity) == {
        "name", "answer", "options", "parts", "test_split", "hub", "path", "choices", "gold", "metric", "threshold",
    }  # fmt: skip
    assert (identity["answer"], identity["options"]) == ("letter", "shown")
    names = {compose_config(*typed, *more).run_name for more in ((), ("dataset.shots=2",), ("dataset.shots=0",))}
    assert len(names) == 2
