"""Comparing runs, on matrices whose truth is known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paft.evaluation.store import SCHEMA, VERSION
from paft.reporting.compare import Compared, compare_sides, load, notes, rows, show, verdict, write_report
from paft.reporting.results import read_results, save_results
from paft.runtime.errors import InputError

# A kept run, whose results.json stands for that of the runs made here.
KEPT = next((Path(__file__).parents[2] / "experiments/results/paper_cpu/runs").glob("story_facts-*-paft-K4-T3-seed0-b3ab763a"))


def answers(prompts: int, examples: int, spread: float, better: float, seed: int = 0) -> np.ndarray:
    """Return a (P, E) matrix of right and wrong, for prompts that differ by `spread` on the probit scale."""
    generator = np.random.default_rng([seed, round(100 * spread)])
    difficulty = np.random.default_rng(99).normal(size=examples)
    latent = better + generator.normal(0, spread, (prompts, 1)) + difficulty + generator.normal(size=(prompts, examples))
    return latent > 0


def write_run(folder: Path, correct: np.ndarray, prompts=None, examples=None, version=VERSION, **changes) -> Path:
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
    save_results(folder, read_results(KEPT).model_copy(update={"run": folder.name, **changes}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A steady and good run, and one whose prompts differ much."""
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "steady", answers(16, 100, 0.03, 1.8)), write_run(folder / "shaky", answers(16, 100, 1.0, 0.5))


def compare(a: Path, b: Path) -> Compared:
    return compare_sides([a], [b])


def says(a: Path, b: Path) -> str:
    return verdict(compare(a, b).comparison)


def test_the_more_robust_run_is_named_whichever_comes_first(runs):
    steady, shaky = runs
    forwards, backwards = says(steady, shaky), says(shaky, steady)
    assert forwards.startswith("A is more robust than B: mean +") and "permutation p" in forwards
    assert backwards.replace("B is", "A is").replace("than A", "than B") == forwards


def test_a_run_and_itself_cannot_be_told_apart(runs, tmp_path):
    assert says(runs[1], runs[1]).startswith("No interval can be given")
    like = write_run(tmp_path / "like", answers(16, 100, 1.0, 0.5, seed=1))
    assert says(runs[1], like).startswith("A and B cannot be told apart")


def test_only_shared_cells_count_in_any_order(runs, tmp_path):
    """B lacks four prompts and ten examples and has others, in reverse: the difference is that of what is left."""
    correct = answers(16, 100, 1.0, 0.5)[:12, :90]
    prompts = [f"prompt {i}" for i in range(12)] + ["another"]
    examples = [f"example {i}" for i in range(90)] + ["another"]
    padded = np.pad(correct, ((0, 1), (0, 1)))[::-1, ::-1]
    compared = compare(runs[0], write_run(tmp_path / "other", padded, prompts[::-1], examples[::-1]))
    assert compared.a[0].matrix.correct.shape == (12, 90)
    shared = answers(16, 100, 0.03, 1.8)[:12, :90]
    assert compared.comparison.mean.value == pytest.approx(shared.mean() - correct.mean())


def test_the_report_holds_the_table_the_figure_and_where_it_comes_from(runs, tmp_path, capsys):
    compared = compare(*runs)
    show(compared)
    assert capsys.readouterr().out.strip().splitlines()[-1] == verdict(compared.comparison)
    write_report(tmp_path, compared, "paft compare a b")
    page, content = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "comparison.json").read_text())
    assert content["verdict"] in page and (tmp_path / "overlay.png").stat().st_size > 5000
    assert all("| " + " | ".join(line) + " |" in page for line in rows(compared)) and "`paft compare a b`" in page
    about = content["runs"]["A"][0]
    assert about["git"] == read_results(KEPT).git.model_dump() and len(about["config"]) == 8
    assert content["mean"]["low"] > 0 and content["wins"] + content["ties"] + content["losses"] == 16


