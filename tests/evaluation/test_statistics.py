"""Estimates and intervals: against numbers worked out by hand, and against simulations with a known truth."""

import numpy as np
import pytest
from scipy.stats import norm

from paft.evaluation.statistics import (
    compare,
    corrected_std,
    corrected_variance,
    difference_interval,
    mean_interval,
    noise_variance,
    seed_variance,
    std_interval,
    swap_test,
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
    assert (estimate.value, estimate.low, estimate.high) == (0, None, None)


def test_a_matrix_of_one_answer_tells_nothing_of_others():
    estimate = mean_interval(np.ones((4, 6)), each(6))
    assert (estimate.value, estimate.low, estimate.high) == (1, None, None)


def test_an_interval_stays_within_what_is_possible():
    few = np.array([[1.0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
    mean, std = mean_interval(few, each(4)), std_interval(few, each(4))
    assert 0 <= mean.low <= mean.value <= mean.high <= 1 and 0 <= std.low <= std.high <= 0.5
    assert difference_interval(few, few[::-1], each(4)).low >= -1


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
    covered, shown = np.zeros(2), np.zeros(2)
    for number in range(100):
        correct = simulate(prompts, 100, 0.3, generator)
        for i, (truth, interval) in enumerate(((mean, mean_interval), (std, std_interval))):
            found = interval(correct, each(100), draws=400, seed=number)
            shown[i] += found.low is not None
            covered[i] += found.low is not None and found.low <= truth <= found.high
    assert (covered >= 0.88 * shown).all() and shown[0] == 100 and shown[1] > 80, (covered, shown)


def test_no_interval_of_the_std_where_some_prompts_fail():
    generator = np.random.default_rng(0)
    correct = (generator.random((20, 200)) < np.where(np.arange(20) < 3, 0.5, 0.9)[:, None]).astype(float)
    estimate = std_interval(correct, each(200))
    assert estimate.value == pytest.approx(0.15, abs=0.03) and estimate.low is None and estimate.high is None


def test_a_paired_difference_is_surer_than_two_means():
    correct = simulate(20, 200, 0.3, np.random.default_rng(0))
    better = np.maximum(correct, np.random.default_rng(1).random(correct.shape) < 0.1)
    paired = difference_interval(better, correct, each(200))
    alone = mean_interval(correct, each(200))
    assert paired.low > 0 and paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_the_worst_prompt_of_equals_is_as_good_as_the_others():
    """Where prompts do not differ, the least accuracy is an accident of the examples; the unbiased one is the mean."""
    generator = np.random.default_rng(0)
    matrices = [(generator.random((20, 100)) < 0.7).astype(float) for _ in range(30)]
    assert np.mean([m.mean(1).min() for m in matrices]) < 0.63
    assert np.mean([worst_without_selection(m, each(100), splits=20) for m in matrices]) == pytest.approx(0.7, abs=0.02)


def test_a_comparison_counts_what_each_run_wins():
    a = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    b = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]])
    found = compare(a[None], b[None], each(4))
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert found.mean.value == pytest.approx(1 / 12) and found.by_seed == pytest.approx((1 / 12,))
    assert found.mean.low is None and found.p is None and found.std_a.low is None, "three prompts promise nothing"


def test_what_varies_less_is_found_from_both_sides():
    generator = np.random.default_rng(0)
    calm, wild = (simulate(30, 100, spread, generator)[None] for spread in (0.05, 1.0))
    forwards, backwards = compare(calm, wild, each(100)), compare(wild, calm, each(100))
    assert forwards.p == backwards.p < 0.01 and forwards.std_a.value < forwards.std_b.value
    assert forwards.mean.value == -backwards.mean.value and forwards.mean.low < forwards.mean.value < forwards.mean.high


@pytest.mark.parametrize("fails", [0.0, 0.1])
def test_what_varies_alike_is_told_apart_no_more_often_than_promised(fails):
    generator, rejected = np.random.default_rng(5), 0
    for number in range(200):
        rates = np.where(generator.random((2, 20, 1)) < fails, 0.5, 0.9)
        a, b = (generator.random((2, 20, 100)) < rates).astype(float)
        rejected += swap_test(a[None], b[None], each(100), draws=400, seed=number)[0] < 0.05
    assert rejected <= 20


def test_one_failing_prompt_is_no_evidence():
    """It might as well have failed in the other run."""
    generator = np.random.default_rng(0)
    a = (generator.random((20, 100)) < 0.95).astype(float)
    b = (generator.random((20, 100)) < 0.95).astype(float)
    b[3] = generator.random(100) < 0.3
    assert swap_test(a[None], b[None], each(100))[0] > 0.05


def test_p_never_backs_a_difference_that_the_test_sees_the_other_way_round():
    """Two modes against one wide mode: distances from the median and from the mean can disagree on which varies more."""
    generator, opposed = np.random.default_rng(7), 0
    for number in range(60):
        modes = np.where(generator.random((20, 1)) < 0.45, 0.55, 0.85)
        wide = generator.uniform(0.5, 0.95, (20, 1))
        a, b = ((generator.random((20, 100)) < rates).astype(float) for rates in (modes, wide))
        found = compare(a[None], b[None], each(100), draws=400, seed=number)
        _, sign = swap_test(a[None], b[None], each(100), draws=400, seed=number)
        if sign != np.sign(found.std_a.value - found.std_b.value):
            opposed += 1
            assert found.p == 1.0
    assert opposed


def test_more_noise_is_not_more_variation():
    """Half right is noisier than nearly all right; neither varies over prompts."""
    generator = np.random.default_rng(1)
    p = [
        swap_test(*((generator.random((1, 20, 100)) < rate).astype(float) for rate in (0.5, 0.97)), each(100), draws=400)[0]
        for _ in range(100)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.12


def test_seeds_prompts_and_their_interaction_are_told_apart():
    """Known stds on the scale of the accuracies, over 60 draws of all effects; without the correction, noise adds to each."""
    generator, found = np.random.default_rng(0), []
    for _ in range(60):
        of_seed, of_prompt, of_both = (
            generator.normal(size=(5, 1)),
            generator.normal(size=(1, 30)),
            generator.normal(size=(5, 30)),
        )
        rate = 0.6 + 0.05 * of_seed + 0.08 * of_prompt + 0.03 * of_both
        easy = 0.2 * np.sign(generator.normal(size=100))
        correct = (generator.random((5, 30, 100)) < rate[..., None] + easy).astype(float)
        variance = seed_variance(correct, each(100))
        found.append([variance.seed**2, variance.prompt**2, variance.interaction**2])
    assert np.sqrt(np.mean(found, axis=0)) == pytest.approx([0.05, 0.08, 0.03], rel=0.15)


def test_seeds_that_are_copies_have_no_variance():
    correct = simulate(12, 50, 0.5, np.random.default_rng(0))
    variance = seed_variance(np.stack([correct] * 3), each(50))
    assert (variance.seed, variance.interaction) == pytest.approx((0, 0), abs=1e-9)
    assert variance.prompt == pytest.approx(np.sqrt(corrected_variance(correct, each(50))))


def graded(prompts: int, examples: int, spread: float, generator: np.random.Generator) -> np.ndarray:
    """Return a (P, E) matrix of scores between 0 and 1, some of them 0 and some 1, as token F1 has them."""
    difficulty = generator.normal(0, 0.15, examples)
    latent = 0.6 + generator.normal(0, spread, (prompts, 1)) + difficulty + generator.normal(0, 0.2, (prompts, examples))
    return np.clip(latent, 0, 1)


def test_scores_have_the_noise_that_fresh_examples_show():
    """Their noise is less than p (1 - p) / E, that of answers which are right or wrong: it is measured, not assumed."""
    generator = np.random.default_rng(0)
    matrices = [graded(20, 100, 0.0, generator) for _ in range(300)]
    seen = np.mean([m.mean(1).var(ddof=1) for m in matrices])
    assert np.mean([noise_variance(m, each(100)) for m in matrices]) == pytest.approx(seen, rel=0.05)
    assert seen < 0.3 * 0.6 * 0.4 / 100
    residual = matrices[0] - matrices[0].mean(1, keepdims=True) - matrices[0].mean(0) + matrices[0].mean()
    assert noise_variance(matrices[0], each(100)) == pytest.approx((residual**2).sum() / (19 * 99) / 100)


def test_intervals_of_scores_cover_the_truth():
    generator = np.random.default_rng(2)
    large = graded(2000, 2000, 0.05, np.random.default_rng(9))
    truths = large.mean(), large.mean(1).std()
    covered, shown = np.zeros(2), np.zeros(2)
    for number in range(100):
        scores = graded(30, 100, 0.05, generator)
        for i, interval in enumerate((mean_interval, std_interval)):
            found = interval(scores, each(100), draws=400, seed=number)
            shown[i] += found.low is not None
            covered[i] += found.low is not None and found.low <= truths[i] <= found.high
    assert (covered >= 0.88 * shown).all() and shown[0] == 100 and shown[1] > 80, (covered, shown)


def test_half_of_every_score_is_half_of_every_number():
    """No formula knows 0 and 1: scores on half the scale have half the mean, std, interval and variance of seeds."""
    generator = np.random.default_rng(4)
    a, b = (simulate(20, 60, spread, generator) for spread in (0.1, 0.6))
    whole, half = mean_interval(a, each(60)), mean_interval(a / 2, each(60))
    assert (2 * half.value, 2 * half.low, 2 * half.high) == pytest.approx((whole.value, whole.low, whole.high))
    whole, half = std_interval(a, each(60)), std_interval(a / 2, each(60))
    assert (2 * half.value, 2 * half.low, 2 * half.high) == pytest.approx((whole.value, whole.low, whole.high))
    assert 2 * worst_without_selection(a / 2, each(60)) == pytest.approx(worst_without_selection(a, each(60)))
    one, other = compare(a[None], b[None], each(60)), compare(a[None] / 2, b[None] / 2, each(60))
    assert other.p == one.p and (other.wins, other.ties, other.losses) == (one.wins, one.ties, one.losses)
    assert 2 * other.mean.low == pytest.approx(one.mean.low) and 2 * other.std_b.value == pytest.approx(one.std_b.value)
    seeds = np.stack([simulate(12, 50, 0.5, generator) for _ in range(3)])
    one, other = seed_variance(seeds, each(50)), seed_variance(seeds / 2, each(50))
    assert (2 * other.seed, 2 * other.prompt, 2 * other.interaction) == pytest.approx((one.seed, one.prompt, one.interaction))


def test_the_swap_test_of_scores_is_that_of_all_swaps():
    """Against every one of the 2 ** P swaps, its statistic written out."""
    generator = np.random.default_rng(6)
    a, b = graded(10, 40, 0.02, generator), graded(10, 40, 0.2, generator)

    def terms(scores: np.ndarray) -> np.ndarray:
        residual = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
        return (scores.mean(1) - np.median(scores.mean(1))) ** 2 - (residual**2).sum(1) * 40 / 39 / 40**2

    difference = terms(a) - terms(b)
    signs = 1 - 2 * ((np.arange(2**10)[:, None] >> np.arange(10)) & 1)
    exact = (np.abs(signs @ difference) >= np.abs(difference.sum()) * (1 - 1e-12)).mean()
    p, sign = swap_test(a[None], b[None], each(40), draws=20_000)
    assert p == pytest.approx(exact, abs=0.01) and sign == -1


def test_scores_that_differ_by_rounding_alone_have_no_interval():
    """Each prompt and each example has the same mean, in another order of adding."""
    row = np.linspace(0.1, 0.9, 12)
    square = np.stack([np.roll(row, shift) for shift in range(12)])
    found = mean_interval(square, each(12))
    assert found.value == pytest.approx(0.5) and found.low is None and found.high is None
    assert std_interval(square, each(12)).low is None
