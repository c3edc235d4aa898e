"""Audits: every kind of leak and defect is found, a clean pair has none, and the command says so by its exit code."""

import json
from pathlib import Path

import openpyxl
import pytest
import yaml

from paft.cli.pools import main
from paft.pools.audit import audit, read_for_audit

TRAIN = [
    "Please answer the question by its letter: {question}\nA. {A}\nB. {B}\nAnswer:",
    "On Mondays our pub asks {question} Some say (A) {A}, others (B) {B}. We say",
    "Exam. Tick one box.\n{question}\n[A] {A}\n[B] {B}\nTicked:",
]
TEST = [
    "My aunt wonders: {question} She thinks of {A} (that is A) or {B} (that is B). Tell her it is",
    "Question of the day\n{question}\n* A * {A}\n* B * {B}\nOur readers chose",
]


def write(path: Path, texts: list[str], **families: list[str]) -> Path:
    rows = [{"text": text, **{key: names[i] for key, names in families.items()}} for i, text in enumerate(texts)]
    path.write_text(yaml.safe_dump({"answer": "letter", "prompts": rows}))
    return path


def audited(tmp_path, train, test):
    pools = {"train": write(tmp_path / "train.yaml", train), "test": write(tmp_path / "test.yaml", test)}
    return audit({name: read_for_audit(path) for name, path in pools.items()})


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["paft pools", "audit", *map(str, arguments)])
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_a_clean_pair_has_no_leak_and_no_defect(tmp_path):
    found = audited(tmp_path, TRAIN, TEST)
    assert not found.leaks
    assert [facts["defects"] for facts in found.files.values()] == [[], []]
    facts = found.files["train"]
    assert (facts["prompts"], facts["wordings"], facts["blank_rows"], facts["repeated"]) == (3, 3, 0, [])
    assert facts["field_order"] == {"question A B": 3} and len(facts["cues"]) == 3
    between = found.between["test to train"]
    assert 0.3 < between["nearest"] < between["mean_distance"] < 1 and between["near_copies"] == 0


@pytest.mark.parametrize(
    ("test", "kind"),
    [
        (TRAIN[0], "copy"),
        ("please ANSWER the question by its letter!\n{question}\n(A) {A} (B) {B}\nanswer =", "same wording"),
        ("Please answer that question by its letter: {question}\nA. {A}\nB. {B}\nAnswers:", "near-copy"),
    ],
)
def test_every_kind_of_copy_is_a_leak(tmp_path, test, kind):
    (leak,) = audited(tmp_path, TRAIN, [*TEST, test]).leaks
    assert (leak.kind, leak.first) == (kind, "train line 3") and leak.second.startswith("test line ")
    assert leak.similarity >= 0.9


def test_a_family_on_both_sides_is_a_leak(tmp_path):
    a = write(tmp_path / "a.yaml", TRAIN, wording=["exam", "pub", "exam"], layout=["x", "y", "z"])
    b = write(tmp_path / "b.yaml", TEST, wording=["aunt", "pub"], layout=["z", "v"])
    found = audit({"train": read_for_audit(a), "test": read_for_audit(b)})
    assert [(leak.kind, leak.first) for leak in found.leaks] == [("wording family", "train pub"), ("layout family", "train z")]


def test_defects_are_named_with_their_place(tmp_path):
    bad = ["{question} {A}\nAnswer:", "{question}\nA. {A}\nB. {B}", "Explain it. {question} A {A} B {B} Answer:"]
    facts = audited(tmp_path, [*TRAIN, *bad], TEST).files["train"]
    assert [(d["where"].split()[0], d["reason"]) for d in facts["defects"]] == [("line", "fields"), ("line", "no cue")]
    assert len(facts["review"]) == 1


def test_a_sheet_in_the_authors_form(tmp_path, monkeypatch, capsys):
    def sheet(name: str, texts: list[str | None]) -> Path:
        book = openpyxl.Workbook()
        for text in ["text", *texts]:
            book.active.append([text])
        book.save(tmp_path / name)
        return tmp_path / name

    theirs = [
        r"Sentence: {prompt}\nA. {only_option1}\nB. {only_option2}\nAnswer:",
        "Fill: {prompt} ({only_option1}|{only_option2}) With",
    ]
    train = sheet("train.xlsx", [*theirs, None, theirs[0], "  "])
    test = sheet("test.xlsx", ["{prompt} Now choose A {only_option1} or B {only_option2}; it is"])
    assert run(monkeypatch, "--train", train, "--test", test, "--dataset", "winogrande", "--report", tmp_path / "out") == 0
    facts = json.loads((tmp_path / "out" / "audit.json").read_text())["files"]["train"]
    assert (facts["prompts"], facts["blank_rows"], len(facts["repeated"]), facts["literal_newlines"]) == (2, 2, 1, 2)
    assert "No leak." in capsys.readouterr().out


def test_the_command_leaves_table_page_figure_and_an_exit_code(tmp_path, monkeypatch, capsys):
    train, test = write(tmp_path / "a.yaml", TRAIN), write(tmp_path / "b.yaml", [*TEST, TRAIN[1]])
    assert run(monkeypatch, "--train", train, "--test", test, "--report", tmp_path / "out") == 1
    assert "1 leaks." in capsys.readouterr().out
    page = (tmp_path / "out" / "README.md").read_text()
    assert "leak: copy: train line" in page and "| character n-grams |" in page
    assert (tmp_path / "out" / "mmd.png").stat().st_size > 5000
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["leaks"][0]["kind"] == "copy" and set(content["mmd"]["character n-grams"]) >= {
        "squared",
        "null",
        "p",
        "curve",
    }
