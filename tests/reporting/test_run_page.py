"""What people look at: the page of a run, its tables, the CSV, the figures. Numbers and structure, not sentences."""

import csv
import io
import os
import re
import tempfile
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.config.schema import DatasetConfig
from paft.data.tasks.base import Example
from paft.evaluation.disagreement import Answers, answers_of
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import ScoreMatrix, read_matrix
from paft.evaluation.metrics import metric_of
from paft.evaluation.robustness import Con, Consensus, Uncertainty
from paft.evaluation.statistics import Estimate
from paft.evaluation.store import SCHEMA, VERSION
from paft.evaluation.tail import by_family
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.figure import save_distribution, save_overlay
from paft.reporting.renderings import Reader, Rendering
from paft.reporting.results import (
    AdversarialPrompts,
    BaseModelRecord,
    Device,
    ExtraMeasures,
    Fingerprints,
    GitState,
    Results,
    read_results,
)
from paft.reporting.run_files import per_prompt_csv, save_run
from paft.reporting.run_page import write_run_page
from paft.reporting.run_tables import choose_examples, family_tables, prompt_rows, split_rows, worst_renderings
from paft.reporting.summary import describe_pool, summarise
from paft.reporting.table import certainty, print_run, remarks
from tests.conftest import compose_evaluation

SNAPSHOT = Path(__file__).with_name("run_page.txt")
NASTY = '<script>alert(1)</script> & " onload="alert(2)" {question} A {A} B {B}'
DIFFERENCE = Estimate(0.123, 0.045, 0.2)
DATASET = DatasetConfig(name="jsonl", answer="text", metric="exact")
GIT, DEVICE = GitState(commit=None, dirty=None), Device(type="cpu", name="cpu")


def scored(folder: Path, generated: bool = False) -> tuple[Scored, PromptPool, list[Example]]:
    """Twelve prompts x twelve examples; prompt i answers i of them rightly, with two ties and, generated, an empty text."""
    examples = [
        Example(f"e{i}", {"question": f"<b>{i}</b>?", "A": "yes", "B": "no"}, ("yes", "no"), 0, "yes", f"g{i}", "all")
        for i in range(12)
    ]
    templates = tuple(PromptTemplate(NASTY if i == 1 else f"{i} {{question}} {{A}} {{B}}", f"p{i:02}") for i in range(12))
    cells = []
    for p, template in enumerate(templates):
        for e, example in enumerate(examples):
            predicted = -1 if generated and p == 0 and e == 0 else int(e >= p)
            cells.append({
                "prompt": p, "example": e, "prompt_id": template.id, "prompt_digest": f"{p}", "example_id": example.id,
                "example_digest": f"{e}", "group": example.group, "part": "all", "n_choices": 2, "gold": 0,
                "log_probs": [] if generated else [-1.0, -0.5], "predicted": predicted, "correct": predicted == 0,
                "tied": p == 2 and e < 2, "output": "B, no" if generated else None, "output_tokens": 3 * generated,
                "truncated": p == 3,
            })  # fmt: skip
    path = folder / "matrix.parquet"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(cells, SCHEMA.with_metadata({"version": str(VERSION)})), path)
    os.utime(path, (1_700_000_000, 1_700_000_000))  # when the run was
    settings = {"scoring": "generate" if generated else "likelihood", "merged": True, "prompts_with_split_letters": 0}
    seconds = {template.id: 1.5 for template in templates}
    return Scored(read_matrix(path), path, seconds, settings), PromptPool("p", templates, "letter", "shown"), examples


def results_of(found: Scored, pool: PromptPool, **changes: Any) -> Results:
    """What a run with this matrix says of itself, with Con."""
    summary = summarise(found.matrix, 0.9, found.settings)
    where = {"git": GIT, "device": DEVICE}
    con = AdversarialPrompts(
        mean=0.5, worst=0.25, parts={"all": Con(0.5, 0.25)}, pool=describe_pool(pool), scoring=summary.scoring, **where
    )
    base = BaseModelRecord(hub_commit=None, sample="s")
    record = dict(summary) | {
        "kind": "evaluation", "run": "a <run>", "extra_measures": ExtraMeasures(adversarial=con), "wall_s": 1.0,
        "peak_memory_bytes": 2**30, "versions": {}, "dtype": "float32", **where,
        "fingerprints": Fingerprints(data={}, pools={"test": describe_pool(pool)}, base_model=base),
        "config": compose_evaluation("dataset=story_facts", "model=smollm2_135m").model_dump(),
    }  # fmt: skip
    return Results(**record | changes)


