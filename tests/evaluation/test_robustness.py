"""Summaries of a score matrix: what is reported, and when nothing is promised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paft.evaluation.matrix import ScoreMatrix, read_matrix
from paft.evaluation.robustness import con, consensus, robustness, uncertainty
from paft.reporting.results import read_results


def matrix(correct: np.ndarray, predicted: np.ndarray | None = None, groups: int | None = None) -> ScoreMatrix:
    """Return a matrix of two-choice questions whose right answer is choice 0."""
    prompts, examples = correct.shape
    names = tuple(f"example {i}" for i in range(examples))
    return ScoreMatrix(
        prompt_ids=tuple(f"prompt {i}" for i in range(prompts)),
        prompt_digests=tuple(f"{i:016x}" for i in range(prompts)),
        example_ids=names,
        example_digests=names,
        parts=("all",) * examples,
        groups=names if groups is None else tuple(f"article {i % groups}" for i in range(examples)),
        n_choices=(2,) * examples,
        gold=np.zeros(examples, dtype=np.int32),
        predicted=np.where(correct, 0, 1).astype(np.int32) if predicted is None else predicted.astype(np.int32),
        correct=correct if correct.dtype == float else correct.astype(bool),
        tied=np.zeros(correct.shape, dtype=bool),
        truncated=np.zeros(correct.shape, dtype=bool),
        output_tokens=np.zeros(correct.shape, dtype=np.int32),
    )


def draws(rates: np.ndarray, examples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((len(rates), examples)) < rates[:, None]


def test_the_summary_is_over_prompts():
    found = robustness(matrix(np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])), threshold=0.5)
    assert (found.min, found.max, found.spread, found.n_prompts, found.n_examples) == (0.25, 1.0, 0.75, 3, 4)
    assert found.mean == pytest.approx(7 / 12) and found.std == pytest.approx(np.std([1, 0.5, 0.25]))
    assert found.top == pytest.approx(2 / 3)


def test_scores_are_summarised_as_they_are():
    scores = np.array([[0.6] * 10, [0.3, 0.7] * 5, [0.0, 1.0] * 5])
    found = robustness(matrix(scores), threshold=0.6)
    assert scores[0].mean() < 0.6 and found.top == pytest.approx(1 / 3), "rounding takes no prompt from Top"
    assert (found.min, found.max) == pytest.approx((0.5, 0.6)) and found.std == pytest.approx(np.std([0.6, 0.5, 0.5]))
    assert con(matrix(scores)).mean == pytest.approx(1.6 / 3)
    varied = np.clip(np.random.default_rng(1).normal(0.6, 0.2, (20, 40)), 0, 1)
    sure = uncertainty(matrix(varied))
    assert sure.mean.low < varied.mean() < sure.mean.high and sure.worst <= varied.mean()
    assert uncertainty(matrix(np.full((20, 40), 0.3))) is None


KEPT = sorted((Path(__file__).parents[2] / "experiments" / "results" / "race_qwen05" / "runs").glob("race-*"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_matrix_of_an_earlier_version_gives_the_numbers_that_it_gave(folder):
    results, found = read_results(folder), read_matrix(folder / "matrix.parquet")
    assert robustness(found, results.threshold) == results.robustness, "to the last digit"
    assert consensus(found) == results.consensus and found.correct.dtype == bool
    assert (results.scoring.metric, results.scoring.called) == (None, "accuracy")
    for estimate, kept in zip(vars(uncertainty(found)).values(), vars(results.uncertainty).values(), strict=True):
        assert np.array(list(vars(estimate).values()) if hasattr(estimate, "low") else [estimate], float) == pytest.approx(
            np.array(list(vars(kept).values()) if hasattr(kept, "low") else [kept], float), rel=1e-12, nan_ok=True
        )


def test_con_is_mean_and_worst():
    found = con(matrix(np.array([[1, 1, 1, 1], [1, 0, 0, 0]])))
    assert (found.mean, found.worst) == (0.625, 0.25)


def test_prompts_alike_get_an_interval_of_the_std():
    found = uncertainty(matrix(draws(np.random.default_rng(1).normal(0.7, 0.08, 20), 200)))
    assert found.mean.low < found.mean.value < found.mean.high
    assert found.std.low < found.std.value < found.std.high


def test_failing_prompts_get_a_std_without_interval():
    found = uncertainty(matrix(draws(np.where(np.arange(20) < 3, 0.5, 0.9), 200)))
    assert found.mean.low is not None and found.std.value > 0.1 and found.std.low is None and found.std.high is None


def test_too_few_prompts_or_articles_promise_nothing():
    correct = draws(np.full(20, 0.7), 40)
    assert uncertainty(matrix(correct)) is not None
    assert uncertainty(matrix(correct[:9])) is None
    assert uncertainty(matrix(correct, groups=9)) is None
    assert uncertainty(matrix(np.ones((20, 40)))) is None


def test_consensus_of_generated_answers_leaves_out_what_was_not_found():
    predicted = np.array([[0, -1, 1], [0, -1, 1], [-1, -1, 0]])
    found = consensus(matrix(predicted == 0, predicted))
    assert found.agreement == pytest.approx(2 / 9) and found.majority == pytest.approx(1 / 3)
    nothing = replace(matrix(predicted == 0, np.full((3, 3), -1)), gold=np.full(3, -1, dtype=np.int32))
    assert consensus(nothing).majority == 0, "an answer that nobody gives is not right where none is known"
