"""The time of a run, from given measurements."""

import pytest

from paft.training.fit import _later
from paft.training.forecast import ScoringWork, Work
from paft.training.update_loss import UpdateLoss
from tests.conftest import compose_config
from tests.training.test_losses import data_of


def work(**scoring) -> Work:
    sizes = {"validation_renderings": 100, "test_renderings": 10_000} | scoring
    return Work(updates=600, examples_per_update=8, updates_per_validation=200, scoring=ScoringWork(**sizes))


def test_what_is_left_is_updates_validations_and_scoring():
    training_s, scoring_s = work().left(0, first_s=1.0, rendering_s=0.02)
    assert (training_s, scoring_s) == (600 + 3 * 2, 200)
    training_s, scoring_s = work().left(450, first_s=1.0, rendering_s=0.02)
    assert (training_s, scoring_s) == (150 + 2, 200)
    assert work().left(600, first_s=1.0, rendering_s=0.02)[0] == 0


def test_before_a_validation_a_rendering_takes_half_of_what_it_takes_in_training():
    assert work().left(0, first_s=0.8, rendering_s=None) == work().left(0, first_s=0.8, rendering_s=0.05)


def test_the_line_of_the_plan():
    assert work().line(1.08, 1.08, 0.1, rendering_s=0.018) == (
        "  time      about 14 minutes: 11 of training, 3 of scoring 10,000 renderings"
    )
    assert work(searched_s=360.0).line(1.08, 1.08, 0.1, 0.018) == (
        "  time      about 20 minutes: 6 of search, 11 of training, 3 of scoring 10,000 renderings"
    )
    assert work().line(60, 60, 1.0, 1.0) == "  time      about 13 hours: 10 of training, 2.8 of scoring 10,000 renderings"
    assert work(generated=True).line(0.15, 0.15, 0.01, None) == (
        "  time      about 90 seconds: 90 of training, then answers to 10,000 renderings are generated"
    )


def test_the_loop_is_named_where_it_is_more_than_a_third_of_an_update():
    line = work().line(0.006, 0.006, 0.0025, 0.0001)
    assert line.endswith("; of the 6 ms of an update the loop around the model takes 2.5")
    assert "loop" not in work().line(0.006, 0.006, 0.0019, 0.0001)


def test_updates_that_are_computed_twice_take_twice_the_time():
    sizes = ScoringWork(validation_renderings=40, test_renderings=0)
    once, twice = (Work(600, 8, 600, sizes, later=later) for later in ([], [(120, 1.0)]))
    assert twice.left(0, 1.0, 0.0)[0] == once.left(0, 1.0, 0.0)[0] + 480
    assert twice.first_update_s(0, 300, 1.6) == 1.0, "180 of 300 took twice as long"
    assert twice.first_update_s(120, 300, 2.0) == 1.0, "resumed, so that all that were measured took twice as long"
    assert twice.first_update_s(0, 100, 1.0) == 1.0 and twice.left(300, 1.0, 0.0) == once.left(300, 2.0, 0.0)
    both = Work(600, 8, 600, sizes, later=[(120, 1.0), (300, 0.5)])
    assert both.left(0, 1.0, 0.0)[0] == pytest.approx(600 + 480 + 150)
    assert both.first_update_s(0, 200, 1.4) == 1.0
    assert both.left(200, 1.0, 0.0)[0] == pytest.approx(600 + 480 + 150 - 280)


def test_candidates_are_forward_passes_for_each_draw(tiny_overrides):
    own = [*tiny_overrides, "sampler=worst_of", "sampler.candidates=4", "sampler.adversarial=0.5", "sampler.warmup=0.25", "K=3"]
    data = data_of(*own, "loss=perturbed", "loss.warmup=0.5")
    update_loss = UpdateLoss(compose_config(*own, "loss=perturbed", "loss.warmup=0.5").loss, data.updates.total)
    assert data.updates.total == 6 and _later(update_loss, data.updates) == [(3, 1.0), (2, 4 * 0.5 * 0.5 / 3)]
