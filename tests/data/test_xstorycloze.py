"""XStoryCloze from files and from the hub: rows of the hub's form, a language by its name, endings with letters and hidden."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from paft.data.inputs import load_inputs
from paft.data.render import render, right_answer
from paft.data.rows import load_examples
from paft.data.tasks.xstorycloze import IN_OTHER_LANGUAGES
from paft.runtime.errors import InputError
from tests.conftest import compose_config

SWAHILI = ("Asha alikuwa na kiu.", "Aliona kisima.", "Alivuta ndoo juu.", "Maji yalikuwa baridi.")


def row(number: int, *sentences: str, **changes: object) -> dict[str, Any]:
    """Return an invented row with all the columns that the hub's have; the right ending is the first of every even row."""
    told = sentences or ("Ron lost his key.", "He looked in every pocket.", f"He asked {number} people.", "Nobody had seen it.")
    whole = {"story_id": f"invented-{number}"}
    whole |= {f"input_sentence_{place}": sentence for place, sentence in enumerate(told, 1)}
    whole |= {"sentence_quiz1": f"Ron called a locksmith, number {number}.", "sentence_quiz2": "Ron was a key."}
    if number % 2:
        whole["sentence_quiz1"], whole["sentence_quiz2"] = whole["sentence_quiz2"], whole["sentence_quiz1"]
    whole["answer_right_ending"] = 1 + number % 2
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def write(folder: Path, *sentences: str, **changes: object) -> None:
    folder.mkdir()
    rows = {"train": [row(n, *sentences) for n in range(40)], "eval": [row(n, *sentences) for n in range(100, 110)]}
    rows["eval"][3] = row(103, *sentences, **changes)
    for split, content in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content))


def test_rows_of_a_folder(tmp_path):
    """The test rows are those of eval; the validation rows are cut from the training rows."""
    write(tmp_path / "xstorycloze")
    examples = load_examples(compose_config("dataset=xstorycloze").dataset, str(tmp_path), None, None)
    assert (len(examples.train), len(examples.validation), len(examples.test)) == (36, 4, 10)
    assert {e.answer.split(",")[0] for e in (*examples.train, *examples.validation, *examples.test)} == {
        "Ron called a locksmith"
    }
    assert {e.gold for e in examples.test} == {0, 1}


def test_a_language_is_a_data_set(tmp_path):
    write(tmp_path / "xstorycloze_sw", *SWAHILI)
    examples = load_examples(compose_config("dataset=xstorycloze_sw").dataset, str(tmp_path), None, None)
    assert {e.fields["story"] for e in examples.test} == {" ".join(SWAHILI)}
    assert {e.part for e in examples.test} == {"xstorycloze_sw"}


def test_a_language_is_a_configuration_on_the_hub(monkeypatch):
    asked = []

    def load(id_: str, config: str, revision: str, split: str) -> list[dict[str, Any]]:
        asked.append((id_, config, split))
        return [row(n) for n in range(20)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    for task in IN_OTHER_LANGUAGES:
        load_examples(compose_config(f"dataset={task.name}").dataset, None, None, None)
        assert asked == [("juletxara/xstory_cloze", task.name.removeprefix("xstorycloze_"), s) for s in ("train", "eval")]
        asked.clear()
    load_examples(compose_config("dataset=xstorycloze").dataset, None, None, None)
    assert [config for _, config, _ in asked] == ["en", "en"]


def test_endings_with_letters_and_hidden(tmp_path):
    write(tmp_path / "xstorycloze")
    story = "Ron lost his key. He looked in every pocket. He asked 103 people. Nobody had seen it."
    for overrides, shown, answer in (
        ((), "A. Ron was a key.\nB. Ron called a locksmith, number 103.\nAnswer:", "B"),
        (("dataset.options=hidden", "dataset.answer=text"), "Ending:", "Ron called a locksmith, number 103."),
    ):
        config = compose_config("dataset=xstorycloze", "method=user", f"data_root={tmp_path}", *overrides)
        inputs = load_inputs(config)
        assert inputs.train is not None
        (prompt,) = inputs.train.templates
        (example,) = [e for e in inputs.examples.test if "103" in e.fields["story"]]
        assert render(prompt, example) == f"Story: {story}\n{shown}"
        assert right_answer(prompt, example, config.dataset.answer) == answer


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"answer_right_ending": 3},
            "'answer_right_ending' is 3; it must be the letter, the number from 1 or the text of one of the 2 choices.",
        ),
        ({"input_sentence_4": ...}, "the row lacks the field 'input_sentence_4', which xstorycloze needs."),
        ({"sentence_quiz2": None}, "the row lacks the field 'sentence_quiz2', which xstorycloze needs."),
        ({"sentence_quiz1": " "}, "the choice 'sentence_quiz1' is empty; every choice needs a text."),
    ],
)
def test_a_bad_row_is_named(tmp_path, changes, says):
    write(tmp_path / "xstorycloze", **changes)
    with pytest.raises(InputError) as error:
        load_examples(compose_config("dataset=xstorycloze").dataset, str(tmp_path), None, None)
    assert str(error.value) == f"{tmp_path}/xstorycloze/eval.jsonl, line 4: {says}"
