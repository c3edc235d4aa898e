"""One's own rows from their files to predictions, on a tiny model: labels, choices that differ in number, shots."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import paft
from paft.config.adapter import read_metadata
from paft.data.tasks.base import Example
from paft.evaluation.likelihood import Likelihood
from paft.evaluation.matrix import read_matrix
from paft.evaluation.scoring import score
from paft.evaluation.store import MatrixStore, read_cells
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.results import Results, read_results
from paft.reporting.table import print_run
from tests.conftest import compose_config, compose_evaluation
from tests.evaluation.test_scoring import setting_of
from tests.reliability.bad_inputs.files import lines, question

SMALL = [
    "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false", "train_examples=16", "T=1", "eval_examples=12",
    "validation.prompts=2", "validation.examples=4",
]  # fmt: skip
LABELS = ("shipping", "refund", "other")
PROMPTS = [{"text": "Classify: {ticket}\nLabel:"}, {"text": "{ticket}\nWhich of {labels} is it?"}]
UNSEEN = [{"text": "Is this about one of {labels}? {ticket} =>"}, {"text": "Route the message.\n{ticket}\nTo:"}]


def write_tickets(path: Path, first: int, n: int) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ticket", "label"])
        table.writerows([f'Ticket {i}, which says:\n"{"abc"[i % 3]}"', LABELS[i % 3]] for i in range(first, first + n))


def trained(model: Path, root: Path, *overrides: str) -> Results:
    files = [f"prompts.train={root / 'mine.jsonl'}", f"prompts.test={root / 'unseen.jsonl'}"]
    own = ["dataset=jsonl", f"dataset.path={root}", *files, f"model.path={model}", f"output_root={root / 'runs'}"]
    return run_training(compose_config(*SMALL, *own, *overrides))


def evaluated(root: Path, *overrides: str) -> Results:
    common = ["trainer.accelerator=cpu", "trainer.progress=false", f"output_root={root / 'runs'}"]
    return run_evaluation(compose_evaluation(*common, *overrides))


@pytest.fixture(scope="module")
def classified(tiny_llama, tmp_path_factory) -> Path:
    """The folder of a finished classification; its rows are CSV and its labels those of the rows."""
    root = tmp_path_factory.mktemp("tickets")
    write_tickets(root / "train.csv", 0, 40)
    write_tickets(root / "test.csv", 100, 20)
    (root / "mine.jsonl").write_text(lines(*PROMPTS))
    (root / "unseen.jsonl").write_text(lines(*UNSEEN))
    return trained(tiny_llama, root, "dataset.labels=from_gold").folder


def test_a_classification_from_csv(classified, capsys):
    results = read_results(classified)
    matrix = read_matrix(classified / "matrix.parquet")
    assert results.chance == pytest.approx(1 / 3) and matrix.correct.shape == (2, 12)
    assert results.scoring.normalise == "byte"  # a longer label must not lose by its length
    about = read_metadata(classified / "adapter")["dataset"]
    assert (about["gold"], about["labels"]) == ("label", ["other", "refund", "shipping"])
    card = (classified / "adapter" / "README.md").read_text()
    assert "answers with one of these labels: `other`, `refund`, `shipping`" in " ".join(card.split())
    page = (classified / "report.html").read_text()
    assert "summed over its tokens; the answer is the option with the highest for each byte." in page
    assert "Ticket 1" in page and "<h2>By label</h2>" in page
    assert list(results.labels) == ["other", "refund", "shipping"] and sum(one.rows for one in results.labels.values()) == 12
    print_run("paft", results, classified / "results.json")
    said = " ".join(capsys.readouterr().out.split())
    assert "Answers by label: other " in said and "Right by label: " in said
    shown = repr(paft.compare(results, results))
    assert "answers by label" in shown and "shipping " in shown


def test_labels_of_the_training_are_those_of_an_evaluation(classified, tmp_path):
    """Also where the new rows hold fewer, or none."""
    write_tickets(tmp_path / "new.csv", 200, 2)
    results = evaluated(tmp_path, f"adapter={classified / 'adapter'}", f"dataset.path={tmp_path / 'new.csv'}")
    assert set(read_matrix(results.folder / "matrix.parquet").n_choices) == {3}
    (tmp_path / "bare.csv").write_text('ticket,id\n"Ticket 7, ""x""",007\nTicket 8,008\n')
    asked = [f"adapter={classified / 'adapter'}", f"dataset.path={tmp_path / 'bare.csv'}", f"output={tmp_path / 'out.jsonl'}"]
    evaluated(tmp_path, *asked)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["ticket"], row["id"]) for row in found] == [('Ticket 7, "x"', "007"), ("Ticket 8", "008")]
    assert all(row["prediction"] == row["prediction_text"] in LABELS for row in found)


