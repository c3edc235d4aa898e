"""Estimates and intervals: against numbers worked out by hand, and against simulations with a known truth."""

import numpy as np
import pytest
from scipy.stats import norm

from paft.evaluation.statistics import (
    agreement,
    corrected_std,
    majority_accuracy,
    mean_interval,
    noise_variance,
    std_interval,
    worst_without_selection,
)


def simulate(prompts: int, examples: int, spread: float, generator: np.random.Generator, per_group: int = 1) -> np.ndarray:
    """Return a (P, E) matrix whose prompts and groups of examples differ in difficulty, on the probit scale."""
    difficulty = np.repeat(generator.normal(0, 1, examples // per_group), per_group)
    latent = 0.5 + generator.normal(0, spread, (prompts, 1)) + difficulty + generator.normal(0, 1, (prompts, examples))
    return (latent > 0).astype(float)


def true_mean_and_std(spread: float) -> tuple[float, float]:
    effects = np.random.default_rng(1).normal(0, spread, 200_000)
    return norm.cdf(0.5 / np.sqrt(2 + spread**2)), norm.cdf((0.5 + effects) / np.sqrt(2)).std()


def each(examples: int) -> np.ndarray:
    return np.arange(examples)


def test_noise_is_the_residual_mean_square():
    correct = np.array([[1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1]], dtype=float)
    residual = correct - correct.mean(1, keepdims=True) - correct.mean(0) + correct.mean()
    assert noise_variance(correct, each(4)) == pytest.approx((residual**2).sum() / (2 * 3) / 4)


def test_equal_prompts_have_no_std():
    correct = np.tile(np.array([1.0, 0, 1, 1]), (5, 1))
    assert corrected_std(correct, each(4)) == 0
    estimate = std_interval(correct, each(4))
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_a_matrix_of_one_answer_is_sure():
    estimate = mean_interval(np.ones((4, 6)), each(6))
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


def test_an_interval_stays_within_what_is_possible():
    few = np.array([[1.0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]])
    mean, std = mean_interval(few, each(4)), std_interval(few, each(4))
    assert 0 <= mean.low <= mean.value <= mean.high <= 1 and 0 <= std.low <= std.high <= 0.5
    assert mean_interval(few - few[::-1], each(4)).low >= -1


def test_the_correction_removes_the_noise_of_the_examples():
    """A true std of 0.7 points reads more than twice that at 20 prompts x 200 examples."""
    generator, spread = np.random.default_rng(0), 0.0265
    truth = true_mean_and_std(spread)[1]
    matrices = [simulate(20, 200, spread, generator) for _ in range(200)]
    seen = np.mean([m.mean(1).var(ddof=1) for m in matrices])
    corrected = np.mean([m.mean(1).var(ddof=1) - noise_variance(m, each(200)) for m in matrices])
    assert truth == pytest.approx(0.007, abs=5e-4) and np.sqrt(seen) > 2 * truth
    assert corrected == pytest.approx(truth**2, abs=3e-5)


def test_the_noise_of_groups_is_that_of_groups():
    """Five copies of each example are no more evidence than one."""
    correct = simulate(20, 60, 0.3, np.random.default_rng(0))
    copies, groups = np.repeat(correct, 5, axis=1), np.repeat(each(60), 5)
    assert noise_variance(copies, groups) == pytest.approx(noise_variance(correct, each(60)))
    one, five = mean_interval(correct, each(60)), mean_interval(copies, groups)
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high))
    assert worst_without_selection(copies, groups) == pytest.approx(worst_without_selection(correct, each(60)))


@pytest.mark.parametrize("prompts", [20, 50])
def test_intervals_cover_the_truth(prompts):
    """The short form of experiments/benchmarks/coverage.py: 100 simulations, with the room that so few need."""
    generator, (mean, std) = np.random.default_rng(3), true_mean_and_std(0.3)
    covered = np.zeros(2)
    for number in range(100):
        correct = simulate(prompts, 100, 0.3, generator)
        for i, (truth, interval) in enumerate(((mean, mean_interval), (std, std_interval))):
            found = interval(correct, each(100), draws=400, seed=number)
            covered[i] += found.low <= truth <= found.high
    assert (covered >= 88).all(), covered


def test_a_paired_difference_is_surer_than_two_means():
    correct = simulate(20, 200, 0.3, np.random.default_rng(0))
    better = np.maximum(correct, np.random.default_rng(1).random(correct.shape) < 0.1)
    paired = mean_interval(better - correct, each(200))
    alone = mean_interval(correct, each(200))
    assert paired.low > 0 and paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_the_worst_prompt_of_equals_is_as_good_as_the_others():
    """Where prompts do not differ, the least accuracy is an accident of the examples; the unbiased one is the mean."""
    generator = np.random.default_rng(0)
    matrices = [(generator.random((20, 100)) < 0.7).astype(float) for _ in range(30)]
    assert np.mean([m.mean(1).min() for m in matrices]) < 0.63
    assert np.mean([worst_without_selection(m, each(100), splits=20) for m in matrices]) == pytest.approx(0.7, abs=0.02)


def test_agreement_counts_pairs_of_prompts():
    predictions = np.array([[0, 1, 2], [0, 1, 0], [0, 2, 1]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert agreement(predictions) == pytest.approx(np.mean([(predictions[a] == predictions[b]).mean() for a, b in pairs]))


def test_the_majority_decides_and_the_first_of_equals():
    predictions = np.array([[0, 1, 2], [0, 2, 1], [1, 2, 1], [1, 2, 2]])
    assert majority_accuracy(predictions, np.array([0, 2, 1])) == 1
    assert majority_accuracy(predictions, np.array([1, 1, 2])) == 0
