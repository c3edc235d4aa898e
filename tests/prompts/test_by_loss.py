"""Draws by loss: what is answered worse comes more often, as a function of the seed and of losses that are old enough."""

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from paft.prompts.by_loss import ByLossSampler, ByLossSettings, _capped
from paft.prompts.sampling import Sampler, families_of
from paft.prompts.schedule import Draw
from tests.prompts.test_sampling import POOL, TASK

PER_EPOCH, TOTAL = 50, 200
WORDINGS, LAYOUTS = families_of(POOL, TASK.choice_fields)


def sampler(temperature: float = 1.0, end: float | None = None, share: float = 0.3, lag: int = 4, k: int = 1, **other):
    end = temperature if end is None else end
    settings = ByLossSettings((temperature, end), share, other.pop("corrected", False), lag)
    return ByLossSampler(
        POOL, 0, settings=settings, families=(WORDINGS, LAYOUTS), updates_per_epoch=PER_EPOCH, total_updates=TOTAL, k=k, **other
    )


def draw_of(update: int, k: int = 1) -> Draw:
    return Draw(update // PER_EPOCH, update % PER_EPOCH // k)


def run(one: ByLossSampler, loss: Callable[[int], float], updates: range, ahead: int = 1) -> list[int]:
    """Return the templates of updates of a run that draws so many updates ahead of the one that is trained on."""
    drawn, k = {}, one.k
    for update in updates:
        for u in range(update, min(update + ahead, updates.stop)):
            drawn.setdefault(u, one.index(draw_of(u, k)))
        one.record(update, [drawn[update]] * 8, [loss(drawn[update])] * 8)
    return [drawn[update] for update in updates]


HARD = set(sorted(set(WORDINGS))[::4])


def hard(template: int) -> float:
    return 3.0 if WORDINGS[template] in HARD else 1.0


def share_of_hard(templates: list[int]) -> float:
    return sum(hard(template) == 3 for template in templates) / len(templates)


def test_what_is_answered_worse_is_drawn_more_often_and_at_a_negative_temperature_less_often():
    expected, n = share_of_hard(list(range(len(WORDINGS)))), TOTAL - 60
    found = {t: share_of_hard(run(sampler(t), hard, range(TOTAL))[60:]) for t in (-2.0, 0.01, 2.0)}
    assert found[2.0] > 1.5 * expected and found[-2.0] < 0.7 * expected, found
    assert abs(found[0.01] - expected) < 3 * np.sqrt(expected / n)


def test_a_curriculum_goes_from_easy_to_hard():
    members = [i for i in range(len(WORDINGS)) if hard(i) == 3]
    shares = []
    for end in (40, 100, 160, TOTAL):
        one = sampler(-2.0, 2.0)
        run(one, hard, range(end))
        shares.append(one.probabilities(draw_of(end - 1))[members].sum())
    assert shares == sorted(shares) and shares[0] < len(members) / len(WORDINGS) < shares[-1]


@pytest.mark.parametrize("k", [1, 3, 7])
def test_draws_do_not_depend_on_how_far_ahead_they_are_made(k):
    templates = {ahead: run(sampler(k=k), hard, range(120), ahead) for ahead in (1, 2, 5)}
    assert templates[1] == templates[2] == templates[5]


def test_draws_of_the_first_two_blocks_are_uniform_and_later_ones_wait_for_losses():
    one = sampler(lag=4)
    np.testing.assert_allclose(one.probabilities(draw_of(7)), 1 / len(POOL.templates))
    run(one, hard, range(40), ahead=4)
    assert one.probabilities(draw_of(44)).std() > 0
    with pytest.raises(RuntimeError, match="losses of updates 40 to 43 are not recorded yet"):
        one.index(draw_of(48))


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("ahead", [1, 4])
def test_a_sampler_restored_anywhere_goes_on_as_one_that_was_not_interrupted(k, ahead):
    whole = run(sampler(k=k), hard, range(90), ahead)
    for stop in (1, 3, 4, 5, 11, 12, 37, 48, 89):
        first = sampler(k=k)
        before = run(first, hard, range(stop), ahead)
        for update in range(stop, min(stop + ahead - 1, 90)):
            first.index(draw_of(update, k))  # read ahead
        state = json.loads(json.dumps(first.state()))
        again = sampler(k=k)
        again.restore(state)
        assert before + run(again, hard, range(stop, 90), ahead) == whole, stop
        assert len(json.dumps(state)) < 30_000


def test_corrected_weights_are_those_of_uniform_draws_and_are_capped():
    one = sampler(2.0, corrected=True)
    run(one, hard, range(60))
    draws = [Draw(1, 10, slot) for slot in range(4000)]
    own = one.probabilities(draws[0])
    weights = [one.weight(draw) for draw in draws]
    assert weights[0] == pytest.approx(min(4, 1 / (len(own) * own[one.index(draws[0])])))
    assert np.mean(weights) == pytest.approx(1, abs=0.05) and max(weights) <= 4
    assert sampler(2.0).weight(Draw(0, 0)) == 1
    counts = Counter(one.index(draw) for draw in draws)
    often = int(own.argmax())
    assert counts[often] / len(draws) == pytest.approx(own[often], abs=0.01)


def test_no_template_is_drawn_more_than_four_times_as_often_as_uniformly():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 60):
        own = rng.dirichlet(np.full(n, 0.1))
        capped = _capped(0.9 * own + 0.1 / n)
        assert capped.sum() == pytest.approx(1) and capped.max() <= min(1, 4 / n) + 1e-12
        assert (np.diff(capped[np.argsort(own)]) >= -1e-12).all()
    uniform = np.full(10, 0.1)
    np.testing.assert_array_equal(_capped(uniform), uniform)


