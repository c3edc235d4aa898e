"""POSIX, PSS and calibration, against their definitions written out."""

from itertools import combinations, permutations

import numpy as np
import pytest

from paft.evaluation.sensitivity import calibration, posix, pss

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("prompts", [2, 3, 7])
def test_posix_is_the_mean_change_over_ordered_pairs(prompts):
    log_probs = RNG.normal(-5, 2, (prompts, 6, 4)).round(1)  # rounded, so that some are equal
    log_probs[:, 2, 3] = -np.inf  # an example of three options
    tokens = RNG.integers(1, 5, (6, 4)).astype(float)
    predicted, total = (log_probs / tokens).argmax(-1), 0.0
    for e in range(6):
        chosen = predicted[:, e]
        for i, j in permutations(range(prompts), 2):
            y = chosen[j]
            total += abs(log_probs[i, e, y] - log_probs[j, e, y]) / tokens[e, y] / (prompts * (prompts - 1)) / 6
    assert posix(log_probs, tokens, predicted) == pytest.approx(total)


def test_posix_of_equal_prompts_is_zero():
    log_probs = np.repeat(RNG.normal(-5, 2, (1, 5, 3)), 4, axis=0)
    assert posix(log_probs, np.ones((5, 3)), log_probs.argmax(-1)) == pytest.approx(0)


def test_pss_is_the_mean_difference_over_pairs_of_prompts():
    correct = RNG.random((7, 20)) < 0.6
    pairs = [abs(int(correct[i, e]) - int(correct[j, e])) for e in range(20) for i, j in combinations(range(7), 2)]
    assert pss(correct) == pytest.approx(np.mean(pairs))
    assert pss(np.ones((3, 4), bool)) == 0
    right = correct.sum(axis=0)
    assert pss(correct) == float((right * (7 - right) / 21).mean()), "to the last digit as of right and wrong alone"


def test_pss_of_scores_is_their_mean_difference():
    scores = RNG.random((7, 20)).round(1)
    pairs = [abs(scores[i, e] - scores[j, e]) for e in range(20) for i, j in combinations(range(7), 2)]
    assert pss(scores) == pytest.approx(np.mean(pairs)) and pss(np.full((3, 4), 0.3)) == pytest.approx(0)


def test_calibration_of_honest_probabilities_is_near_zero_and_of_boasting_is_not():
    n, rng = 20_000, np.random.default_rng(1)
    probability = rng.dirichlet(np.ones(3), (2, n))
    gold = np.array([rng.choice(3, p=p) for p in probability[0]])
    probability[1] = probability[0]
    log_probs = np.log(probability) - 7.0  # a constant per rendering does not matter
    predicted = probability.argmax(-1).astype(np.int32)
    found = calibration(log_probs, predicted, gold)
    assert found.ece < 0.02 and found.worst_ece == pytest.approx(found.ece)
    boasting = calibration(np.stack([log_probs[0], 20 * log_probs[0]]), predicted, gold)
    assert boasting.worst_ece > 0.2 > boasting.worst_ece / 2 and boasting.ece == pytest.approx(
        (found.ece + boasting.worst_ece) / 2
    )
    assert found.brier < boasting.brier and found.confidence == pytest.approx(probability[0].max(-1).mean())


def test_calibration_by_hand():
    log_probs = np.log(np.array([[[0.9, 0.1], [0.6, 0.4]]]))
    found = calibration(log_probs, np.array([[0, 0]], np.int32), np.array([0, 1], np.int32))
    assert found.ece == pytest.approx((0.1 + 0.6) / 2) and found.confidence == pytest.approx(0.75)
    assert found.brier == pytest.approx((2 * 0.1**2 + 2 * 0.6**2) / 2)
