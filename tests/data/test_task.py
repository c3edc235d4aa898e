"""Rows of each data set, in the hub's field names, become examples."""

import json
import re

import pytest

from paft.data.rows import load_examples
from paft.data.tasks import BUILT_IN
from paft.data.tasks.base import Example, Task, gold_index
from paft.data.tasks.xstorycloze import IN_OTHER_LANGUAGES
from paft.runtime.errors import InputError
from tests.conftest import compose_config

# Invented rows with all the columns that the hub's have.
HUB_ROWS = {
    "story_facts": {
        "story": "Tom put the ball in the attic. Ida hid the cup in the hall.",
        "question": "Where is the cup?",
        "A": "the barn",
        "B": "the hall",
        "C": "the attic",
        "D": "the shed",
        "answer": "B",
    },
    "hellaswag": {
        "ind": 7,
        "activity_label": "Crafts",
        "ctx_a": "How to fold a paper boat [title] Begin.",
        "ctx_b": "",
        "ctx": "How to fold a paper boat [title] Begin. [step] Lay the sheet  flat. Then you",
        "endings": ["fold it in half.", "[substeps] sail away.", "eat it.", "wash it [title] Dry it."],
        "source_id": "invented~1",
        "split": "train",
        "split_type": "indomain",
        "label": "2",
    },
    "piqa": {"goal": "Keep tea warm.", "sol1": "Put it in a fridge.", "sol2": "Put it in a flask.", "label": 1},
    "winogrande": {
        "sentence": "The cup did not fit into the box because the _ was too small.",
        "option1": "cup",
        "option2": "box",
        "answer": "2",
    },
    "race": {
        "example_id": "high17.txt",
        "article": "Nora likes rain.\nShe walks a lot.",
        "question": "What does Nora like? _",
        "options": ["Snow.", "Rain.", "Wind.", "Sun."],
        "answer": "B",
    },
    "gsm8k": {
        "question": "Ben has 3 pens and buys 4. How many has he?",
        "answer": "3 + 4 = <<3+4=7>>7\n#### 7",
    },
    "xstorycloze": {
        "story_id": "invented-1",
        "input_sentence_1": "Mona wanted to bake a cake.",
        "input_sentence_2": "She had no eggs left.",
        "input_sentence_3": "She rang at her neighbour's door.",
        "input_sentence_4": "He gave her four of them.",
        "sentence_quiz1": "Mona sold her oven.",
        "sentence_quiz2": "Mona brought him a slice of it in the evening.",
        "answer_right_ending": 2,
    },
}
HUB_ROWS["race_middle"] = HUB_ROWS["race_high"] = HUB_ROWS["race"]
HUB_ROWS |= {task.name: HUB_ROWS["xstorycloze"] for task in IN_OTHER_LANGUAGES}


def read(name: str, **changes: object) -> Example:
    row = {key: value for key, value in (HUB_ROWS[name] | changes).items() if value is not ...}
    return BUILT_IN[name].example("mine.jsonl, line 3", row, "row-3", "part")


def refused(name: str, **changes: object) -> str:
    with pytest.raises(InputError) as error:
        read(name, **changes)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return str(error.value)


def test_every_task_reads_its_row():
    assert set(HUB_ROWS) == set(BUILT_IN)
    for name, task in BUILT_IN.items():
        example = read(name)
        assert set(example.fields) == {*task.fields, *task.choice_fields, *task.optional_fields}
        assert example.choices == tuple(example.fields[field] for field in task.choice_fields)
        assert all(isinstance(value, str) for value in example.fields.values())
        assert (example.id, example.part) == ("row-3", "part")


@pytest.mark.parametrize(
    ("name", "gold", "answer"),
    [
        ("story_facts", 1, "the hall"),
        ("hellaswag", 2, "eat it."),
        ("piqa", 1, "Put it in a flask."),
        ("winogrande", 1, "box"),
        ("race", 1, "Rain."),
        ("race_middle", 1, "Rain."),
        ("race_high", 1, "Rain."),
        ("gsm8k", -1, "3 + 4 = <<3+4=7>>7\n#### 7"),
        ("xstorycloze", 1, "Mona brought him a slice of it in the evening."),
    ],
)
def test_the_right_answer(name, gold, answer):
    assert (read(name).gold, read(name).answer) == (gold, answer)


