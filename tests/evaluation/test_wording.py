"""What the wording costs, and which kinds of prompt are worse: said where there is something, not where there is nothing."""

import numpy as np
import pytest

from paft.evaluation.statistics import estimate
from paft.evaluation.tail import cvar
from paft.evaluation.wording import _more_than, cost_of_wording, wording_matters, working_prompts, worse_kinds


def answers(accuracy, n: int, seed: int) -> np.ndarray:
    """Right and wrong of prompts with these true accuracies on n examples, some of which are harder than others."""
    generator = np.random.default_rng(seed)
    ease = generator.normal(0, 0.15, n)
    return (generator.random((len(accuracy), n)) < np.clip(np.asarray(accuracy)[:, None] + ease, 0, 1)).astype(float)


def test_with_few_prompts_the_interval_is_of_these_prompts_and_with_few_rows_there_is_none():
    correct = answers(np.full(6, 0.6), 80, seed=0)
    few = estimate(correct, np.arange(80))
    assert few.low is not None and few.low < correct.mean() < few.high and few.value == correct.mean()
    wide = estimate(answers(np.full(12, 0.6), 80, seed=0), np.arange(80))
    assert wide.low is not None
    assert estimate(correct[:, :9], np.arange(9)).low is None
    assert estimate(correct, np.arange(80) // 10).low is None  # eight groups
    assert estimate(np.zeros((6, 80)), np.arange(80)) == estimate(np.zeros((12, 80)), np.arange(80))


def test_the_interval_of_few_prompts_holds_the_truth_about_as_often_as_it_says():
    truth = np.linspace(0.4, 0.8, 5)
    held = 0
    for seed in range(400):
        found = estimate(answers(truth, 60, seed), np.arange(60))
        held += found.low < truth.mean() < found.high
    assert held >= 0.92 * 400


def test_groups_of_rows_widen_the_interval():
    correct = np.repeat(answers(np.full(5, 0.6), 30, seed=1), 4, axis=1)
    alone, grouped = (estimate(correct, groups) for groups in (np.arange(120), np.arange(120) // 4))
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)
    assert grouped.high == pytest.approx(estimate(correct[:, ::4], np.arange(30)).high)


def test_the_cost_is_that_of_the_worst_tenth_and_not_of_noise():
    truth = np.where(np.arange(40) < 4, 0.5, 0.9)
    found = cost_of_wording(answers(truth, 400, seed=0), np.arange(400))
    assert found.low < truth.mean() - cvar(truth, 0.1) < found.high and found.low > 0 and found.value > 0.3
    alike = answers(np.full(40, 0.7), 60, seed=0)
    apparent = alike.mean() - cvar(alike.mean(1), 0.1)
    nothing = cost_of_wording(alike, np.arange(60))
    assert nothing.low == 0 < nothing.high and nothing.value < 0.6 * apparent


@pytest.mark.parametrize(("prompts", "examples", "std"), [(10, 60, 0.08), (20, 100, 0.0), (50, 100, 0.1)])
def test_the_interval_of_the_cost_holds_the_truth(prompts, examples, std):
    """The truth is that of all prompts of the kind: normal effects, whose worst tenth is 1.755 std below the mean."""
    held = 0
    for seed in range(200):
        effects = np.random.default_rng(10_000 + seed).normal(0.65, std, prompts) if std else np.full(prompts, 0.65)
        found = cost_of_wording(answers(effects, examples, seed), np.arange(examples))
        held += found.low <= 1.755 * std <= found.high
    assert held >= 0.9 * 200


def test_that_the_wording_matters_is_found_and_not_by_luck():
    groups = np.arange(60)
    found = [wording_matters(answers(np.full(20, 0.6), 60, seed), groups) for seed in range(300)]
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.09
    assert wording_matters(answers(np.linspace(0.5, 0.8, 20), 60, seed=0), groups) < 0.001
    assert wording_matters(np.ones((20, 60)), groups) == wording_matters(np.eye(1, 60), groups) == 1
    assert wording_matters(np.eye(4)[:, :1], np.zeros(1, dtype=int)) == 1


def test_no_interval_for_few_prompts_or_rows():
    correct = answers(np.linspace(0.3, 0.9, 12), 40, seed=0)
    assert cost_of_wording(correct, np.arange(40)).low is not None
    for few in (cost_of_wording(correct[:9], np.arange(40)), cost_of_wording(correct[:, :9], np.arange(9))):
        assert few.low is None and few.value > 0.1
    assert cost_of_wording(correct[:, :1], np.zeros(1, dtype=int)).low is None


def test_kinds_are_named_where_they_are_worse_and_not_by_luck():
    accuracy = np.random.default_rng(0).normal(0.8, 0.03, 24)
    names = ["lines", "inline", "table"] * 8
    assert worse_kinds(accuracy, names, 0.05) == []
    accuracy[2::3] -= 0.2
    (found,) = worse_kinds(accuracy, names, 0.05)
    assert (found.name, found.prompts) == ("table", 8)
    assert found.mean == pytest.approx(accuracy[2::3].mean()) and found.others == pytest.approx(
        accuracy[np.arange(24) % 3 < 2].mean()
    )
    assert worse_kinds(accuracy, ["", *["one"] * 23], 0.05) == [] == worse_kinds(accuracy, [""] * 24, 0.05)
    alone = np.r_[0.1, np.full(9, 0.9)]
    assert worse_kinds(alone, [f"{i}" for i in range(10)], 0.05) == []  # some prompt is the worst in every draw


def test_a_kind_is_named_by_luck_no_more_often_than_it_says():
    named = 0
    for seed in range(300):
        accuracy = np.random.default_rng(seed).normal(0.8, 0.05, 20)
        named += bool(worse_kinds(accuracy, [f"{i % 4}" for i in range(20)], 0.05, draws=400))
    assert named <= 0.08 * 300


@pytest.mark.parametrize(("prompts", "examples", "chance"), [(2, 20, 0.25), (20, 10, 0.5), (50, 12, 0.5), (200, 20, 0.5)])
def test_a_prompt_is_called_better_than_guessing_by_luck_no_more_often_than_it_says(prompts, examples, chance):
    """By the tests of single prompts alone, whether or not the wording is shown to matter."""
    generator, groups = np.random.default_rng(0), np.arange(examples)
    guessed = [(generator.random((prompts, examples)) < chance) * 1.0 for _ in range(400)]
    assert np.mean([_more_than(correct, chance, groups, 0.05).any() for correct in guessed]) <= 0.05


def test_prompts_that_work_are_found_and_only_where_prompts_differ():
    generator, groups = np.random.default_rng(0), np.arange(100)
    correct = (generator.random((20, 100)) < np.where(np.arange(20) < 3, 0.9, 0.25)[:, None]) * 1.0
    assert list(np.flatnonzero(working_prompts(correct, 0.25, None, groups, 0.05))) == [0, 1, 2]
    assert not working_prompts(correct, 0.25, None, groups // 12, 0.05).any()  # nine groups of rows
    alike = (generator.random((20, 100)) < 0.4) * 1.0  # some pass the test, and some do not, by luck
    assert _more_than(alike, 0.25, groups, 0.05).any() and not working_prompts(alike, 0.25, None, groups, 0.05).any()
    assert not working_prompts(correct[:3], 0.25, None, groups, 0.05).any()  # all work


def test_a_prompt_that_repeats_the_commonest_answer_does_not_work():
    gold = np.arange(100) % 5 > 0
    correct = np.stack([gold, ~gold, ~gold]) * 1.0
    assert not working_prompts(correct, 0.5, gold * 1.0, np.arange(100), 0.05).any()
    assert not _more_than(
        np.tile(np.arange(90) % 3 == 0, (4, 1)) * 1.0, 1 / 3, np.arange(90) // 3, 0.05
    ).any()  # exactly chance


def test_the_cost_is_never_more_than_all_that_is_right():
    """Of twelve prompts one fails throughout: its interval would otherwise end far above 100 points."""
    correct = np.ones((12, 24))
    correct[0] = 0
    found = cost_of_wording(correct, np.arange(24))
    assert found.low is not None and found.low >= 0 and found.high <= correct.mean()
