"""Free-form answers with every metric, from config to files, on a tiny model; and what reads their scores."""

import csv
import json
import re
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from paft.config.compose import from_dict
from paft.config.schema import FailUnderConfig
from paft.data.inputs import load_inputs
from paft.evaluation.answers import token_f1
from paft.evaluation.disagreement import answers_of
from paft.evaluation.evaluator import Scored
from paft.evaluation.generation import Generation
from paft.evaluation.matrix import read_matrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.store import GRADED, SCHEMA, read_cells
from paft.jobs.evaluate import run_evaluation
from paft.jobs.preflight import check_evaluation
from paft.jobs.rerun import repeated
from paft.jobs.train import run_training
from paft.reporting.bounds import check_bounds
from paft.reporting.compare import compare_sides, notes
from paft.reporting.renderings import Reader
from paft.reporting.results import Results, read_results
from paft.reporting.run_tables import prompt_rows, worst_renderings
from paft.reporting.sweep import report
from paft.runtime.errors import BelowBoundError, InputError
from tests.conftest import compose_config, compose_evaluation
from tests.reliability.bad_inputs.files import lines

LENGTH = "def score(output, answer, row):\n    return min(1, len(output) / 4000)\n"
RAISES = "def score(output, answer, row):\n    return 1 if output[:4] in ('', 'the ') else 1 / 0\n"  # on a model's texts alone
SHAPE = ["model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false"]


def count(n: int) -> dict[str, object]:
    return {"q": f"What comes after {n}?", "a": [f"the number {n + 1}", f"{n + 1}"]}