def written(folder: Path, generated: bool = False) -> tuple[Results, str]:
    """Save a run; its results, and its page."""
    found, pool, examples = scored(folder, generated)
    results = results_of(found, pool)
    save_run(folder, found, results, pool, examples, "paft", None)
    return results, (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Results, str]]:
    """Two runs that are only looked at, as `written` returns them, by whether their answers were generated."""
    return {generated: written(tmp_path_factory.mktemp("saved"), generated) for generated in (False, True)}


class Page(HTMLParser):
    """Checks that tags close in order; collects the links and the text that is shown."""

    VOID = {"meta"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.lines: list[str] = []
        self.feed(text)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.lines += filter(None, map(str.strip, data.splitlines()))

    def handle_starttag(self, tag, attrs):
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")], "a script in an attribute"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def lines_of(page: str) -> list[str]:
    """The text of a page, without the config, which any new setting changes."""
    lines = Page(page).lines
    return lines[: lines.index("Config")]


def heads(page: str) -> list[str]:
    """The names of the columns of the table of prompts."""
    table = page[page.index('id="prompts"') :].split("</thead>")[0]
    return re.findall(r"<button>(?:<abbr[^>]*>)?([^<]+)", table)


def worst_of(found: Scored, pool: PromptPool, examples: list[Example]) -> list[tuple[Any, list[Rendering]]]:
    """The worst prompts with their renderings, as a server was sent them."""
    rows = prompt_rows(found, Answers(found.matrix.predicted), pool, labelled=True)
    return worst_renderings(found, rows, 1 - found.matrix.correct.astype(float), pool, examples, Reader(None))


class Matrix(ScoreMatrix):
    """What the page reads of a score matrix."""

    def __init__(self, n_choices: tuple[int, ...], correct: Any, predicted: Any = None) -> None:
        rest = {"groups": tuple(map(str, n_choices)), "predicted": correct if predicted is None else predicted}
        rest |= {"n_choices": n_choices, "correct": correct, "output_tokens": np.zeros(correct.shape, np.int32)}
        for name, value in rest.items():
            object.__setattr__(self, name, value)


@pytest.mark.parametrize("generated", [False, True])
def test_the_report_is_one_well_formed_file_that_needs_nothing_else(saved, generated):
    _, page = saved[generated]
    parsed = Page(page)
    assert not parsed.open and parsed.links and {link.removeprefix("#") for link in parsed.links} <= {*parsed.ids}
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page


def test_the_page_reads_as_it_did(saved):
    """After a change that is wanted: PYTHONPATH=. python tests/reporting/test_run_page.py."""
    assert lines_of(saved[False][1]) == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_prompts_and_rows_are_text_not_markup(saved):
    _, page = saved[False]
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page and "&lt;b&gt;1&lt;/b&gt;" in page
    assert "a &lt;run&gt;" in page


def test_a_template_that_begins_with_a_line_break_is_shown_whole(saved):
    """A browser drops the first line break after <pre>."""
    _, page = saved[False]
    bare = re.findall(r"<pre[^>]*>(?!\n)(.)", page)
    assert len(re.findall(r"<pre[^>]*>\n", page)) > 12 and bare == ["{", "{"]  # the two records


def test_the_tables_can_be_sorted_by_numbers(saved):
    for generated, columns in ((False, 2), (True, 4)):
        _, page = saved[generated]
        table = page[page.index('id="prompts"') :].split("</table>")[0]
        values = re.findall(r'<td class="number"[^>]* data-value="([^"]+)">', table)
        assert len(values) == 12 * columns and all(float(value) >= 0 for value in values)


def test_columns_that_would_be_empty_are_not_there(saved, tmp_path):
    found, pool, examples = scored(tmp_path)
    assert "wording" not in heads(saved[False][1])
    named = tuple(replace(t, wording=f"w{i % 2}", layout=f"l{i % 3}") for i, t in enumerate(pool.templates))
    save_run(tmp_path, found, results_of(found, pool), replace(pool, templates=named), examples, "paft", None)
    assert {"wording", "layout"} <= {*heads((tmp_path / "report.html").read_text())}


def test_families_stand_worst_first_with_intervals_where_they_can_be_promised(tmp_path):
    found, pool, examples = scored(tmp_path)
    named = [replace(t, layout="odd" if i in (3, 5) else "even", wording=t.id) for i, t in enumerate(pool.templates)]
    pool, accuracy = replace(pool, templates=tuple(named)), found.matrix.correct.mean(axis=1)
    families = {key: dict(by_family(accuracy, [getattr(t, key) for t in named])) for key in ("wording", "layout")}
    results = results_of(found, pool).model_copy(update={"families": families})
    ((key, rows, n),) = family_tables(results, found.matrix, pool)  # each wording is a single prompt
    assert (key, n, [(row.name, row.prompts) for row in rows]) == ("layout", 2, [("odd", 2), ("even", 10)])
    assert rows[0].low is None and rows[1].low < rows[1].mean < rows[1].high
    save_run(tmp_path, found, results, pool, examples, "paft", None)
    assert "By layout" in (tmp_path / "report.html").read_text()


def test_each_bad_prompt_has_examples_of_its_own():
    wrong = np.array([[float(e >= p) for e in range(12)] for p in range(12)])
    chosen = choose_examples(wrong, [0, 1, 2, 11], 3)
    assert chosen == {0: [0, 1, 2], 1: [3, 4, 5], 2: [6, 7, 8], 11: [11]}
    assert choose_examples(np.zeros((2, 3)), [0, 1], 3) == {}
    assert choose_examples(np.array([[0.2, 0.0, 0.9], [0.0, 0.5, 0.5]]), [0, 1], 2) == {0: [2, 0], 1: [1, 2]}  # graded


def test_the_worst_renderings_are_shown_with_the_answers(tmp_path):
    found, pool, examples = scored(tmp_path)
    worst = worst_of(found, pool, examples)
    assert [row.place for row, _ in worst] == [0, 1, 2] and all(len(shown) == 3 for _, shown in worst)
    first = worst[0][1][0]
    assert [piece.text for piece in first.pieces] == [pool.templates[0].render(examples[0].fields), "B"]
    assert first.wrong and not first.nothing
    assert [option[:2] for option in first.options] == [("A", "yes"), ("B", "no")]
    assert [option[3:] for option in first.options] == [(True, False), (False, True)]  # right, answered
    assert [option.score for option in first.options] == pytest.approx([1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))])
    as_text = worst_of(found, replace(pool, answer="text"), examples)[0][1][0]
    assert [(option.mark, option.score) for option in as_text.options] == [("•", -1.0), ("•", -0.5)]
    found, pool, examples = scored(tmp_path, generated=True)
    written_out = worst_of(found, pool, examples)[0][1][0]
    assert written_out.nothing and written_out.pieces[-1].text == "B, no" and written_out.options[0].score is None


