"""How many seeds, prompts and examples show a difference: power from a pilot."""

from dataclasses import replace

import numpy as np
import pytest

from paft.evaluation.statistics import seed_variance
from paft.evaluation.tail import cvar, cvar_difference
from paft.reporting.power import SEEDS, Pilot, _arms, _hardness, _influence, _noise, cheapest, power, read_pilot
from paft.runtime.errors import InputError

PILOT = Pilot(np.random.default_rng(0).normal(0.8, 0.05, 50), seed=0.01, prompt=0.05, interaction=0.02, method=0.01)


def test_power_grows_with_the_difference_and_with_the_study():
    small = power(PILOT, 0.02, 3, 50, 100, 0.1, trials=100)
    assert power(PILOT, 0.08, 3, 50, 100, 0.1, trials=100) > small
    assert power(PILOT, 0.02, 24, 200, 200, 0.1, trials=100) > small + 0.2
    assert power(PILOT, 0.02, 8, 200, 200, 1.0, trials=100) > power(PILOT, 0.02, 8, 200, 200, 0.1, trials=100)  # the mean


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_where_there_is_no_difference_few_studies_find_one(share):
    assert power(PILOT, 0.0, 8, 200, 100, share, trials=300) <= 0.05


def test_arms_vary_over_seeds_in_their_tails_as_the_pilot_does(tmp_path):
    """Seeds that make all hard prompts harder together move the tail more than luck that is each prompt's own."""
    rng = np.random.default_rng(0)
    effects = 0.1 * (1 - rng.gamma(1.0, 1.0, 100))
    for hardness in (0.0, 0.5):
        harder = 1 + hardness * rng.standard_normal((40, 1))
        truth = np.clip(0.8 + harder * effects + 0.01 * rng.standard_normal((40, 100)), 0, 1)
        side = (rng.random((40, 100, 100)) < truth[..., None]).astype(float)
        own = seed_variance(side, np.arange(100))
        pilot = Pilot(side.mean((0, 2)), own.seed, own.prompt, own.interaction, method=0.0)
        pilot = replace(pilot, hardness=_hardness(pilot, [side]))
        drawn = np.concatenate(_arms(pilot, 0.0, 200, 100, 100, rng))
        assert cvar(drawn, 0.1).std() == pytest.approx(cvar(side.mean(2), 0.1).std(), rel=0.35)
        assert pilot.hardness == pytest.approx(hardness, abs=0.2)


def test_a_pilot_whose_prompts_hardly_vary_has_no_hardness_to_fit():
    rng = np.random.default_rng(0)
    for prompt in (0.0, 0.01):
        pilot = Pilot(rng.normal(0.8, 0.01, 60), seed=0.02, prompt=prompt, interaction=0.01, method=0.0)
        side = (rng.random((8, 60, 100)) < rng.normal(0.8, 0.05, (8, 1, 1))).astype(float)  # by luck its seeds vary more
        assert _hardness(pilot, [side]) <= pilot.interaction / max(prompt, 1e-9)
        assert 0 <= power(replace(pilot, hardness=_hardness(pilot, [side])), 0.05, 8, 60, 100, 0.1, trials=20) <= 1


def test_the_noise_of_a_pilot_is_that_of_its_scores():
    """The variance over examples of right and wrong is p (1 - p); that of scores is less, and arms are drawn with it."""
    rng = np.random.default_rng(0)
    right = (rng.random((3, 30, 200)) < 0.7).astype(float)
    assert _noise(right) == pytest.approx(1) and _noise(np.ones((2, 3, 4))) == 1
    scores = np.clip(rng.normal(0.7, 0.1, (3, 30, 200)), 0, 1)
    assert _noise(scores) == pytest.approx(0.01 / 0.21, rel=0.1)
    calm = Pilot(np.full(50, 0.7) + rng.normal(0, 1e-6, 50), seed=0, prompt=0, interaction=0, method=0, noise=_noise(scores))
    arms = np.concatenate(_arms(calm, 0.0, 50, 200, 100, rng))
    assert arms.var() == pytest.approx(0.01 / 100, rel=0.1)
    whole = Pilot(calm.accuracies, seed=0, prompt=0, interaction=0, method=0)
    assert np.concatenate(_arms(whole, 0.0, 50, 200, 100, rng)).var() == pytest.approx(0.21 / 100, rel=0.1)


def test_the_influence_of_a_prompt_is_what_the_jackknife_finds():
    """The variance by influences is near that of leaving out a family at a time."""
    rng = np.random.default_rng(1)
    a, b = ((rng.random((8, 200, 100)) < p).astype(float) for p in (rng.normal(0.8, 0.05, (8, 200, 1)), 0.78))
    families = [f"f{i // 4}" for i in range(200)]
    found = cvar_difference(a, b, families)
    by_seed = cvar(a.mean(2), 0.1) - cvar(b.mean(2), 0.1)
    influence = (_influence(a.mean(2), 0.1) - _influence(b.mean(2), 0.1)).mean(0)
    sums = influence.reshape(50, 4).sum(1) / 200
    variance = 50 / 49 * ((sums - sums.mean()) ** 2).sum() + by_seed.var(ddof=1) / 8
    assert found.value == pytest.approx(by_seed.mean())
    assert (found.high - found.low) / 2 / 2.05 == pytest.approx(variance**0.5, rel=0.25)


def test_the_cheapest_study_with_enough_power():
    none = [0.0] * len(SEEDS)
    found = {(50, 100): [*none[:-1], 0.9], (200, 100): [0.1, 0.5, 0.85, *none[3:]]}
    assert cheapest(found) == (8, 200, 100)  # 160,000 cells instead of 240,000
    assert cheapest({(50, 100): none}) is None


def test_a_pilot_of_kept_runs(capsys, monkeypatch):
    import sys
    from pathlib import Path

    from paft.cli.power import main

    runs = Path(__file__).parents[2] / "experiments/results/race_qwen05/runs"
    paft, user = (sorted(runs.glob(f"race-qwen05-{method}-*")) for method in ("paft", "user"))
    pilot = read_pilot(paft, user)
    assert len(pilot.accuracies) == 50 and pilot.prompt > pilot.seed > 0 and pilot.method > 0.02
    some = read_pilot(paft, user, prompts=[3, 5, 8])
    assert some.accuracies.tolist() == pilot.accuracies[[3, 5, 8]].tolist() and some.prompt != pilot.prompt
    with pytest.raises(InputError, match="two seeds"):
        read_pilot(paft[:1])
    monkeypatch.setattr("paft.reporting.power.SIZES", ((50, 100),))
    monkeypatch.setattr("paft.reporting.power.SEEDS", (3, 8))
    monkeypatch.setattr(sys, "argv", ["paft power", ",".join(map(str, paft)), "--difference", "30", "--measure", "mean"])
    main()
    said = " ".join(capsys.readouterr().out.split())
    assert "30 points of mean" in said and "seeds a method, 50 prompts x 100 examples" in said
