"""What people look at: the page of a run, its tables, the CSV, the figures. Numbers and structure, not sentences."""

import csv
import dataclasses
import io
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.data.tasks.base import Example
from paft.evaluation.evaluator import Scored
from paft.evaluation.matrix import read_matrix
from paft.evaluation.robustness import Con, Uncertainty
from paft.evaluation.statistics import Estimate
from paft.evaluation.store import SCHEMA, VERSION
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.figure import save_distribution, save_overlay
from paft.reporting.results import (
    AdversarialPrompts,
    BaseModelRecord,
    Device,
    ExtraMeasures,
    Fingerprints,
    GitState,
    Results,
    describe_pool,
    read_results,
    summarise,
)
from paft.reporting.run_files import per_prompt_csv, save_run
from paft.reporting.run_page import mistakes
from paft.reporting.table import certainty, print_run, remarks

SNAPSHOT = Path(__file__).with_name("run_page.txt")
NASTY = "<script>alert(1)</script> & {question} A {A} B {B}"
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
    pq.write_table(pa.Table.from_pylist(cells, SCHEMA.with_metadata({"version": str(VERSION)})), path)
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
        "peak_memory_bytes": 1, "fingerprints": Fingerprints(data={}, pools={}, base_model=base), "versions": {},
        "dtype": "float32", "config": {"K": 4}, **where,
    }  # fmt: skip
    return Results(**record | changes)


def written(folder: Path, generated: bool = False) -> tuple[Results, str]:
    """Save a run; its results, and its page."""
    found, pool, examples = scored(folder, generated)
    results = results_of(found, pool)
    save_run(folder, found, results, pool, examples, "paft")
    return results, (folder / "report.html").read_text()


class Page(HTMLParser):
    """Checks that tags close in order; collects the links and the text that is shown."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.lines: list[str] = []
        self.feed(text)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.lines += filter(None, map(str.strip, data.splitlines()))

    def handle_starttag(self, tag, attrs):
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("generated", [False, True])
def test_the_report_is_one_well_formed_file_that_needs_nothing_else(tmp_path, generated):
    _, page = written(tmp_path, generated)
    parsed = Page(page)
    assert not parsed.open and parsed.links and all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert "http://" not in page and "https://" not in page and "@import" not in page


def test_the_page_reads_as_it_did(tmp_path):
    """After a change that is wanted: PYTHONPATH=. python tests/reporting/test_run_page.py."""
    assert Page(written(tmp_path)[1]).lines == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_prompts_and_rows_are_text_not_markup(tmp_path):
    _, page = written(tmp_path)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page and "&lt;b&gt;1&lt;/b&gt;" in page
    assert "a &lt;run&gt;" in page


def test_a_template_that_begins_with_a_line_break_is_shown_whole(tmp_path):
    """A browser drops the first line break after <pre>."""
    _, page = written(tmp_path)
    assert len(re.findall(r"<pre[^>]*>\n", page)) == 12 + 9


def test_the_table_can_be_sorted_by_numbers(tmp_path):
    for generated, columns in ((False, 1), (True, 3)):
        _, page = written(tmp_path, generated)
        values = re.findall(r'<td class="number" data-value="([^"]+)">', page)
        assert len(values) == 12 * columns and all(float(value) >= 0 for value in values)


def test_the_worst_renderings_are_shown_with_the_answers(tmp_path):
    found, pool, examples = scored(tmp_path)
    worst = mistakes(found.path, found.matrix, pool, examples)
    assert [prompt for prompt, _ in worst] == [0, 1, 2] and all(len(shown) == 3 for _, shown in worst)
    first = worst[0][1][0]
    assert first.text == pool.templates[0].render(examples[0].fields)
    assert (first.right, first.answered) == ("A: yes", "B: no") and [choice[:2] for choice in first.choices] == [
        ("A", "yes"),
        ("B", "no"),
    ]
    shares = [score for _, _, score in first.choices]
    assert shares == pytest.approx([1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))])
    as_text = mistakes(found.path, found.matrix, dataclasses.replace(pool, answer="text"), examples)[0][1][0]
    assert (as_text.answered, [score for _, _, score in as_text.choices]) == ("no", [-1.0, -0.5])
    found, pool, examples = scored(tmp_path, generated=True)
    assert mistakes(found.path, found.matrix, pool, examples)[0][1][0].answered == "no option, in “B, no”"


def test_a_run_without_a_mistake_has_a_report(tmp_path):
    found, pool, examples = scored(tmp_path)
    right = found.matrix.select([11], [0])
    assert mistakes(found.path, right, pool, examples) == []


def test_what_is_saved_is_read_back(tmp_path):
    results, _ = written(tmp_path)
    assert read_results(tmp_path) == results and results.folder == tmp_path


def test_the_terminal_shows_the_numbers_and_all_that_was_counted(tmp_path, capsys):
    results, _ = written(tmp_path, generated=True)
    assert (results.ties, results.unanswered, results.test_prompts_truncated) == (2, 1, 12)
    numbers = [re.findall(r"\d+(?:\.\d+)?", remark) for remark in remarks(results)]
    assert numbers[1:] == [["50.0", "25.0"], ["2"], ["1"], ["12"]]  # Con, ties, unanswered, cut off
    print_run("paft", results, tmp_path / "results.json")
    assert re.search(r"p00\s+│\s+0\.0\s+│\s+p11\s+│\s+91\.7", capsys.readouterr().out)


def test_an_interval_that_cannot_be_promised_is_not_shown():
    shown = certainty(Uncertainty(Estimate(0.5, 0.4, 0.6), Estimate(0.1), 0.2))
    assert "50.0" in shown and "[40.0, 60.0]" in shown and "10.0" in shown and shown.count("[") == 1
    assert "[" not in certainty(None)


def test_tokens_and_seconds_stand_beside_the_accuracy_where_text_was_generated(tmp_path):
    found, _, _ = scored(tmp_path, generated=True)
    rows = list(csv.DictReader(io.StringIO(per_prompt_csv(found.matrix, found.seconds))))
    assert rows[0] == {"prompt_id": "p00", "accuracy": "0.000000", "n": "12", "output_tokens": "3.00", "seconds": "1.50"}
    assert per_prompt_csv(found.matrix).splitlines()[0] == "prompt_id,accuracy,n"


def test_figures_are_drawn_also_where_no_density_exists(tmp_path):
    equal, spread = np.full(12, 0.75), np.linspace(0.1, 0.95, 12)
    save_overlay(tmp_path / "overlay.png", {"equal": equal, "spread": spread, "one": np.array([0.5])}, 0.25, 0.9)
    save_distribution(tmp_path / "distribution.png", {"equal": equal}, 0.25)
    assert all((tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in ("overlay", "distribution"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        SNAPSHOT.write_text("\n".join(Page(written(Path(scratch))[1]).lines) + "\n", encoding="utf-8")