def test_hellaswag_loses_its_markers():
    example = read("hellaswag")
    assert example.fields["ctx"] == "How to fold a paper boat. Begin. Lay the sheet flat. Then you"
    assert [choice.strip() for choice in example.choices] == ["fold it in half.", "sail away.", "eat it.", "wash it. Dry it."]


def test_the_group_of_race_is_its_article():
    assert read("race").group == "high17.txt"
    unnamed = read("race", example_id=...).group
    assert unnamed != "row-3" and unnamed == read("race", example_id=..., question="Another one?").group
    assert read("piqa").group == "row-3"


@pytest.mark.parametrize("gold", ["C", 2, "2", "the attic", " C ", " the attic\n"])
def test_the_right_answer_may_be_a_letter_an_index_or_a_text(gold):
    example = read("story_facts", answer=gold)
    assert (example.gold, example.answer) == (2, "the attic")


@pytest.mark.parametrize(
    ("label", "gold"), [(0, 0), (1, 1), ("0", 0), ("1", 1), ("sol2", 1), ("A", 0), ("Put it in a flask.", 1)]
)
def test_the_label_of_piqa(label, gold):
    assert read("piqa", label=label).gold == gold


@pytest.mark.parametrize(
    ("answer", "gold"), [("1", 0), ("2", 1), (1, 0), (2, 1), ("A", 0), ("B", 1), ("option2", 1), ("cup", 0)]
)
def test_winogrande_counts_from_one(answer, gold):
    assert read("winogrande", answer=answer).gold == gold


@pytest.mark.parametrize("answer", ["0", 0, "3", ""])
def test_winogrande_has_no_option_but_one_and_two(answer):
    """If 0 were taken for the first option, rows that count from 0 would all have it as their answer, silently."""
    assert "must be" in refused("winogrande", answer=answer)


@pytest.mark.parametrize(
    ("answer", "gold"), [("1", 0), ("2", 1), (1, 0), (2, 1), ("A", 0), ("sentence_quiz2", 1), ("Mona sold her oven.", 0)]
)
def test_xstorycloze_counts_from_one(answer, gold):
    assert read("xstorycloze", answer_right_ending=answer).gold == gold


@pytest.mark.parametrize("answer", [3, 0, "0"])
def test_xstorycloze_has_no_ending_but_one_and_two(answer):
    assert refused("xstorycloze", answer_right_ending=answer) == (
        f"mine.jsonl, line 3: 'answer_right_ending' is {answer!r}; it must be the letter, the number from 1 or the text of one "
        "of the 2 choices."
    )


def test_the_sentences_of_xstorycloze_are_one_story():
    story = "Mona wanted to bake a cake. She had no eggs left. She rang at her neighbour's door. He gave her four of them."
    assert read("xstorycloze").fields["story"] == story


@pytest.mark.parametrize(("name", "value", "is_"), [("input_sentence_2", ["x"], "a list"), ("sentence_quiz1", {}, "an object")])
def test_a_sentence_of_xstorycloze_is_a_text(name, value, is_):
    said = refused("xstorycloze", **{name: value})
    assert said == f"mine.jsonl, line 3: the field {name!r} is {is_}; it must be a text."


def test_an_empty_ending_of_xstorycloze_is_named_as_in_the_row():
    said = refused("xstorycloze", sentence_quiz1="")
    assert said == "mine.jsonl, line 3: the choice 'sentence_quiz1' is empty; every choice needs a text."


ANY = ("text", "name", "index")


def test_gold_index():
    names, texts = ("first", "second", "third"), ("x", "y", "z")
    for gold in ("B", "second", 1, "1", "y"):
        assert gold_index(gold, names, texts, ANY) == 1
    for gold in ("D", 3, -1, 1.0, "", "b", None):
        assert gold_index(gold, names, texts, ANY) is None


def test_the_first_form_that_fits_wins():
    assert gold_index("2", ("A", "B", "C"), ("1", "2", "3"), ("text", "index")) == 1
    assert gold_index("2", ("A", "B", "C"), ("1", "2", "3"), ("index", "text")) == 2
    assert gold_index("A", ("A", "B", "C"), ("B", "A", "AB"), BUILT_IN["race"].gold_forms) == 0  # a row of RACE
    assert gold_index("2", ("A", "B", "C"), ("1", "2", "3"), ("name",)) is None