def test_losses_of_the_examples_of_an_update_count_once_and_rounding_changes_nothing():
    one, other = sampler(), sampler()
    one.record(0, [3, 3, 5], [1.0, 2.0, 4.0])
    other.record(0, [3, 5], [1.5 + 1e-6, 4.0 - 1e-6])
    assert one.state()["visits"] == other.state()["visits"] == [(0, 3, 1.5), (0, 5, 4.0)]


def test_the_effective_pool_is_the_whole_pool_where_draws_are_uniform():
    one = sampler(3.0, share=0.05)
    assert one.effective_pool((0, 0)) == pytest.approx(len(POOL.templates))
    run(one, hard, range(60))
    assert 1 < one.effective_pool((1, 9)) < 0.9 * len(POOL.templates)


def falling(to: float, hardness: Callable[[int], float], noise: float) -> Callable[[int], float]:
    """Return losses that fall from 1 to so much over the run, times how hard a template is, times luck."""
    rng, updates = np.random.default_rng(0), iter(range(TOTAL))
    return lambda template: to ** (next(updates) / TOTAL) * hardness(template) * float(np.exp(noise * rng.normal()))


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.3, 2.0])
@pytest.mark.parametrize("to", [1.0, 1e-4])
def test_noise_alone_leaves_draws_nearly_uniform_whatever_the_scale_of_losses(noise, to):
    one = sampler(share=0.05, lag=8)
    run(one, falling(to, lambda _: 1.0, noise), range(TOTAL))
    assert one.effective_pool((3, 47)) > 0.9 * len(POOL.templates)


@pytest.mark.parametrize("to", [1.0, 1e-4])
def test_what_is_hard_is_told_whatever_the_scale_of_losses(to):
    drawn = run(sampler(2.0, share=0.05), falling(to, hard, 0.1), range(TOTAL))
    assert share_of_hard(drawn[60:]) > 1.3 * share_of_hard(list(range(len(WORDINGS))))


def test_differences_beyond_noise_move_draws_as_far_as_they_are_known():
    rng = np.random.default_rng(0)
    one, pools = sampler(2.0, share=0.05, lag=8), []
    for first, end in ((0, 40), (40, TOTAL)):
        run(one, lambda i: hard(i) / 4 + 0.3 * rng.normal(), range(first, end))
        pools.append(one.effective_pool((draw_of(end - 1).epoch, draw_of(end - 1).number)))
    assert len(POOL.templates) >= round(pools[0], 6) > pools[1]


def test_the_first_two_blocks_draw_what_a_uniform_sampler_does():
    one, uniform = sampler(lag=8), Sampler(POOL, 0)
    assert [one.index(draw_of(u)) for u in range(16)] == [uniform.index(draw_of(u)) for u in range(16)]