def test_rows_that_split_the_prompts_come_first_with_the_prompts_behind_each_answer(tmp_path):
    found, pool, examples = scored(tmp_path)
    rows = split_rows(Answers(found.matrix.predicted), pool, examples, letters=True)
    assert rows[0].id == "e5"  # six prompts say B, six A
    assert [(vote.mark, vote.prompts, vote.right) for vote in rows[0].votes] == [("A", 6, True), ("B", 6, False)]
    assert rows[0].votes[1].named == [0, 1, 2, 3, 4, 5] and dict(rows[0].fields) == {"question": "<b>5</b>?"}
    assert len(rows) == 8 and rows[-1].votes[0].prompts > 6


def test_of_many_different_answers_the_most_frequent_are_shown():
    texts = tuple(f"text {i}" for i in range(50))
    codes = np.array([[0], [0], *([i] for i in range(50)), [-1]], np.int32)
    pool = PromptPool("p", tuple(PromptTemplate(f"{i} {{q}}", f"p{i}") for i in range(53)), "text", "shown")
    (row,) = split_rows(Answers(codes, (texts,)), pool, [Example("e", {"q": "?"}, (), -1, "yes", "e", "all")], letters=False)
    assert (row.votes[0].text, row.votes[0].prompts, row.right) == ("text 0", 3, "yes")
    assert len(row.votes) == 6 and row.others == 45 and {vote.text for vote in row.votes} >= {"no answer"}