def test_seeds_are_compared_in_pairs(tmp_path):
    sides = {}
    for name, spread, better in (("a", 0.03, 1.8), ("b", 1.0, 0.5)):
        sides[name] = [write_run(tmp_path / f"{name}{s}", answers(12, 60, spread, better, seed=s)) for s in range(3)]
    compared = compare_sides(sides["a"], sides["b"])
    comparison = compared.comparison
    assert verdict(comparison).startswith("A is more robust than B") and "std over seeds" in [
        what for what, *_ in rows(compared)
    ]
    assert np.mean(comparison.by_seed) == pytest.approx(comparison.mean.value) and len(comparison.by_seed) == 3
    assert comparison.std_a.low is None and compared.seeds_b.interaction > 0.1
    with pytest.raises(InputError, match="3 runs against 1: seeds are compared in pairs"):
        compare_sides(sides["a"], sides["b"][:1])


def test_few_prompts_have_differences_but_no_interval(tmp_path):
    a = write_run(tmp_path / "a", answers(4, 50, 0.1, 1.8))
    b = write_run(tmp_path / "b", answers(4, 50, 0.3, 0.5))
    compared = compare(a, b)
    assert verdict(compared.comparison).startswith("No interval can be given (fewer than 10")
    assert not [figure for line in rows(compared) for figure in line if "[" in figure]
    assert compared.comparison.p is None and compared.comparison.mean.low is None


def test_runs_that_were_measured_in_two_ways_are_said_to_be(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    results = read_results(other)
    generated = results.scoring.model_copy(update={"scoring": "generate", "max_new_tokens": 256})
    save_results(other, results.model_copy(update={"scoring": generated, "dtype": "float32"}))
    warnings = [note for note in notes(compare(runs[0], other)) if note.startswith("BEWARE")]
    assert ["scoring" in warnings[0], "dtype" in warnings[1], len(warnings)] == [True, True, 2]
    assert not [note for note in notes(compare(*runs)) if note.startswith("BEWARE")]


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    old = write_run(tmp_path / "old", answers(4, 10, 0.1, 1.0), version=1)
    with pytest.raises(InputError, match=f"version 1, this code reads {VERSION}"):
        compare(runs[0], old)
    other = write_run(tmp_path / "other", answers(4, 10, 0.1, 1.0), [f"other {i}" for i in range(4)])
    with pytest.raises(InputError, match="they share 0 prompts and 10 examples"):
        compare(runs[0], other)
    with pytest.raises(InputError, match=r"there is no results.json; give the folder of a finished run"):
        load(tmp_path)
    unlabelled = write_run(tmp_path / "unlabelled", answers(4, 10, 0.1, 1.0), robustness=None)
    with pytest.raises(InputError, match="its rows have no answers, so nothing is right or wrong"):
        load(unlabelled)


def test_one_run_of_the_base_model_stands_beside_every_seed(tmp_path):
    seeds = [write_run(tmp_path / f"seed{s}", answers(12, 60, 0.2, 1.5, seed=s)) for s in range(3)]
    base = write_run(tmp_path / "base", answers(12, 60, 0.5, 0.5, seed=9), training=None)
    compared = compare_sides(seeds, [base])
    assert len(compared.b) == 3 and len(compared.comparison.by_seed) == 3 and compared.seeds_b.seed == 0
    assert compare_sides([base], seeds).comparison.mean.value == pytest.approx(-compared.comparison.mean.value)
    with pytest.raises(InputError, match="2 runs against 3"):
        compare_sides(seeds[:2], [*seeds[1:], write_run(tmp_path / "more", answers(12, 60, 0.2, 1.5, seed=4))])


def test_the_run_that_is_right_more_often_comes_first(tmp_path):
    """Of a run near chance a small spread says little."""
    good, flat = answers(16, 400, 1.0, 2.0), answers(16, 400, 0.0, 0.0)
    folders = write_run(tmp_path / "good", good), write_run(tmp_path / "flat", flat)
    for order, (better, other) in ((folders, "AB"), (folders[::-1], "BA")):
        said = verdict(compare(*order).comparison)
        assert said.startswith(f"{better} is right more often than {other}, but varies more over prompts; {better}: mean +")
