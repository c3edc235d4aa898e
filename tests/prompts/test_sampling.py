"""Which template a draw gives: uniform, balanced, mutated."""

from collections import Counter
from itertools import pairwise

import pytest

from paft.data.tasks import BUILT_IN
from paft.data.updates import Updates, sampler_of, updates_of
from paft.prompts import PromptPool, PromptTemplate, Schedule, find_pool
from paft.prompts.mutate import MUTATIONS, Mutator
from paft.prompts.sampling import BalancedSampler, Sampler, families_of, uniform
from paft.prompts.schedule import Draw
from tests.conftest import compose_config

TASK = BUILT_IN["story_facts"]
POOL = find_pool(None, TASK.pools, "train", TASK.form("text", "shown"))
FIRST = [10, 1, 15, 16, 1, 42, 24, 13]
MUTATOR = Mutator(MUTATIONS, TASK.choice_fields, "story", "text")


def balanced(pool: PromptPool = POOL, seed: int = 0, per_epoch: int = 13, per_draw: int = 1) -> BalancedSampler:
    return BalancedSampler(pool, seed, None, 1.0, per_epoch, per_draw, TASK.choice_fields)


def dealt(sampler: BalancedSampler, epochs: int) -> list[int]:
    return [
        sampler.index(Draw(epoch, number, slot))
        for epoch in range(epochs)
        for number in range(sampler.draws_per_epoch)
        for slot in range(sampler.per_draw)
    ]


def test_uniform_draws_are_those_of_earlier_versions():
    """The first draws of seed 0 from 60 templates, as they were when the schedule drew an index."""
    assert [uniform(Draw(0, i), 60, 0) for i in range(8)] == FIRST
    assert Sampler(POOL, 0).template(Draw(0, 1), FIRST[1]) is POOL.templates[FIRST[1]]


def test_slots_of_an_update_are_draws_of_their_own():
    drawn = [[uniform(Draw(e, n, slot), 10**12, 0) for slot in range(8)] for e in range(3) for n in range(20)]
    assert len({index for slots in drawn for index in slots}) == 8 * 60


@pytest.mark.parametrize("per_draw", [1, 2, 4, 8])
def test_every_template_is_dealt_before_any_comes_again(per_draw):
    n = len(POOL.templates)
    found = dealt(balanced(per_epoch=13, per_draw=per_draw), 24)
    for start in range(0, len(found) - n, n):
        assert sorted(found[start : start + n]) == list(range(n))
    assert found[:n] != found[n : 2 * n]  # each deck is shuffled anew
    assert found != dealt(balanced(seed=1, per_epoch=13, per_draw=per_draw), 24)


def test_wordings_take_turns():
    wordings, layouts = families_of(POOL, TASK.choice_fields)
    found = dealt(balanced(per_epoch=60), 10)
    same_wording = sum(wordings[a] == wordings[b] for a, b in pairwise(found))
    same_layout = sum(layouts[a] == layouts[b] for a, b in pairwise(found))
    uniformly = [uniform(Draw(e, n), 60, 0) for e in range(10) for n in range(60)]
    assert same_wording <= 10  # between two decks at most
    assert same_layout < sum(layouts[a] == layouts[b] for a, b in pairwise(uniformly))
    for start in range(0, 600, 60):  # the first half of a deck shows nearly all wordings
        assert len({wordings[i] for i in found[start : start + 30]}) >= len({*wordings}) - 2


def test_balanced_draws_do_not_depend_on_the_order_in_which_they_are_asked_for():
    forwards = dealt(balanced(), 12)
    backwards = balanced()
    draws = [Draw(e, n) for e in range(12) for n in range(13)]
    assert [backwards.index(draw) for draw in reversed(draws)] == forwards[::-1]