@dataclass(frozen=True)
class Other:
    """A run that another stands beside."""

    robustness: Any
    difference: Estimate


class Judged(Results):
    """Results that stand beside other runs, with a verdict."""

    verdict: str | None = None
    beside: dict[str, Any] = {}


def test_a_verdict_stands_first_and_other_runs_beside(saved, tmp_path):
    found, pool, examples = scored(tmp_path)
    plain = results_of(found, pool)
    sure, unsure = (Other(plain.robustness, difference) for difference in (DIFFERENCE, Estimate(-0.01)))
    judged = Judged(**dict(plain) | {"verdict": "No better than <the base>.", "beside": {"base": sure, "user": unsure}})
    save_run(tmp_path, found, judged, pool, examples, "paft", None)
    page = (tmp_path / "report.html").read_text()
    lines = Page(page).lines
    assert "No better than &lt;the base&gt;." in page and lines.index("No better than <the base>.") < lines.index("model")
    assert "+12.3" in lines and "[+4.5, +20.0]" in lines and "-1.0" in lines
    assert lines.index("the base model") < lines.index("one fixed prompt") < lines.index("this run")
    assert "Beside it" not in saved[False][1]


def test_rows_without_labels_have_a_report(tmp_path):
    found, pool, examples = scored(tmp_path)
    examples = [replace(example, gold=-1, answer="") for example in examples]
    unlabelled = {"robustness": None, "uncertainty": None, "chance": None, "tail": None}
    results = results_of(found, pool, consensus=Consensus(0.75, None), **unlabelled)
    save_run(tmp_path, found, results, pool, examples, "paft", None)
    page = (tmp_path / "report.html").read_text()
    parsed = Page(page)
    assert not parsed.open and "accuracy" not in heads(page) and "as the majority" in heads(page)
    assert not (tmp_path / "distribution.png").exists() and 'class="case wrong"' not in page
    rows = list(csv.DictReader(io.StringIO((tmp_path / "per_prompt.csv").read_text())))
    assert [*rows[0]] == ["prompt_id", "as_majority", "n", "wording", "layout", "text"]
    assert float(rows[6]["as_majority"]) == 1 and float(rows[0]["as_majority"]) == 0.5


def test_free_form_answers_that_count_as_equal_are_one_answer(tmp_path):
    outputs = [["Yes", "4"], [" yes ", "5 or 4"], ["no", ""]]
    cells = [{"prompt": p, "example": e, "output": outputs[p][e]} for p in range(3) for e in range(2)]
    pq.write_table(pa.Table.from_pylist(cells, SCHEMA.with_metadata({"version": str(VERSION)})), tmp_path / "m.parquet")
    matrix = Matrix((0, 0), np.zeros((3, 2), bool))
    exact = answers_of(matrix, tmp_path / "m.parquet", metric_of(DATASET))
    assert exact.codes.tolist() == [[0, 0], [0, 1], [1, -1]] and exact.texts == (("Yes", "no"), ("4", "5 or 4"))
    numbers = answers_of(matrix, tmp_path / "m.parquet", metric_of(DATASET.model_copy(update={"metric": "last_number"})))
    assert numbers.codes.tolist() == [[-1, 0], [-1, 0], [-1, -1]]
    assert numbers.majority.tolist() == [-1, 0] and numbers.with_majority.tolist() == [0.5, 0.5, 0]
    assert numbers.entropy == pytest.approx([0, 0.9183], abs=1e-4)


def test_a_run_without_a_mistake_has_a_report(tmp_path):
    found, pool, examples = scored(tmp_path)
    right = replace(found, matrix=found.matrix.select([11], [0]))
    assert worst_of(right, replace(pool, templates=pool.templates[11:]), examples[:1]) == []


def test_sentences_end_once_whatever_the_script(tmp_path):
    found, pool, examples = scored(tmp_path)
    examples = [replace(e, choices=("是。", "否。"), fields=e.fields | {"A": "是。", "B": "否。"}) for e in examples]
    save_run(tmp_path, found, results_of(found, pool), pool, examples, "paft", None)
    text = "\n".join(Page((tmp_path / "report.html").read_text()).lines)
    assert "否。" in text and "。." not in text and ".." not in text


