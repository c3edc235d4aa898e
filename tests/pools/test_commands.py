"""paft pools: perturb, compose, import and show, and what they say of bad input."""

import json
import re

import openpyxl
import pytest

from paft.cli.pools import main
from paft.data.tasks import BUILT_IN
from paft.prompts import load_pool
from paft.runtime.errors import InputError
from tests.prompts.test_pool import POOLS

PIQA = BUILT_IN["piqa"].form("letter", "shown")


def run(monkeypatch, capsys, *arguments: object) -> str:
    """Run a command in this process; returns what it prints, or the sentence of its error."""
    monkeypatch.setattr("sys.argv", ["paft pools", *map(str, arguments)])
    try:
        main()
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
        return f"error: {error}"
    return capsys.readouterr().out


def test_perturb_writes_a_pool_that_runs_can_use(monkeypatch, capsys, tmp_path):
    out = tmp_path / "perturbed.yaml"
    test = POOLS / "piqa" / "letter" / "test.yaml"
    said = run(monkeypatch, capsys, "perturb", test, "--kinds", "typos,case", "-n", "4", "--out", out)
    assert said.count("strength 0.") == 4 and f"4 perturbed prompts: {out}" in said
    pool = load_pool(out, PIQA)
    assert [t.wording for t in pool.templates] == ["typos", "case", "typos", "case"]
    before = out.read_bytes()
    run(monkeypatch, capsys, "perturb", test, "--kinds", "typos,case", "-n", "4", "--out", out)
    assert out.read_bytes() == before


def test_perturb_keeps_hidden_options_hidden(monkeypatch, capsys, tmp_path):
    out = tmp_path / "perturbed.yaml"
    run(monkeypatch, capsys, "perturb", POOLS / "piqa" / "hidden" / "test.yaml", "-n", "6", "--out", out)
    assert len(load_pool(out, BUILT_IN["piqa"].form("text", "hidden")).templates) == 6


def test_nothing_is_written_over(monkeypatch, capsys, tmp_path):
    pool = tmp_path / "pool.yaml"
    pool.write_text((POOLS / "piqa" / "letter" / "test.yaml").read_text())
    before = pool.read_bytes()
    said = run(monkeypatch, capsys, "perturb", pool, "-n", "3", "--out", pool)
    assert said == f"error: {pool}: something else is here; name another file with --out, or remove it."
    assert pool.read_bytes() == before


