"""The examples run as they are: the notebook from its first cell to its last, and the method on one page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent.parent / "experiments" / "examples"


@pytest.fixture
def repository_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent.parent))


def texts(notebook) -> list[str]:
    """What the outputs of a notebook show."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [str(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs]


def test_the_notebook_runs_and_ends_more_robust_than_it_began(tmp_path, repository_on_the_path):
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": tmp_path}}).execute()
    means = [
        float(found[1]) for text in texts(notebook) if (found := re.search(r"mean (\d+\.\d)", text)) and "Results(" in text
    ]
    assert len(means) == 2 and means[1] > means[0]
    assert any("that is optim={'lr': ...} (optim.lr)" in text for text in texts(notebook))
    assert len(list((tmp_path / "outputs").glob("*/results.json"))) == 3  # two runs, and the base model's


def test_the_kept_notebook_was_run_and_shows_no_path_of_a_machine():
    path = EXAMPLES / "quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for cell in code for output in cell.outputs)
    assert not re.search(r"/home/|/root|/work|/tmp|/Users/|site-packages", json.dumps(notebook))


def test_the_method_on_one_page_learns(repository_on_the_path):
    command = [sys.executable, str(EXAMPLES / "paft_in_one_page.py")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("update")]
    assert len(losses) >= 8 and sum(losses[-4:]) < 0.6 * sum(losses[:4])