def test_the_page_stays_small(tmp_path):
    """Of 10,000 long prompts, and of 10,000 long rows."""
    for n_prompts, n_rows in ((10_000, 2), (2, 10_000)):
        folder = tmp_path / str(n_prompts)
        folder.mkdir()
        long = "x" * 5_000
        templates = tuple(PromptTemplate(f"{i} {long} {{question}}", f"p{i}", "", f"w{i}", f"l{i}") for i in range(n_prompts))
        fields = {"question": "y" * 50_000, "A": "yes", "B": "no"}
        examples = [Example(f"e{i}", fields, ("yes", "no"), 0, "yes", f"g{i}", "all") for i in range(n_rows)]
        n = n_prompts * n_rows
        columns = {
            "prompt": np.repeat(np.arange(n_prompts), n_rows), "example": np.tile(np.arange(n_rows), n_prompts),
            "log_probs": [[-1.0, -0.5]] * n, "gold": np.zeros(n, int), "predicted": np.arange(n) % 2,
            "correct": np.arange(n) % 2 == 0,
        }  # fmt: skip
        table = pa.Table.from_pydict({name: columns.get(name, [None] * n) for name in SCHEMA.names}, schema=SCHEMA)
        pq.write_table(table.replace_schema_metadata({"version": str(VERSION)}), folder / "matrix.parquet")
        shape = (n_prompts, n_rows)
        matrix = Matrix((2,) * n_rows, columns["correct"].reshape(shape), columns["predicted"].reshape(shape))
        pool = PromptPool("p", templates, "letter", "shown", tuple("a note" for _ in range(10_000)))
        small, its_pool, _ = scored(tmp_path / "small")
        results = results_of(small, its_pool)
        big = replace(small, matrix=matrix, path=folder / "matrix.parquet", seconds={})
        write_run_page(folder / "report.html", results, big, Answers(matrix.predicted), pool, examples, None)
        assert 50_000 < (folder / "report.html").stat().st_size < 3_000_000


def test_what_is_saved_is_read_back(tmp_path):
    results, _ = written(tmp_path)
    assert read_results(tmp_path) == results and results.folder == tmp_path


def test_the_terminal_shows_the_numbers_and_all_that_was_counted(saved, capsys):
    results, _ = saved[True]
    assert (results.ties, results.unanswered, results.test_prompts_truncated) == (2, 1, 12)
    numbers = [re.findall(r"\d+(?:\.\d+)?", remark) for remark in remarks(results)]
    assert numbers[1:] == [["50.0", "25.0"], ["2"], ["1"], ["12"]]  # Con, ties, unanswered, cut off
    print_run("paft", results, results.folder / "results.json")
    assert re.search(r"p00\s+│\s+0\.0\s+│\s+p11\s+│\s+91\.7", capsys.readouterr().out)


def test_an_interval_that_cannot_be_promised_is_not_shown():
    shown = certainty(Uncertainty(Estimate(0.5, 0.4, 0.6), Estimate(0.1), 0.2))
    assert "50.0" in shown and "[40.0, 60.0]" in shown and "10.0" in shown and shown.count("[") == 1
    assert "[" not in certainty(None)


def test_tokens_and_seconds_stand_beside_the_accuracy_where_text_was_generated(tmp_path):
    found, pool, _ = scored(tmp_path, generated=True)
    rows = list(csv.DictReader(io.StringIO(per_prompt_csv(found.matrix, pool, found.seconds))))
    cost = {"output_tokens": "3.00", "seconds": "1.50"}
    texts = {"wording": "", "layout": "", "text": "0 {question} {A} {B}"}
    assert rows[0] == {"prompt_id": "p00", "accuracy": "0.000000", "n": "12"} | cost | texts
    assert rows[1]["text"] == NASTY
    assert per_prompt_csv(found.matrix, pool).splitlines()[0] == "prompt_id,accuracy,n,wording,layout,text"


def test_figures_are_drawn_also_where_no_density_exists(tmp_path):
    equal, spread = np.full(12, 0.75), np.linspace(0.1, 0.95, 12)
    save_overlay(tmp_path / "overlay.png", {"equal": equal, "spread": spread, "one": np.array([0.5])}, 0.25, 0.9)
    save_distribution(tmp_path / "distribution.png", {"equal": equal}, 0.25)
    assert all((tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in ("overlay", "distribution"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        SNAPSHOT.write_text("\n".join(lines_of(written(Path(scratch))[1])) + "\n", encoding="utf-8")
