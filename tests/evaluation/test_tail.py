"""The worst prompts: CVaR, families, and the difference of two methods there."""

import numpy as np
import pytest

from paft.evaluation.tail import Family, by_family, cvar, cvar_difference, kind_of

RNG = np.random.default_rng(0)


def test_cvar_is_the_mean_of_the_worst_share():
    accuracy = RNG.permutation(np.arange(50) / 50)
    assert cvar(accuracy, 0.1) == pytest.approx(np.arange(5).mean() / 50)
    assert cvar(accuracy, 1.0) == pytest.approx(accuracy.mean())
    assert cvar(accuracy, 0.02) == accuracy.min() == 0
    assert cvar(accuracy, 0.001) == 0  # less than one prompt: the worst
    assert cvar(np.array([0.0, 1.0, 1.0]), 0.5) == pytest.approx(0.5 / 1.5)  # one and a half prompts
    both = np.stack([accuracy, accuracy[::-1] + 1])
    assert cvar(both, 0.1) == pytest.approx([0.04, 1.04])


def test_families_come_worst_first_and_unnamed_prompts_are_left_out():
    found = by_family(np.array([0.5, 0.1, 0.9, 0.3]), ["a", "b", "a", ""])
    assert found == {"b": Family(1, 0.1, 0.1), "a": Family(2, pytest.approx(0.7), 0.5)}
    assert list(found) == ["b", "a"]
    assert (kind_of("markup/json-object"), kind_of("plain")) == ("markup", "plain")


def arms(gain: float, seeds: int = 8, prompts: int = 100, examples: int = 100, seed: int = 0):
    """Two arms on the same prompts: b, and a that is better by `gain` at every prompt."""
    rng = np.random.default_rng(seed)
    hard = 0.85 - 0.25 * rng.gamma(1.0, 0.5, prompts).clip(0, 2)
    of_seed = 0.02 * rng.standard_normal((2, seeds, 1)) + 0.03 * rng.standard_normal((2, seeds, prompts))
    p = (hard + of_seed + np.array([gain, 0])[:, None, None]).clip(0, 1)
    a, b = (rng.random((2, seeds, prompts, examples)) < p[..., None]).astype(float)
    return a, b, [f"family {i // 4}" for i in range(prompts)]


def test_the_difference_of_the_worst_tenths_has_an_interval_that_holds_it():
    for gain in (0.0, 0.05):
        held = sum(found.low <= gain <= found.high for found in (cvar_difference(*arms(gain, seed=s)) for s in range(60)))
        assert held >= 54
    found = cvar_difference(*arms(0.1))
    assert found.low > 0.03 and found.value == pytest.approx(0.1, abs=0.04)


def test_an_exact_jackknife_over_families():
    a, b, families = arms(0.05, seeds=3, prompts=40, examples=20)
    found = cvar_difference(a, b, families)
    own, names = np.array(families), sorted(set(families))
    d = cvar(a.mean(2), 0.1) - cvar(b.mean(2), 0.1)
    left = np.array([(cvar(a[:, own != f].mean(2), 0.1) - cvar(b[:, own != f].mean(2), 0.1)).mean() for f in names])
    seeds, prompts = d.var(ddof=1) / 3, 9 / 10 * ((left - left.mean()) ** 2).sum()
    assert found.value == pytest.approx(d.mean())
    freedom = (seeds + prompts) ** 2 / (seeds**2 / 2 + prompts**2 / 9)
    assert 2 <= freedom <= 11 and (found.high - found.low) / 2 > 1.96 * (seeds + prompts) ** 0.5


def test_no_interval_where_none_can_be_promised():
    a, b, families = arms(0.05)
    assert cvar_difference(a[:2], b[:2], families).low is None  # two seeds
    assert cvar_difference(a, b, [f"family {i % 9}" for i in range(100)]).low is None
    assert cvar_difference(a, a, families).low is None  # the same
    assert cvar_difference(a, a, families).value == 0