def test_families_that_a_pool_does_not_name_are_found():
    texts = [f"{word} the story and {verb}.\n{{story}}\n{{question}}\n{{A}} {{B}} {{C}} {{D}}\nAnswer:"
             for word in ("Read", "Read carefully", "Please read") for verb in ("answer", "then answer")]  # fmt: skip
    texts += [
        f"You are a detective who solves case {i}.\n{{story}}\n{{question}}\n- {{A}}\n- {{B}}\n- {{C}}\n- {{D}}\nIt is"
        for i in "abc"
    ]
    pool = PromptPool("mine", tuple(PromptTemplate(text, f"p{i}") for i, text in enumerate(texts)), "text", "shown")
    wordings, layouts = families_of(pool, TASK.choice_fields)
    assert len({*wordings[:6]}) < 6 and {*wordings[:6]}.isdisjoint(wordings[6:]) and len({*layouts}) == 2
    found = dealt(balanced(pool, per_epoch=9), 5)
    assert all(sorted(found[i : i + 9]) == list(range(9)) for i in range(0, 45, 9))


@pytest.mark.parametrize(
    "make", [lambda: Sampler(POOL, 3, MUTATOR), lambda: BalancedSampler(POOL, 3, MUTATOR, 1.0, 20, 2, "ABCD")]
)
def test_mutated_draws_are_pure_and_of_the_template_that_was_drawn(make):
    draws = [Draw(e, n, slot) for e in range(3) for n in range(20) for slot in range(2)]
    one, other = make(), make()
    texts = [one.template(draw, one.index(draw)).text for draw in draws]
    assert [other.template(draw, other.index(draw)).text for draw in reversed(draws)] == texts[::-1]
    assert len({*texts}) > 80  # of 120, some templates have no parts
    for draw in draws:
        assert one.template(draw, one.index(draw)).id.startswith(POOL.templates[one.index(draw)].id)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_only_a_share_of_the_draws_is_mutated(share):
    sampler = Sampler(POOL, 0, MUTATOR, share)
    whole = Sampler(POOL, 0, MUTATOR)

    def changed(one: Sampler) -> int:
        indices = [one.index(Draw(0, i)) for i in range(800)]
        return sum(one.template(Draw(0, i), index) is not POOL.templates[index] for i, index in enumerate(indices))

    assert changed(sampler) / changed(whole) == pytest.approx(share, abs=0.06)


def test_an_update_holds_as_many_templates_as_it_is_told():
    for per_update in (1, 2, 3, 8):
        updates = Updates(50, 8, 2, Schedule(2), Sampler(POOL, 0), per_update)
        for epoch in range(2):
            for tagged in updates.of_epoch(epoch):
                slots = [tag.draw.slot for tag in tagged]
                assert slots == sorted(slots) and len({*slots}) == min(per_update, len(tagged))
                assert max(Counter(slots).values()) <= -(-len(tagged) // min(per_update, len(tagged)))


def test_the_order_of_the_examples_is_the_same_under_every_sampler():
    def rows(*overrides: str) -> list[int]:
        updates = updates_of(compose_config("T=2", *overrides), 50, POOL, TASK)
        return [tag.row for epoch in range(2) for tagged in updates.of_epoch(epoch) for tag in tagged]

    ordinary = rows()
    for overrides in (("sampler=balanced",), ("sampler=mutated",), ("sampler.templates_per_update=4",)):
        assert rows(*overrides) == ordinary


def test_the_config_says_which_sampler():
    config = compose_config()
    assert type(sampler_of(config, POOL, TASK, 10, 10)) is Sampler and sampler_of(config, POOL, TASK, 10, 10).mutator is None
    mixed = sampler_of(compose_config("sampler=mutated", "sampler.balanced=true", "sampler.share=0.5"), POOL, TASK, 10, 10)
    assert isinstance(mixed, BalancedSampler) and mixed.share == 0.5
    assert mixed.mutator is not None and set(mixed.mutator.kinds) == set(MUTATIONS)
    fixed = compose_config("sampler=mutated", "method=user")
    assert sampler_of(fixed, POOL, TASK, 10, 10).mutator is None  # its one prompt is shown as it is


def test_a_run_counts_the_layouts_it_shows():
    seen = updates_of(compose_config("sampler=mutated", "K=1", "T=3"), 400, POOL, TASK).seen()
    assert seen.draws == 150 and seen.templates <= 60 and 100 < seen.layouts <= 150
    assert updates_of(compose_config(), 400, POOL, TASK).seen().layouts == 0