def test_labels_may_be_written_by_the_model(classified, tmp_path):
    """Labels are texts that a trained model can write, shown or not."""
    asked = [f"adapter={classified / 'adapter'}", "scoring=generate", "max_new_tokens=4", "eval_examples=4"]
    results = evaluated(tmp_path, *asked)
    assert results.scoring.scoring == "generate" and results.robustness.n_examples == 4


def test_labels_with_letters(classified, tiny_llama, tmp_path):
    for split, first in (("train", 0), ("test", 100)):
        write_tickets(tmp_path / f"{split}.csv", first, 30)
    (tmp_path / "mine.jsonl").write_text(lines({"text": "{ticket}\nA. {A}\nB. {B}\nC. {C}\nLetter:"}))
    (tmp_path / "unseen.jsonl").write_text(lines({"text": "A: {A}, B: {B}, C: {C}. Which is right for this: {ticket}"}))
    labels = f"dataset.labels=[{','.join(LABELS)}]"
    results = trained(tiny_llama, tmp_path, labels, "dataset.answer=letter")
    assert results.scoring.normalise == "sum" and results.chance == pytest.approx(1 / 3)


def test_rows_and_labels_in_python(tiny_llama, tmp_path):
    frame = pd.DataFrame({"ticket": [f"Ticket {i}" for i in range(40)], "label": [LABELS[i % 3] for i in range(40)]})
    settings = {"model": {"path": str(tiny_llama), "dtype": "fp32"}, "output_root": str(tmp_path), "eval_examples": 6}
    settings |= {"trainer": {"accelerator": "cpu", "progress": False}}
    frame.to_parquet(tmp_path / "rows.parquet")
    for rows in (frame, tmp_path / "rows.parquet"):
        results = paft.evaluate(rows=rows, prompts=["Classify: {ticket}"], labels=LABELS, **settings)
        assert results.chance == pytest.approx(1 / 3) and results.robustness.n_examples == 6
    lists = [{"q": f"{i}?", "choices": ["x", "y", "z"][: 2 + i % 2], "answer": i % 2} for i in range(9)]
    results = paft.evaluate(rows=lists, prompts=["{q} A. {A} B. {B} Answer:"], choices="choices", gold="answer", **settings)
    assert 1 / 3 < results.chance < 1 / 2


# Choices that differ in number.


def test_rows_of_unequal_numbers_of_choices_are_scored_as_each_would_be_among_its_equals(tiny_llama, tmp_path):
    by_number = {
        n: "{q}\n" + "\n".join(f"{c}. {{{c}}}" for c in "ABCDE"[:n]) + f"\nOne of A-{'ABCDE'[n - 1]}:" for n in (3, 4, 5)
    }
    for answer in ("letter", "text"):
        model, encoder, _, _ = setting_of(tiny_llama, answer)
        examples = [_uneven(i) for i in range(12)]
        pools = {n: PromptPool("p", (PromptTemplate(text, "0"),), answer, "shown") for n, text in by_number.items()}
        mixed = MatrixStore(tmp_path / f"mixed-{answer}", {})
        matrix = score(Likelihood(model, encoder), encoder, pools[4], examples, batch_tokens=700, store=mixed)
        rows = {row["example_id"]: row for row in read_cells(mixed.path).to_pylist()}
        for n, pool in pools.items():
            some = [example for example in examples if len(example.choices) == n]
            store = MatrixStore(tmp_path / f"{answer}-{n}", {})
            score(Likelihood(model, encoder), encoder, pool, some, batch_tokens=700, store=store)
            for alone in read_cells(store.path).to_pylist():
                row = rows[alone["example_id"]]
                assert row["n_choices"] == len(row["log_probs"]) == n
                assert row["log_probs"] == pytest.approx(alone["log_probs"], abs=1e-4)
                assert (row["predicted"], row["correct"]) == (alone["predicted"], alone["correct"])
        assert matrix.chance == pytest.approx(np.mean([1 / len(example.choices) for example in examples]))


