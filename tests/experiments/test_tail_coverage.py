"""The truth of the simulated comparisons of CVaR10, which their coverage is measured against."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks.tail_coverage import CASES, arms, measure, row, true_gain


def test_the_truth_is_exact_because_both_sides_have_the_same_luck():
    none, some = next(case for case in CASES if case.gain == 0), next(case for case in CASES if case.gain > 0)
    assert true_gain(none) == 0
    assert true_gain(some) == pytest.approx(some.gain, abs=0.002)  # less where accuracies end at 100
    calm = replace(some, seed=0.0, interaction=0.0, method=0.0)
    one, other = arms(calm, np.random.default_rng(0), 40, 3)
    assert one.shape == (3, 40) and np.allclose((one - other)[one < 1], some.gain)


def test_a_row_is_shares_of_simulated_studies():
    case = replace(CASES[0], seeds=5, prompts=40, examples=25)
    found = row(case, [measure(case, seed) for seed in range(20)])
    assert found["interval"] >= 0.75 and 0 <= found["above zero"] <= 0.25 and found["prompts"] == 40
