"""Loading rows and cutting them into train, validation and test examples."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from paft.config.schema import DatasetConfig
from paft.data.inputs import load_inputs
from paft.data.rows import Examples, balanced_sample, load_examples
from paft.data.tasks.story_facts import generate_rows
from paft.runtime.errors import InputError
from tests.conftest import compose_config


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own_rows(n: int, start: int = 0) -> list[dict]:
    return [
        {"text": f"Is {i} even?", "yes": "yes", "no": "no", "label": "no" if i % 2 else "yes"} for i in range(start, start + n)
    ]


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder with 40 training and 10 test rows of one's own."""
    write(tmp_path / "own" / "train.jsonl", own_rows(40))
    write(tmp_path / "own" / "test.jsonl", own_rows(10, 1000))
    return tmp_path / "own"


@cache
def dataset(*overrides: str) -> DatasetConfig:
    return compose_config(*overrides).dataset


def load_own(folder: Path, *overrides: str, train: int = 1000, test: int = 1000) -> Examples:
    overrides = overrides or ("dataset.choices=[yes,no]", "dataset.gold=label")
    return load_examples(dataset("dataset=jsonl", f"dataset.path={folder}", *overrides), None, train, test)


def refused(folder: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        load_own(folder, *overrides)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return str(error.value)


# One's own rows.


def test_own_rows_with_choices(own):
    examples = load_own(own)
    assert (len(examples.train), len(examples.validation), len(examples.test)) == (36, 4, 10)
    texts = [e.fields["text"] for e in (*examples.train, *examples.validation)]
    assert sorted(texts) == sorted(row["text"] for row in own_rows(40))
    assert sorted(e.fields["text"] for e in examples.test) == sorted(row["text"] for row in own_rows(10, 1000))
    for example in (*examples.train, *examples.validation, *examples.test):
        assert example.choices == ("yes", "no") and example.part == "jsonl"
        assert example.answer == ("no" if int(example.fields["text"].split()[1]) % 2 else "yes")
    assert examples.task.optional_fields == ("text",)
    ids = [e.id for e in (*examples.train, *examples.validation, *examples.test)]
    assert len(set(ids)) == len(ids)


def test_own_rows_without_choices(own):
    examples = load_own(own, "dataset.gold=label")
    assert {e.choices for e in examples.train} == {()} and {e.gold for e in examples.train} == {-1}
    assert {e.answer for e in examples.train} == {"yes", "no"}
    assert examples.task.optional_fields == ("text", "yes", "no")


NUMBERS = [("2", "4", "1"), ("7", "9", "8"), ("1", "0", "3")]


@pytest.mark.parametrize(("answers", "golds"), [((1, 1, 2), (1, 1, 2)), (("4", "9", "1"), (1, 1, 0))], ids=["index", "text"])
def test_numbers_are_read_in_the_one_form_that_fits_all_rows(tmp_path, answers, golds):
    rows = [dict(zip("ABC", texts, strict=True)) | {"answer": a} for texts, a in zip(NUMBERS, answers, strict=True)]
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", rows)
    found = load_own(tmp_path, "dataset.choices=[A,B,C]", "dataset.gold=answer")
    assert {e.choices: e.gold for e in found.test} == dict(zip(NUMBERS, golds, strict=True))


def test_one_odd_training_row_changes_no_other(own):
    write(own / "train.jsonl", [*own_rows(20), {"text": "?", "yes": "yes", "no": "no", "label": 1}])
    assert "line 21: 'label' is 1; it must be the text of one of the 2 choices" in refused(own)


def test_an_answer_in_another_form_than_the_training_rows_is_refused(own):
    write(own / "test.jsonl", [{"text": "?", "yes": "yes", "no": "no", "label": 1}])
    assert "'label' is 1; it must be the text of one of the 2 choices" in refused(own)


def test_own_validation_rows_are_used_whole(own):
    write(own / "validation.jsonl", own_rows(7, 500))
    examples = load_own(own)
    assert len(examples.train) == 40
    assert sorted(e.fields["text"] for e in examples.validation) == sorted(row["text"] for row in own_rows(7, 500))


def test_a_cut_is_the_same_every_time_and_no_slice_of_the_file(own):
    examples = load_own(own)
    assert load_own(own) == examples
    held_out = sorted(int(e.fields["text"].split()[1]) for e in examples.validation)
    assert held_out not in ([0, 1, 2, 3], [36, 37, 38, 39])


def test_a_cut_takes_a_thousand_at_most(tmp_path):
    write(tmp_path / "train.jsonl", own_rows(12000))
    write(tmp_path / "test.jsonl", own_rows(1))
    examples = load_own(tmp_path, train=20000)
    assert (len(examples.validation), len(examples.train)) == (1000, 11000)


def test_two_rows_are_the_fewest_to_cut(own):
    write(own / "train.jsonl", own_rows(2))
    examples = load_own(own)
    assert (len(examples.train), len(examples.validation)) == (1, 1)
    write(own / "train.jsonl", own_rows(1))
    assert refused(own) == "dataset=jsonl: no row of train.jsonl is left after the cut for validation; give it more rows."
    write(own / "validation.jsonl", own_rows(1))
    assert len(load_own(own).train) == 1


def test_caps_take_the_first_of_the_same_order(own):
    whole, capped = load_own(own), load_own(own, train=5, test=3)
    assert capped.train == whole.train[:5] and capped.test == whole.test[:3]
    assert capped.validation == whole.validation


def test_a_byte_order_mark_and_blank_lines_do_no_harm(own):
    before = load_own(own).fingerprints
    path = own / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert load_own(own).fingerprints == before


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_bad_file_is_named_with_its_line(own, split):
    path, good = own / f"{split}.jsonl", json.dumps(own_rows(1)[0])
    for content, place, message in (
        ("", "", "the data file is empty; it needs at least one row."),
        (" \n\n", "", "the data file is empty; it needs at least one row."),
        (f'{good}\n\n{{"text": \n', ", line 3", "this is not valid JSON (Expecting value)."),
        (f"{good}\nnot JSON\n", ", line 2", "this is not valid JSON (Expecting value)."),
        (f"{good}\n[1, 2]\n", ", line 2", 'a row is a JSON object, e.g. {"question": ...}.'),
        (
            f'{good}\n{{"text": "x", "yes": "yes", "no": "no"}}\n',
            ", line 2",
            "the row lacks the field 'label', which jsonl needs.",
        ),
        (
            f'{good}\n{{"text": "x", "yes": "yes", "label": "yes"}}\n',
            ", line 2",
            "the row lacks the field 'no', which jsonl needs.",
        ),
    ):
        path.write_text(content)
        assert refused(own) == f"{path}{place}: {message}"
    path.write_text(f"{good}\n" + good.replace('"label": "yes"', '"label": "maybe"') + "\n")
    assert refused(own).startswith(f"{path}, line 2: 'label' is 'maybe'; it must be the ")
    path.write_bytes(f'{good}\n{{"text": "größer"}}\n'.encode("latin-1"))
    assert refused(own) == f"{path}: the file is not UTF-8 text."


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_file_is_named(own, split):
    (own / f"{split}.jsonl").unlink()
    assert (
        refused(own) == f"{own / split}.jsonl: there is no such data file, and no {split}.json, {split}.csv or {split}.parquet."
    )


def test_a_wrong_name_of_a_field_is_refused_with_the_right_ones(own):
    expected = f"{own / 'train.jsonl'}, line 1: the row lacks the field 'maybe'; it has text, yes, no, label."
    assert refused(own, "dataset.choices=[yes,maybe]", "dataset.gold=label") == expected
    assert refused(own, "dataset.choices=[yes,no]", "dataset.gold=maybe") == expected


def test_own_rows_and_pools_load_together(own, tmp_path):
    pool = tmp_path / "mine.csv"
    pool.write_text('text\n"{text} {yes} or {no}?"\n"{text}\n{yes}/{no}:"\n')
    unseen = tmp_path / "unseen.csv"
    unseen.write_text('text\n"Say whether it is so. {text} ({yes}, {no})"\n')
    overrides = ["dataset=jsonl", f"dataset.path={own}", "dataset.choices=[yes,no]", "dataset.gold=label"]
    inputs = load_inputs(compose_config(*overrides, f"prompts.train={pool}", f"prompts.test={unseen}"))
    assert len(inputs.train.templates) == 2 and inputs.validation.templates == inputs.train.templates
    with pytest.raises(InputError, match=r"No test pool for dataset=jsonl .* prompts\.test=FILE"):
        load_inputs(compose_config(*overrides, f"prompts.train={pool}"))


def test_prompts_of_ones_own_choose_the_checkpoint(own, tmp_path):
    """And where the test is not looked at, they stand in for its prompts."""
    texts = {
        "train": ["{text} {yes} or {no}?"],
        "validation": ["Decide for yourself, and be quick about it: {text} {no}/{yes} -", "{yes}? {no}? {text} Well:"],
        "test": ["Say whether it is so. {text} ({yes}, {no})"],
    }
    overrides = ["dataset=jsonl", f"dataset.path={own}", "dataset.choices=[yes,no]", "dataset.gold=label"]
    for split in texts:
        write(tmp_path / f"{split}.jsonl", [{"text": text} for text in texts[split]])
        overrides.append(f"prompts.{split}={tmp_path / split}.jsonl")
    inputs = load_inputs(compose_config(*overrides))
    assert {split: [t.text for t in pool.templates] for split, pool in inputs.pools.items()} == texts
    first = load_inputs(compose_config(*overrides, "validation.prompts=1")).validation
    assert [t.text for t in first.templates] == texts["validation"][:1]
    held = load_inputs(compose_config(*overrides, "evaluate=false", "validation.examples=2"))
    assert [t.text for t in held.test.templates] == texts["validation"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_without_a_field_that_a_template_shows_is_refused_at_the_start(own, tmp_path, split):
    """A field that only some rows have must not stop a run hours later, when the template meets such a row."""
    path = own / f"{split}.jsonl"
    rows = own_rows(20)
    del rows[13]["text"]
    write(path, rows)
    pool = tmp_path / "mine.csv"
    pool.write_text("text\n{text} {yes} or {no}?\n")
    overrides = ["dataset=jsonl", f"dataset.path={own}", "dataset.choices=[yes,no]", "dataset.gold=label"]
    with pytest.raises(InputError, match=f"{split}.jsonl, line 14: .*'text'"):
        load_inputs(compose_config(*overrides, f"prompts.train={pool}", f"prompts.test={pool}"))


# RACE: two parts, whole articles.


def race_rows(part: str, split: str, articles: int) -> list[dict]:
    return [
        {
            "example_id": f"{part}-{split}-{number}.txt",
            "article": f"The {part} story number {number}.",
            "question": f"What is question {i}?",
            "options": [f"{c}{number}" for c in "wxyz"],
            "answer": "ABCD"[(number + i) % 4],
        }
        for number in range(articles)
        for i in range(1 + number % 5)
    ]


@pytest.fixture
def race(tmp_path) -> Path:
    for part in ("race_middle", "race_high"):
        write(tmp_path / part / "train.jsonl", race_rows(part, "train", 60))
        write(tmp_path / part / "test.jsonl", race_rows(part, "test", 10))
    return tmp_path


def load_race(folder: Path, name: str = "race", train: int = 1000, test: int = 1000) -> Examples:
    return load_examples(dataset(f"dataset={name}"), str(folder), train, test)


@pytest.mark.parametrize("articles", [2, 13, 33, 47, 60])
def test_an_article_of_race_is_never_in_two_splits(race, articles):
    for part in ("race_middle", "race_high"):
        write(race / part / "train.jsonl", race_rows(part, "train", articles))
    examples, rows = load_race(race), len(race_rows("race_high", "train", articles))
    train, validation = ({e.group for e in split} for split in (examples.train, examples.validation))
    assert not train & validation
    assert len(train | validation) == 2 * articles
    assert len(examples.train) + len(examples.validation) == 2 * rows
    for part in ("race_middle", "race_high"):
        held_out = sum(e.part == part for e in examples.validation)
        assert max(1, round(rows / 10)) <= held_out <= max(1, round(rows / 10)) + 4  # a tenth, and whole articles


def test_both_parts_are_mixed_in_training_and_spread_in_the_test(race):
    examples = load_race(race, train=60, test=7)
    assert Counter(e.part for e in examples.test) == {"race_middle": 4, "race_high": 3}
    assert 15 <= Counter(e.part for e in examples.train)["race_middle"] <= 45
    assert 5 <= Counter(e.part for e in examples.validation[:30])["race_middle"] <= 25
    assert Counter(e.part for e in load_race(race, test=1000).test) == {"race_middle": 30, "race_high": 30}


def test_one_part_of_race_alone(race):
    both, high = load_race(race), load_race(race, "race_high")
    assert {e.part for e in (*high.train, *high.validation, *high.test)} == {"race_high"}
    assert {e.id for e in high.validation} == {e.id for e in both.validation if e.part == "race_high"}
    assert high.test == tuple(e for e in both.test if e.part == "race_high")


def test_a_missing_part_is_named(race):
    (race / "race_high" / "test.jsonl").unlink()
    with pytest.raises(InputError, match=re.escape(f"{race / 'race_high' / 'test.jsonl'}: there is no such data file")):
        load_race(race)


# Test examples of which each choice is the right one as often.


@pytest.mark.parametrize("most", [1, 8, 30, 41, 100])
def test_balanced_test_examples_hold_each_choice_as_often_and_keep_their_order(most):
    config = dataset("dataset=story_facts", "dataset.balanced=true")
    whole = load_examples(dataset("dataset=story_facts"), None, None, None).test
    drawn = load_examples(config, None, None, most).test
    counts = Counter(example.gold for example in drawn)
    assert len(drawn) == most and max(counts.values()) - min(counts[i] for i in range(4)) <= 1
    assert [example.id for example in whole if example in drawn] == [example.id for example in drawn]
    assert drawn[0] == whole[0]


def test_a_choice_that_is_seldom_right_leaves_its_place_to_the_others():
    whole = load_examples(dataset("dataset=story_facts"), None, None, None).test
    rows = [example for example in whole if example.gold == 0][:3] + [example for example in whole if example.gold == 1][:20]
    assert Counter(example.gold for example in balanced_sample(rows, 12)) == {0: 3, 1: 9}
    assert balanced_sample(rows, None) == rows


# Fingerprints.


def test_fingerprints_are_those_of_the_content(own):
    before = load_own(own).fingerprints
    assert set(before) == {"train", "validation", "test"}
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in before.values())
    assert load_own(own).fingerprints == before
    for change in ({"text": "Is it even?"}, {"label": "no"}, {"yes": "Yes", "label": "Yes"}):
        rows = own_rows(10, 1000)
        write(own / "test.jsonl", [rows[0] | change, *rows[1:]])
        after = load_own(own).fingerprints
        assert after["test"] != before["test"]
        assert (after["train"], after["validation"]) == (before["train"], before["validation"])
    write(own / "test.jsonl", own_rows(10, 1000)[::-1])
    assert load_own(own).fingerprints["test"] != before["test"]
    write(own / "test.jsonl", own_rows(10, 1000))
    assert load_own(own).fingerprints == before
    assert load_own(own, train=5).fingerprints["train"] != before["train"]


def test_fingerprints_see_free_form_answers(own):
    before = load_own(own, "dataset.gold=label").fingerprints
    rows = own_rows(10, 1000)
    write(own / "test.jsonl", [rows[0] | {"label": "perhaps"}, *rows[1:]])
    after = load_own(own, "dataset.gold=label").fingerprints
    assert after["test"] != before["test"] and after["train"] == before["train"]


# story_facts.


def load_story_facts(train: int = 100_000, test: int = 100_000) -> Examples:
    return load_examples(dataset("dataset=story_facts"), None, train, test)


def test_story_facts_needs_no_file():
    examples = load_story_facts()
    assert (len(examples.train), len(examples.validation), len(examples.test)) == (1980, 220, 1000)
    capped = load_story_facts(train=50, test=20)
    assert capped.train == examples.train[:50] and capped.test == examples.test[:20]
    assert capped.fingerprints["validation"] == examples.fingerprints["validation"]


@pytest.mark.parametrize("answer", ["letter", "text"])
def test_story_facts_has_its_pools(answer):
    config = compose_config("dataset=story_facts", f"dataset.answer={answer}", "eval_prompts=3", "validation.prompts=2")
    inputs = load_inputs(config)
    assert set(inputs.pools) == {"train", "validation", "test"}
    assert (len(inputs.validation.templates), len(inputs.test.templates)) == (2, 3)
    assert inputs.train.answer == answer


def test_the_methods_differ_in_their_training_pool():
    assert len(load_inputs(compose_config("dataset=story_facts", "method=user")).train.templates) == 1
    assert load_inputs(compose_config("dataset=story_facts", "method=base")).train is None


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_story_does_not_depend_on_how_many_are_told(split):
    rows = generate_rows(split, 60)
    assert generate_rows(split, 60) == rows
    assert generate_rows(split, 7) == rows[:7]
    assert generate_rows(split, 60, seed=1)[:10] != rows[:10]
    assert len({json.dumps(row) for row in rows}) == 60


def content_words(rows: list[dict[str, str]]) -> set[str]:
    """Return the people (capitalised), objects and places (behind an article) of the rows."""
    people = {name for row in rows for name in re.findall(r"\b[A-Z]\w+", row["story"])} - {"The"}
    things = {word for row in rows for text in row.values() for word in re.findall(r"\b[Tt]he (\w+)", text)}
    return {word.lower() for word in people | things}


def all_words(rows: list[dict[str, str]]) -> set[str]:
    return {word for row in rows for text in row.values() for word in re.findall(r"\w+", text.lower())}


def test_no_word_of_a_test_story_is_in_a_training_story():
    train, test = generate_rows("train", 2200), generate_rows("test", 1000)
    assert len(content_words(train)) > 90 and len(content_words(test)) > 55
    assert not content_words(test) & all_words(train)
    assert not content_words(train) & all_words(test)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_story_answers_its_question(split):
    rows = generate_rows(split, 300)
    for row in rows:
        options = [row[letter] for letter in "ABCD"]
        assert len(set(options)) == 4
        told = [o for o in options if re.search(rf"\b{o.removeprefix('the ')}\b", row["story"])]
        assert len(told) == 2 and row[row["answer"]] in told
        # The right option and what the question names stand in one sentence.
        right = row[row["answer"]].removeprefix("the ")
        sentence = next(s for s in row["story"].split(".") if re.search(rf"\b{right}\b", s))
        (asked,) = re.findall(r"the (\w+)", row["question"])
        assert re.search(rf"\b{asked}\b", sentence)
    counts = Counter(row["answer"] for row in rows)
    assert set(counts) == set("ABCD") and min(counts.values()) > 40


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "?", "text": "!", "yes": "y", "no": "n", "label": "y"}', "line 1: the key 'text' occurs twice"),
        ('{"text": NaN, "yes": "y", "no": "n", "label": "y"}', "line 1: this is not valid JSON (NaN is no number)"),
        ('{"text": 1e999, "yes": "y", "no": "n", "label": "y"}', "line 1: this is not valid JSON (1e999 is no number)"),
        ('{"text": 1' + "0" * 5000 + ', "yes": "y", "no": "n", "label": "y"}', "line 1: a number has too many digits"),
        ("[" * 100_000, "line 1: this is nested too deeply; a row is a JSON object"),
        ('{"text": "?", "yes": ["y"], "no": "n", "label": "y"}', "line 1: the field 'yes' is a list; it must be a text"),
        ('{"text": "?", "yes": "y", "no": {"a": 1}, "label": "y"}', "line 1: the field 'no' is an object; it must be"),
        ('{"text": "\\ud83d", "yes": "y", "no": "n", "label": "y"}', "the field 'text' holds half a character (U+D83D)"),
        ('{"text": "' + "x" * 2**24 + '"}', "line 1: the row has more than 16,777,216 characters"),
    ],
    ids=["twice", "NaN", "infinite", "digits", "nesting", "list", "object", "surrogate", "row bomb"],
)
def test_a_row_of_a_stranger_is_refused_in_one_sentence(line, sentence, own):
    (own / "train.jsonl").write_text(line + "\n")
    assert sentence in refused(own)


def test_a_part_of_a_set_is_no_whole_one(tmp_path):
    rows = [{"question": f"What is {i} + 1?", "answer": f"It is one more.\n#### {i + 1}"} for i in range(60)]
    write(tmp_path / "gsm8k" / "train.jsonl", rows[:50])
    write(tmp_path / "gsm8k" / "test.jsonl", rows[50:])

    def remarks(n: int | None) -> tuple[str, ...]:
        files = load_examples(dataset("dataset=gsm8k"), str(tmp_path), n, None).files
        assert files is not None
        return files.remarks

    said = f"data_root={tmp_path} holds 50 of the 7,473 published training rows of gsm8k, so that this is not"
    for n in (None, 5000):
        (remark,) = remarks(n)
        assert remark.startswith(said)
    assert remarks(8) == ()