@pytest.fixture
def free(tmp_path, tiny_llama, monkeypatch) -> Path:
    """A folder with rows, prompts and a metric of one's own, which is the working directory."""
    for name, first in (("train", 0), ("test", 100)):
        (tmp_path / f"{name}.jsonl").write_text(lines(*map(count, range(first, first + 30))))
    (tmp_path / "mine.jsonl").write_text(lines({"text": "{q} Say:"}, {"text": "Question: {q}\nAnswer:"}))
    (tmp_path / "unseen.jsonl").write_text(lines(*({"text": f"{i} {{q}} It is"} for i in ("Well,", "Now then,", "Listen!"))))
    (tmp_path / "m.py").write_text(LENGTH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def data(metric: str, *more: str) -> list[str]:
    return [
        "dataset=jsonl", "dataset.path=.", "dataset.gold=a", "dataset.answer=text", f"dataset.metric={metric}",
        "prompts.test=unseen.jsonl", "output_root=runs", *SHAPE, *more,
    ]  # fmt: skip


def evaluated(model: Path, metric: str, *more: str) -> Results:
    base = ["model=smollm2_135m", f"model.path={model}", "max_new_tokens=6", "eval_examples=8"]
    return run_evaluation(compose_evaluation(*data(metric, *base, *more)))


def trained(model: Path, metric: str, *more: str) -> Results:
    small = [f"model.path={model}", "prompts.train=mine.jsonl", "T=1", "train_examples=16", "eval_examples=4"]
    return run_training(compose_config(*data(metric, *small, "validation.prompts=2", "validation.examples=2", *more)))


@pytest.fixture
def no_text_is_written(monkeypatch):
    """From here on a model that writes fails the test."""

    def forbid() -> None:
        monkeypatch.setattr(Generation, "write", lambda *_: pytest.fail("texts were written again"))

    return forbid


def test_f1_is_stored_reported_and_named(free, tiny_llama, capsys):
    results = evaluated(tiny_llama, "f1", "dataset.threshold=0.5")
    cells, matrix = read_cells(results.folder / "matrix.parquet"), read_matrix(results.folder / "matrix.parquet")
    rows = {f"jsonl-test-{i}": count(100 + i) for i in range(30)}
    for cell in cells.to_pylist():
        assert cell["correct"] == max(token_f1(cell["output"], str(answer)) for answer in rows[cell["example_id"]]["a"])
    assert cells.schema.equals(GRADED) or cells.schema.field("correct").type == GRADED.field("correct").type
    assert results.robustness.mean == pytest.approx(matrix.correct.mean()) and results.robustness.n_prompts == 3
    assert results.scoring.metric.model_dump() == {"name": "f1", "pattern": None, "source": None}
    assert results.scoring.called == "F1" and results.sensitivity.pss is not None and results.consensus is None
    with (results.folder / "per_prompt.csv").open() as file:
        found = {row["prompt_id"]: float(row["F1"]) for row in csv.DictReader(file)}
    assert list(found.values()) == pytest.approx(matrix.correct.mean(axis=1), abs=1e-6)
    assert results.per_prompt()["F1"].tolist() == pytest.approx(sorted(matrix.correct.mean(axis=1)))
    said, page = " ".join(capsys.readouterr().out.split()), (results.folder / "report.html").read_text()
    shown = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", "", page, flags=re.DOTALL)
    for text in (said, shown):
        assert "F1 in percent, over 3 test prompts x 8 test examples. Top: prompts at or above 50." in text
        assert "chance" not in text.split("Where the numbers come from")[0].replace("by chance", "")
    check_bounds(FailUnderConfig(worst=0), results)
    with pytest.raises(BelowBoundError, match=r"^worst .* is below fail_under\.worst=100; the worst prompt is "):
        check_bounds(FailUnderConfig(worst=100), results)
    assert "<button>F1</button>" in page and "F1 on each test prompt: a dot a prompt" in shown
    assert "<dt>F1</dt><dd>0.0</dd>" in page and "<dt>right</dt><dd>the number 1" in page


@pytest.mark.parametrize(("pattern", "unread"), [("^(.)", 0), ("^([a-z])", 1 / 2)])
def test_a_pattern_says_right_or_wrong_over_several_lines(pattern, unread, free, tiny_llama):
    texts = ("Well, {q} It is", "Listen! {q} That is", "{q} Tell me:", "Now then, {q} Yes:")  # the model repeats the last of it
    (free / "unseen.jsonl").write_text(lines(*({"text": text} for text in texts)))
    results = evaluated(tiny_llama, "regex", f"dataset.pattern='{pattern}'")
    cells = read_cells(results.folder / "matrix.parquet")
    assert results.scoring.stop_at_line_break is False and results.scoring.called == "accuracy"
    assert results.scoring.metric.pattern == pattern and cells.schema.field("correct").type == SCHEMA.field("correct").type
    found = [re.search(pattern, text) for text in cells["output"].to_pylist()]
    answers = np.array(["" if match is None else match[1] for match in found]).reshape(4, 8)
    assert (answers == "").mean() == unread
    differ = [(one != other) | (one == "") for one, other in combinations(answers, 2)]  # no answer agrees with nothing
    assert 0 < results.sensitivity.flip_rate < 1 and results.sensitivity.flip_rate == pytest.approx(np.mean(differ))
    assert ("hold no answer" in " ".join(results.warnings)) == (unread > 0.1)


def test_a_function_of_ones_own_scores_and_is_recorded(free, tiny_llama, no_text_is_written, capsys):
    results = evaluated(tiny_llama, "m.py:score")
    cells = read_cells(results.folder / "matrix.parquet").to_pylist()
    assert all(cell["correct"] == min(1, len(cell["output"]) / 4000) for cell in cells)
    metric = results.scoring.metric
    assert (metric.name, len(metric.source)) == ("m.py:score", 16) and results.config["dataset"]["metric"] == "m.py:score"
    assert f"Answers are scored by m.py:score (SHA-256 {metric.source})." in " ".join(capsys.readouterr().out.split())
    no_text_is_written()
    assert evaluated(tiny_llama, "m.py:score") == results and "Finished already" in capsys.readouterr().out


def test_a_mistake_on_a_models_text_loses_none_of_them(free, tiny_llama, no_text_is_written):
    (free / "m.py").write_text(RAISES)
    with pytest.raises(InputError, match=r"m\.py:score raised ZeroDivisionError in line 2 \(.*\) for test\.jsonl, line \d"):
        evaluated(tiny_llama, "m.py:score")
    (folder,) = (free / "runs").iterdir()
    assert not (folder / "results.json").exists() and len(list(folder.glob(".matrix-*/*.parquet"))) >= 1
    no_text_is_written()
    for wrong, said in (("'1'", "returned '1' (str)"), ("float('nan')", "returned nan"), ("2", "returned 2 for")):
        (free / "m.py").write_text(RAISES.replace("1 / 0", wrong))
        with pytest.raises(InputError) as raised:
            evaluated(tiny_llama, "m.py:score")
        assert said in str(raised.value)
    (free / "m.py").write_text(LENGTH)
    results = evaluated(tiny_llama, "m.py:score")
    assert results.folder.resolve() == folder and 0 < results.robustness.mean <= 1 and not list(folder.glob(".matrix-*"))


def test_a_changed_function_scores_a_finished_run_anew(free, tiny_llama, no_text_is_written):
    before = evaluated(tiny_llama, "m.py:score")
    texts = read_cells(before.folder / "matrix.parquet", ["output"])
    no_text_is_written()
    (free / "m.py").write_text(RAISES)
    with pytest.raises(InputError, match="ZeroDivisionError"):
        evaluated(tiny_llama, "m.py:score")
    assert read_results(before.folder) == before, "a mistake leaves the results as they were"
    (free / "m.py").write_text(LENGTH.replace("/ 4000", "/ 8000"))
    after = evaluated(tiny_llama, "m.py:score")
    assert after.folder == before.folder and read_results(after.folder) == after
    assert after.scoring.metric.source != before.scoring.metric.source and after.robustness.mean < before.robustness.mean
    assert read_cells(after.folder / "matrix.parquet", ["output"]).equals(texts)


def test_a_changed_function_scores_the_base_model_anew(free, tiny_llama, no_text_is_written):
    before = trained(tiny_llama, "m.py:score", "method=base")
    no_text_is_written()
    (free / "m.py").write_text(LENGTH.replace("/ 4000", "/ 8000"))
    after = trained(tiny_llama, "m.py:score", "method=base")
    assert after.folder == before.folder and after.robustness.mean < before.robustness.mean


def test_a_function_trains_validates_and_tests(free, tiny_llama, no_text_is_written, monkeypatch):
    results = trained(tiny_llama, "m.py:score", "extra_measures=[generate]")
    assert (
        0 < results.training.best_validation_mean <= 1 and results.extra_measures.generate.scoring.metric.name == "m.py:score"
    )
    card = (results.folder / "adapter" / "README.md").read_text()
    assert "Score in percent, over 3 test prompts" in card and "metric_type: score" not in card.split("---")[2]
    no_text_is_written()
    (free / "m.py").write_text(LENGTH.replace("/ 4000", "/ 8000"))
    again = trained(tiny_llama, "m.py:score", "extra_measures=[generate]")
    assert again.folder == results.folder and again.robustness.mean < results.robustness.mean
    assert [line for line in again.warnings if line.startswith("The checkpoint was chosen by an earlier version")]
    assert again.training.updates == results.training.updates
    assert trained(tiny_llama, "m.py:score", "extra_measures=[generate]") == again, "finished"
    with pytest.raises(InputError, match=r"which runs only if you type it: dataset\.metric=m\.py:score\."):
        compose_evaluation(f"adapter={results.folder / 'adapter'}")
    config = compose_evaluation(f"adapter={results.folder / 'adapter'}", "dataset.metric=m.py:score")
    assert config.dataset.metric == "m.py:score" and check_evaluation(config).method == "paft"
    with pytest.raises(InputError, match=r"type it: \+\+dataset\.metric=m\.py:score\."):
        repeated(compose_config("rerun=x"), again, ["rerun=x"])
    typed = ["rerun=x", "++dataset.metric=m.py:score"]
    assert repeated(compose_config(*typed), again, typed).dataset.metric == "m.py:score"


def test_a_search_goes_by_the_metric(free, tiny_llama):
    results = trained(tiny_llama, "f1", "method=top_accuracy", "method.budget=4")
    assert [trial.prompt for trial in results.selection.trace] == ["prompt-001", "prompt-002"]
    assert all(0 <= trial.score <= 1 for trial in results.selection.trace) and results.scoring.called == "F1"


def test_an_adapters_pattern_is_left_out_with_another_metric(free, tiny_llama):
    results = trained(tiny_llama, "regex", "dataset.pattern='is (.*)'")
    adapter = f"adapter={results.folder / 'adapter'}"
    assert compose_evaluation(adapter).dataset.pattern == "is (.*)"
    assert compose_evaluation(adapter, "dataset.metric=f1").dataset.pattern is None
    again = compose_evaluation(adapter, "dataset.metric=regex", "dataset.pattern='it is (.*)'")
    assert again.dataset.pattern == "it is (.*)"


def test_compare_report_and_pages_of_scores(free, tiny_llama, tmp_path, capsys):
    many, base = trained(tiny_llama, "f1"), trained(tiny_llama, "f1", "method=base")
    compared = compare_sides([many.folder], [base.folder])
    matrices = [read_matrix(run.folder / "matrix.parquet") for run in (many, base)]
    assert compared.comparison.mean.value == pytest.approx(matrices[0].correct.mean() - matrices[1].correct.mean())
    assert "F1 in percent; in brackets" in notes(compared)[1]
    report([many.folder, base.folder], tmp_path / "report")
    page = (tmp_path / "report" / "README.md").read_text()
    assert "F1 in percent, over 3 unseen prompts x 4 test examples." in page and "chance" not in page
    other = evaluated(tiny_llama, "exact", "eval_examples=4")
    with pytest.raises(InputError, match=r"is scored by f1 and .* by exact, so"):
        compare_sides([many.folder], [other.folder])
    pool, rows = pool_and_rows(many)
    scored = Scored(matrices[0], many.folder / "matrix.parquet", {}, {})
    answers = answers_of(scored.matrix, scored.path, metric_of(from_dict(many.config).dataset))
    prompts = prompt_rows(scored, answers, pool, labelled=True)
    worst = worst_renderings(scored, prompts, 1 - scored.matrix.correct, pool, rows, Reader(None))
    found = [shown for _, shown in worst]
    assert found and "F1 " in (many.folder / "report.html").read_text(encoding="utf-8")
    assert all(one.score is not None and one.score < 1 and " or " in one.right for shown in found for one in shown)


def pool_and_rows(results: Results) -> tuple[object, object]:
    """The test prompts and rows of a run, as it read them."""
    inputs = load_inputs(from_dict(results.config))
    return inputs.test, inputs.examples.test


def test_predictions_are_the_text_that_most_prompts_write(free, tiny_llama):
    (free / "new.jsonl").write_text(lines(*({"q": f"What comes after {n}?"} for n in range(3))))
    for metric in ("f1", "m.py:score"):
        output = ["dataset.path=new.jsonl", "output=out.jsonl"]
        base = ["model=smollm2_135m", f"model.path={tiny_llama}", "max_new_tokens=6"]
        results = run_evaluation(compose_evaluation(*data(metric, *base, *output)))
        found = [json.loads(line) for line in (free / "out.jsonl").read_text().splitlines()]
        texts = np.array(read_cells(results.folder / "matrix.parquet", ["output"])["output"].to_pylist()).reshape(3, 3)
        assert all(row["prediction"] in [*texts[:, i], None] for i, row in enumerate(found)) and results.robustness is None
        assert all(row["prediction_agreement"] + 1e-3 >= 1 / 3 for row in found if row["prediction"] is not None)
