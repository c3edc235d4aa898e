"""paft/reporting/compare.py, run as a user runs it, on matrices whose truth is known."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.evaluation.store import SCHEMA, VERSION

ROOT = Path(__file__).parent.parent


def answers(prompts: int, examples: int, spread: float, better: float, seed: int = 0) -> np.ndarray:
    """Return a (P, E) matrix of right and wrong, for prompts that differ by `spread` on the probit scale."""
    generator = np.random.default_rng([seed, round(100 * spread)])
    difficulty = np.random.default_rng(99).normal(size=examples)
    latent = better + generator.normal(0, spread, (prompts, 1)) + difficulty + generator.normal(size=(prompts, examples))
    return latent > 0


def write_run(folder: Path, correct: np.ndarray, prompts=None, examples=None, version=VERSION, robustness=()) -> Path:
    """Write what a finished run of two-choice questions leaves; `prompts` and `examples` name the rows and columns."""
    n_prompts, n_examples = correct.shape
    prompts = prompts or [f"prompt {i}" for i in range(n_prompts)]
    examples = examples or [f"example {i}" for i in range(n_examples)]
    cells = [
        {
            "prompt": p, "example": e, "prompt_id": f"id {p}", "prompt_digest": prompts[p], "example_id": f"id {e}",
            "example_digest": examples[e], "group": examples[e], "part": "all", "n_choices": 2, "log_probs": [],
            "predicted": int(not correct[p, e]), "gold": 0, "correct": bool(correct[p, e]), "tied": False, "output": None,
            "output_tokens": 0, "truncated": False,
        }
        for p in range(n_prompts)
        for e in range(n_examples)
    ]  # fmt: skip
    folder.mkdir()
    schema = SCHEMA.with_metadata({"version": str(version), "digest": "x"})
    pq.write_table(pa.Table.from_pylist(cells, schema=schema), folder / "matrix.parquet")
    results = {
        "run": folder.name,
        "robustness": robustness if robustness is None else {"n_prompts": n_prompts, "n_examples": n_examples},
        "chance": 0.5,
        "threshold": 0.9,
        "config": {"seed": 0},
        "git": {"commit": "c0ffee", "dirty": False},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def compare(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "paft/reporting/compare.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "COLUMNS": "160"})


def said(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 0, process.stderr
    return process.stdout.strip().splitlines()[-1]


def refused(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 2 and process.stderr.startswith("error: "), process.stderr
    return process.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A steady and good run, and one whose prompts differ much."""
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "steady", answers(16, 100, 0.03, 1.8)), write_run(folder / "shaky", answers(16, 100, 1.0, 0.5))


def test_the_more_robust_run_is_named_whichever_comes_first(runs):
    steady, shaky = runs
    forwards, backwards = said(compare(steady, shaky)), said(compare(shaky, steady))
    assert forwards.startswith("A is more robust than B: mean +") and "permutation p" in forwards
    assert backwards.replace("B is", "A is").replace("than A", "than B") == forwards


def test_a_run_and_itself_cannot_be_told_apart(runs, tmp_path):
    assert said(compare(runs[1], runs[1])).startswith("No interval can be given")
    like = write_run(tmp_path / "like", answers(16, 100, 1.0, 0.5, seed=1))
    assert said(compare(runs[1], like)).startswith("A and B cannot be told apart")


def test_only_shared_cells_count_in_any_order(runs, tmp_path):
    """B lacks four prompts and ten examples and has others, in reverse: the difference is that of what is left."""
    correct = answers(16, 100, 1.0, 0.5)[:12, :90]
    prompts = [f"prompt {i}" for i in range(12)] + ["another"]
    examples = [f"example {i}" for i in range(90)] + ["another"]
    padded = np.pad(correct, ((0, 1), (0, 1)))[::-1, ::-1]
    other = write_run(tmp_path / "other", padded, prompts[::-1], examples[::-1])
    report = tmp_path / "report"
    said(compare(runs[0], other, "--report", report))
    content = json.loads((report / "comparison.json").read_text())
    assert (content["prompts"], content["examples"]) == (12, 90)
    assert content["mean"]["value"] == pytest.approx(answers(16, 100, 0.03, 1.8)[:12, :90].mean() - correct.mean())


def test_the_report_holds_the_table_the_figure_and_where_it_comes_from(runs, tmp_path):
    said(compare(*runs, "--report", tmp_path))
    page, content = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "comparison.json").read_text())
    assert content["verdict"] in page and "| worst prompt |" in page and (tmp_path / "overlay.png").stat().st_size > 5000
    assert (
        content["runs"]["A"][0]["git"] == {"commit": "c0ffee", "dirty": False} and len(content["runs"]["B"][0]["config"]) == 8
    )
    assert content["mean"]["low"] > 0 and content["wins"] + content["ties"] + content["losses"] == 16


def test_seeds_are_compared_in_pairs(tmp_path):
    sides = {}
    for name, spread, better in (("a", 0.03, 1.8), ("b", 1.0, 0.5)):
        folders = [write_run(tmp_path / f"{name}{s}", answers(12, 60, spread, better, seed=s)) for s in range(3)]
        sides[name] = ",".join(map(str, folders))
    process = compare(sides["a"], sides["b"], "--report", tmp_path / "report")
    assert "\nA is more robust than B" in process.stdout and "std over seeds" in process.stdout
    content = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert np.mean(content["by_seed"]) == pytest.approx(content["mean"]["value"]) and len(content["by_seed"]) == 3
    assert content["std_a"]["low"] is None and content["seed_variance"]["B"]["interaction"] > 0.1
    assert "3 runs against 1" in refused(compare(sides["a"], tmp_path / "b0"))


def test_few_prompts_have_differences_but_no_interval(tmp_path):
    a = write_run(tmp_path / "a", answers(4, 50, 0.1, 1.8))
    b = write_run(tmp_path / "b", answers(4, 50, 0.3, 0.5))
    process = compare(a, b)
    assert said(process).startswith("No interval can be given (fewer than 10") and "mean +" in said(process)
    assert "[" not in process.stdout.replace("In brackets", "") and "permutation" not in process.stdout


def test_runs_that_were_measured_in_two_ways_are_said_to_be(runs, tmp_path):
    results = json.loads((runs[1] / "results.json").read_text()) | {"how": {"scoring": "generate", "max_new_tokens": 256}}
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    (other / "results.json").write_text(json.dumps(results))
    assert "BEWARE: the runs are not scored alike (how):" in compare(runs[0], other).stdout
    assert "BEWARE" not in compare(runs[0], runs[1]).stdout


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    old = write_run(tmp_path / "old", answers(4, 10, 0.1, 1.0), version=1)
    assert f"version 1, this code reads {VERSION}" in refused(compare(runs[0], old))
    other = write_run(tmp_path / "other", answers(4, 10, 0.1, 1.0), [f"other {i}" for i in range(4)])
    assert "they share 0 prompts and 10 examples" in refused(compare(runs[0], other))