def _uneven(i: int) -> Example:
    n = 3 + i % 3
    options = {c: f"{i} {c.lower() * 3}" for c in "ABCDE"[:n]}
    choices = tuple(options.values())
    return Example(str(i), {"q": f"Question {i}?", **options}, choices, i % n, choices[i % n], str(i), "all", choices_vary=True)


def _arc(i: int, n: int) -> dict[str, object]:
    """Return a row in the form of ARC, whose labels are numbers here."""
    return {"q": f"Question {i}?", "choices": {"text": [f"{i}{c}" for c in "wxyz"[:n]], "label": list("1234"[:n])}}


def test_a_run_on_rows_that_differ_in_their_number_of_choices(tiny_llama, tmp_path):
    for split, first in (("train", 0), ("test", 100)):
        rows = [_arc(i, 3 + i % 2) | {"answerKey": "123"[i % 3]} for i in range(first, first + 30)]
        (tmp_path / f"{split}.jsonl").write_text(lines(*rows))
    (tmp_path / "mine.jsonl").write_text(lines({"text": "{q}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nLetter:"}))
    (tmp_path / "unseen.jsonl").write_text(lines({"text": "Choose from (A) {A} (B) {B}. The question was: {q}"}))
    results = trained(tiny_llama, tmp_path, "sampler=mutated")
    matrix = read_matrix(results.folder / "matrix.parquet")
    assert set(matrix.n_choices) == {3, 4} and results.chance == pytest.approx(np.mean([1 / n for n in matrix.n_choices]))
    assert results.sensitivity is None  # of one prompt
    bare = {"q": "New?", "choices": {"text": ["a", "b", "c", "d", "e"], "label": list("PQRST")}}
    (tmp_path / "rows.jsonl").write_text(lines(bare))
    output = tmp_path / "out.jsonl"
    evaluated(tmp_path, f"adapter={results.folder / 'adapter'}", f"dataset.path={tmp_path / 'rows.jsonl'}", f"output={output}")
    found = json.loads(output.read_text())
    assert found["choices"] == bare["choices"] and found["prediction_text"] == "abcde"["PQRST".index(found["prediction"])]


# Shots.


def test_shots_are_the_same_in_a_run_and_in_its_evaluation(tiny_llama, tmp_path, capsys):
    for split, first in (("train", 0), ("test", 100)):
        (tmp_path / f"{split}.jsonl").write_text(lines(*map(question, range(first, first + 30))))
    (tmp_path / "mine.jsonl").write_text(lines({"text": "{question} A: {A} B: {B}\nAnswer:"}))
    (tmp_path / "unseen.jsonl").write_text(lines({"text": "Which is right, {A} (A) or {B} (B)? {question}"}))
    run = trained(tiny_llama, tmp_path, "dataset.shots=2")
    assert "shots: 2 training rows with their answers before each row" in capsys.readouterr().out
    shown = (run.folder / "report.html").read_text(encoding="utf-8").split('class="rendering"')[1:]
    texts = [each.split("</pre>")[0] for each in shown]
    assert texts[0].count("Answer:") == 3 and texts[-1].count("Which is right") == 3  # in training, and in the test
    same = ["trainer.micro_batch_tokens=2048", "eval_examples=12"]
    again = evaluated(tmp_path, f"adapter={run.folder / 'adapter'}", *same)
    assert read_cells(again.folder / "matrix.parquet").equals(read_cells(run.folder / "matrix.parquet"))
    zero = evaluated(tmp_path, f"adapter={run.folder / 'adapter'}", "dataset.shots=0", *same)
    cells = [read_cells(results.folder / "matrix.parquet", ["log_probs"]) for results in (again, zero)]
    assert zero.folder != again.folder and not cells[0].equals(cells[1])
    rows = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(rows[1:] + rows[:1]))  # other shots: another evaluation
    moved = evaluated(tmp_path, f"adapter={run.folder / 'adapter'}", *same)
    assert moved.folder != again.folder
