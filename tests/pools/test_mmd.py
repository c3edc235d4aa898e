"""The distance of two pools: against its definition, its null, and what the biased estimate does."""

import numpy as np
import pytest

from paft.pools.mmd import curve, mmd, ngram_embeddings
from paft.prompts.similarity import bandwidth


def sample(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, 5)) + shift).astype(np.float32)


def naive(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """Equation (3) of Gretton et al. 2012, term by term."""

    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * width**2))

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_the_statistic_is_its_definition():
    x, y = sample(7).astype(np.float64), sample(5, 0.5, seed=1).astype(np.float64)
    found = mmd(x, y, 1.7)
    assert found.squared == pytest.approx(naive(x, y, 1.7), abs=1e-9) and found.bandwidth == 1.7


def test_equal_distributions_are_within_the_null_and_others_are_not():
    x, y, other = sample(60), sample(40, seed=1), sample(40, 1.0, seed=2)
    assert mmd(x, y, 2.0).p > 0.05 and mmd(x, y, 2.0).squared < mmd(x, y, 2.0).null
    assert mmd(x, other, 2.0).p < 0.01 and mmd(x, other, 2.0).squared > mmd(x, other, 2.0).null
    assert mmd(x, other, 2.0, seed=3) == mmd(x, other, 2.0, seed=3)


def test_p_values_are_uniform_where_nothing_differs():
    p = [mmd(sample(20, seed=2 * i), sample(20, seed=2 * i + 1), 2.0).p for i in range(60)]
    assert 0.3 < np.mean(p) < 0.7 and np.mean(np.array(p) < 0.05) < 0.17


def test_the_biased_estimate_falls_with_size_where_nothing_differs_and_the_unbiased_does_not():
    along = curve(sample(300), sample(100, seed=1), 2.0, [5, 50, 300])
    biased, unbiased = [b for _, b, _ in along.values()], [u for u, _, _ in along.values()]
    assert biased[0] > 1.5 * biased[1] > 1.5 * biased[2]
    assert max(map(abs, unbiased)) < 0.02
    nulls = [null for *_, null in along.values()]
    assert nulls[0] > nulls[1] > nulls[2] > 0  # what a small pool shows by chance


def test_the_bandwidth_is_the_median_distance():
    vectors = np.array([[0, 0], [3, 4], [0, 1]], np.float32)
    assert bandwidth(vectors) == pytest.approx(np.median([5, 1, np.sqrt(18)]))


def test_ngrams_know_wordings():
    a, b, c = ngram_embeddings(["Choose an answer: {x}", "choose an ANSWER {y}", "Das Meer ist blau. {x}"])
    assert a @ b == pytest.approx(1.0, abs=1e-6) and a @ c < 0.3
    assert np.linalg.norm(ngram_embeddings(["{x}"])[0]) == pytest.approx(1.0)  # nothing but a field
