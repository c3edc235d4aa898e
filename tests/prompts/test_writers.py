"""Round trips: YAML, JSONL, CSV and xlsx lose nothing, on awkward texts and on random ones."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paft.prompts import PromptPool, PromptTemplate, TemplateError
from paft.prompts.writers import write_pool
from paft.runtime.errors import InputError
from tests.prompts.test_pool import AWKWARD, FORMS, load


def pool_of(texts: list[str], answer="letter") -> PromptPool:
    templates = (PromptTemplate(text, f"id {i}", "=1+1", wording="é", layout="007") for i, text in enumerate(texts))
    return PromptPool("mine", tuple(templates), answer, "shown")


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("answer", ["letter", "text"])
def test_every_form_gives_back_the_pool(tmp_path, suffix, answer):
    pool = pool_of([*AWKWARD, "=SUM({A};{B}) {question}", "_x000D_ {question} {A} {B}", "+1 {question},{A},{B}"], answer)
    path = tmp_path / f"mine{suffix}"
    write_pool(pool, path)
    again = load(path, answer=answer)
    assert again == pool and again.fingerprint == pool.fingerprint
    other = "text" if answer == "letter" else "letter"
    with pytest.raises(InputError, match=f"this pool says answer: {answer}, the run asks for dataset.answer={other}"):
        load(path, answer=other)


def test_through_all_forms_and_back(tmp_path):
    pool = pool_of(AWKWARD)
    for suffix in FORMS:
        write_pool(pool, path := tmp_path / f"mine{suffix}")
        pool = load(path)
    assert pool == pool_of(AWKWARD)


def _writable(text: str) -> bool:
    try:
        PromptTemplate(text, "x")
    except TemplateError:
        return False
    return True


# What no file form can hold: lone surrogates, and characters that XML forbids.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(TEXT, min_size=4, max_size=4), suffix=st.sampled_from(FORMS))
def test_random_texts_survive_every_form(tmp_path: Path, parts: list[str], suffix: str):
    clean = [re.sub(r"[{}\\]", "", part) for part in parts]
    text = f"{clean[0]}{{question}}{clean[1]}\n{{A}}{clean[2]}{{B}}{clean[3]}"
    if _writable(text):
        pool = pool_of([text])
        write_pool(pool, path := tmp_path / f"mine{suffix}")
        assert load(path) == pool


def test_a_form_that_does_not_exist_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"a prompt pool is a .yaml, .jsonl, .csv or .xlsx file\.$"):
        write_pool(pool_of(AWKWARD), tmp_path / "mine.txt")
    with pytest.raises(InputError, match=r"there is no folder .*; make it first"):
        write_pool(pool_of(AWKWARD), tmp_path / "none" / "mine.yaml")


def test_a_pool_of_two_kinds_and_one_of_no_kind(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("answer,text\nletter,{question} {A} {B} 1:\ntext,{question} {A} {B} 2:\n")
    with pytest.raises(InputError, match="line 3: answer is 'text' here and 'letter' before; a pool has one"):
        load(path)
    path.write_text("answer,text\nnumber,{question} {A} {B} 1:\n")
    with pytest.raises(InputError, match="answer is 'number'; it must be letter or text"):
        load(path)


def test_a_file_that_is_no_pool_by_its_size_is_refused_unread(tmp_path):
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(InputError, match="the file has 200 MiB, at most 64 are read; is it a pool"):
        load(path)


def test_a_sheet_that_unpacks_to_gigabytes_is_refused(tmp_path):
    import zipfile

    path = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("sheet.xml", "w", force_zip64=True) as part:
        for _ in range(300):
            part.write(b" " * 2**20)
    with pytest.raises(InputError, match="the sheet unpacks to 300 MiB; this is no prompt pool"):
        load(path)