def test_equal_wordings_have_no_distance(monkeypatch, capsys, tmp_path):
    for name, marks in (("train", "ab"), ("test", "cd")):
        rows = [{"text": f"{mark * 0}Pick: {{goal}} A. {{sol1}} B. {{sol2}}{' ' * i}\nAnswer:"} for i, mark in enumerate(marks)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("sys.argv", ["x", "audit", *(f"--{s}={tmp_path / s}.jsonl" for s in ("train", "test"))])
    with pytest.raises(SystemExit):  # they leak
        main()
    said = capsys.readouterr().out
    assert not re.search(r"\bnan\b", said) and "names its families: these were not compared" in said


def test_compose_writes_beside_the_parts(monkeypatch, capsys, tmp_path):
    parts = tmp_path / "parts.yaml"
    parts.write_text((POOLS / "piqa" / "letter" / "parts.yaml").read_text())
    assert "50 prompts, " in run(monkeypatch, capsys, "compose", parts, "-n", "50")
    assert len(load_pool(tmp_path / "composed.yaml", PIQA).templates) == 50


def test_import_of_a_sheet(monkeypatch, capsys, tmp_path):
    book = openpyxl.Workbook()
    for text in ("text", r"Sentence: {prompt}\nA. {only_option1}\nB. {only_option2}\nAnswer:", None):
        book.active.append([text])
    book.save(sheet := tmp_path / "sheet.xlsx")
    said = run(monkeypatch, capsys, "import", sheet, "--dataset", "winogrande")
    assert "row 3 is blank: dropped" in said and f"1 prompts: {tmp_path / 'sheet.yaml'}" in said
    form = BUILT_IN["winogrande"].form("letter", "shown")
    assert load_pool(tmp_path / "sheet.yaml", form).templates[0].text.startswith("Sentence: {sentence}\nA. {option1}")
    said = run(monkeypatch, capsys, "import", sheet, "--dataset", "winogrande", "--out", sheet)
    assert said == f"error: {sheet}: something else is here; name another file with --out, or remove it."
    said = run(monkeypatch, capsys, "import", sheet, "--dataset", "piqa")
    assert f"{sheet}, row 2: the template lacks {{goal}}" in said
    book.active["A1"] = "prompt"
    book.save(sheet)
    assert "row 1: the sheet has no column `text`" in run(monkeypatch, capsys, "import", sheet, "--dataset", "winogrande")


def test_prompts_that_hide_the_options_are_imported_and_shown(monkeypatch, capsys, tmp_path):
    """What they ask for is the text of the answer, whatever the data set's runs ask for."""
    (tmp_path / "sheet.csv").write_text('text\n"{goal} Do it like this:"\n')
    sheet = ["import", tmp_path / "sheet.csv", "--dataset", "piqa"]
    assert ", line 2: the template lacks {sol1}" in run(monkeypatch, capsys, *sheet)
    assert f"1 prompts: {tmp_path / 'sheet.yaml'}" in run(monkeypatch, capsys, *sheet, "--options", "hidden")
    pool = load_pool(tmp_path / "sheet.yaml", BUILT_IN["piqa"].form("text", "hidden"))
    assert [t.text for t in pool.templates] == ["{goal} Do it like this:"]
    (tmp_path / "piqa").mkdir()
    for split in ("train", "validation"):
        row = '{"goal": "Dry a wet book.", "sol1": "Fan it open.", "sol2": "Fry it.", "label": 0}\n'
        (tmp_path / "piqa" / f"{split}.jsonl").write_text(row * 5)
    shown = ["show", "--dataset", "piqa", "--data-root", tmp_path, "--options", "hidden"]
    said = run(monkeypatch, capsys, *shown, "--prompts", tmp_path / "sheet.yaml")
    assert said.endswith('Dry a wet book. Do it like this:\n--- right answer: "Fan it open."\n')
    assert "Dry a wet book." in (said := run(monkeypatch, capsys, *shown)) and "Fry it." not in said  # the shipped ones


def test_show_renders_templates(monkeypatch, capsys):
    said = run(monkeypatch, capsys, "show", "--dataset", "story_facts", "--example", "3", "-n", "2")
    assert said.count("--- story_facts-text-train-") == 2 and "--- right answer: " in said and "{story}" not in said
    other = run(monkeypatch, capsys, "show", "--dataset", "story_facts", "--example", "3", "--split", "test", "-n", "1")
    assert "--- story_facts-text-test-01" in other
    assert said.rsplit("---", 1)[1] == other.rsplit("---", 1)[1]  # the same example


def test_show_of_rows_in_a_folder(monkeypatch, capsys, tmp_path):
    (tmp_path / "piqa").mkdir()
    for split in ("train", "validation"):
        row = '{"goal": "Dry a wet book.", "sol1": "Fan it open.", "sol2": "Fry it.", "label": 0}\n'
        (tmp_path / "piqa" / f"{split}.jsonl").write_text(row * 5)
    said = run(monkeypatch, capsys, "show", "--dataset", "piqa", "--data-root", tmp_path, "-n", "1")
    assert "Dry a wet book." in said and said.rstrip().endswith('--- right answer: "A"')
    said = run(monkeypatch, capsys, "show", "--dataset", "piqa", "--data-root", tmp_path, "--example", "99")
    assert "--example 99: there are only " in said


def test_show_of_rows_and_prompts_of_ones_own(monkeypatch, capsys, tmp_path):
    labels = ["yes", "no"]
    for split, first in (("train", 0), ("test", 50)):
        rows = [f'"Ticket {n}, or ""x""",{labels[n % 2]}' for n in range(first, first + 30)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["ticket,label", *rows]))
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text('{"text": "Classify: {ticket}\\nLabel:"}\n{"text": "{labels}? {ticket}"}\n')
    shown = ["show", "--rows", tmp_path, "--prompts", prompts]
    said = run(monkeypatch, capsys, *shown, "--labels", "from_gold", "--shots", 2)
    assert "rows: the right answer is in 'label' (dataset.gold)\nlabels: no, yes, of 30 to 30 rows each" in said
    first, second, right = said.split("--- ")[1:]
    blocks = first.removeprefix("prompt-001\n").strip().split("\n\n")
    assert len({block.split("\n")[0] for block in blocks}) == 3 and blocks[2].endswith('or "x"\nLabel:')
    assert all(block.split("\nLabel: ")[1] in labels for block in blocks[:2])
    assert second.count("no, yes? Ticket ") == 3 and right.startswith("right answer: ")
    file = ["show", "--rows", tmp_path / "test.csv", "--prompts", prompts, "--labels", "yes,no", "--gold", "label"]
    assert "yes, no? Ticket " in run(monkeypatch, capsys, *file)
    mutated = run(monkeypatch, capsys, *file, "--mutated", "--kinds", "labels")
    assert mutated.rstrip().endswith("of 2 prompts have parts whose layout is mutated.")
    letters = ["--answer", "letter", "--labels", "yes,no"]
    assert "line 1: the template lacks {A}; it needs {A} {B}" in run(monkeypatch, capsys, *shown, *letters)
    said = run(monkeypatch, capsys, *shown, "--choices", "A,B")
    assert "the row lacks the field 'A'; it has ticket, label" in said