def test_a_text_with_blanks_around_it_is_found():
    assert gold_index("yes ", ("A", "B"), ("no ", "yes "), ANY) == 1


def test_numbers_become_text():
    row = {"goal": 12, "sol1": 3.5, "sol2": True, "label": "B"}
    example = BUILT_IN["piqa"].example("here", row, "id", "piqa")
    assert example.fields == {"goal": "12", "sol1": "3.5", "sol2": "True"} and example.answer == "True"


LACKS = [(name, field) for name, row in HUB_ROWS.items() for field in row]
UNUSED = {"ind", "activity_label", "ctx_a", "ctx_b", "source_id", "split", "split_type", "example_id", "story_id"}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, field in LACKS if field not in UNUSED])
@pytest.mark.parametrize("value", [..., None], ids=["missing", "null"])
def test_a_missing_field_is_named(name, field, value):
    assert refused(name, **{field: value}) == f"mine.jsonl, line 3: the row lacks the field {field!r}, which {name} needs."


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, field in LACKS if field in UNUSED])
def test_the_other_fields_are_not_needed(name, field):
    assert read(name, **{field: ...}).answer == read(name).answer


@pytest.mark.parametrize(("name", "field"), [("hellaswag", "endings"), ("race", "options")])
@pytest.mark.parametrize("value", [["one", "two", "three"], ["1", "2", "3", "4", "5"], "ABCD"])
def test_four_options_are_needed(name, field, value):
    assert refused(name, **{field: value}) == (
        f"mine.jsonl, line 3: the row lacks the field '{field} (a list of 4)', which {name} needs."
    )


@pytest.mark.parametrize("name", [name for name, task in BUILT_IN.items() if task.choice_fields])
@pytest.mark.parametrize("gold", ["", "E", 4, -1, 1.0, True, "none of them"])
def test_an_answer_outside_the_choices_is_named(name, gold):
    field = BUILT_IN[name].gold
    assert refused(name, **{field: gold}).startswith(f"mine.jsonl, line 3: {field!r} is {gold!r}; it must be the letter, the ")


def test_an_empty_choice_is_named():
    assert refused("piqa", sol2=" ") == "mine.jsonl, line 3: the choice 'sol2' is empty; every choice needs a text."


@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_empty_free_form_answer_is_named(answer):
    assert refused("gsm8k", answer=answer) == "mine.jsonl, line 3: 'answer' is empty; a free-form row needs its answer."


def test_own_fields_are_optional():
    task = Task("jsonl", (), ("yes", "no"), ("title", "body"), gold="label")
    example = task.example("here", {"yes": "Ja", "no": "Nein", "label": "no", "title": "T", "other": "x"}, "id", "jsonl")
    assert example.fields == {"yes": "Ja", "no": "Nein", "title": "T"}
    assert (example.gold, example.answer) == (1, "Nein")


@pytest.mark.parametrize("name", ["hellaswag", "piqa", "winogrande", "race_middle", "gsm8k", "xstorycloze"])
def test_a_bad_row_of_a_file_is_named_with_its_line(tmp_path, name):
    config = compose_config(f"dataset={name}", f"data_root={tmp_path}")
    gold, folder = BUILT_IN[name].gold, tmp_path / name
    folder.mkdir()
    good, other = (json.dumps(HUB_ROWS[name] | {"example_id": article}) for article in ("one", "two"))
    for split in ("train", "test", "validation", "eval"):
        (folder / f"{split}.jsonl").write_text(f"{good}\n{other}\n{good}\n")
    assert len(load_examples(config.dataset, config.data_root, 10, 10).test) == 3
    lacking = json.dumps({key: value for key, value in HUB_ROWS[name].items() if key != gold})
    empty = json.dumps(HUB_ROWS[name] | {gold: ""})
    for split in ("train", config.dataset.test_split):
        path = folder / f"{split}.jsonl"
        for row, message in ((lacking, f"the row lacks the field {gold!r}"), (empty, f"{gold!r} is ")):
            path.write_text(f"{good}\n\n{good}\n{row}\n{good}\n")
            with pytest.raises(InputError, match=re.escape(f"{path}, line 4: {message}")):
                load_examples(config.dataset, config.data_root, 10, 10)
        path.write_text(f"{good}\n{other}\n{good}\n")
