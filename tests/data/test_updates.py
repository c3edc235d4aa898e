"""Which examples an update sees, under which templates, and how they reach the trainer."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from paft.data.batch import MicroBatch, Update, split_into_micro_batches
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.tasks import BUILT_IN
from paft.data.tasks.story_facts import generate_rows
from paft.data.updates import Coverage, Updates
from paft.prompts import PromptPool, PromptTemplate, Schedule
from paft.prompts.sampling import Sampler, uniform
from paft.prompts.schedule import Draw
from tests.conftest import compose_config

UNITS = ("update", "example", "row")


def plan(n=50, size=8, epochs=3, pool=24, k=4, seed=0, unit="update") -> Updates:
    return Updates(n, size, epochs, Schedule(k, unit), OfSize(pool, seed))


class OfSize(Sampler):
    """Uniform draws from a pool of which only the size is known."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(PromptPool("none", (), "text", "shown"), seed)
        self.size = size

    def index(self, draw: Draw) -> int:
        return uniform(draw, self.size, self.seed)


def order(one: Updates, epoch: int) -> list[int]:
    return [tag.row for update in one.of_epoch(epoch) for tag in update]


# The order of the examples.


@pytest.mark.parametrize(("n", "size"), [(50, 8), (48, 8), (5, 8), (1, 1), (8, 8), (9, 8), (7, 1)])
def test_every_example_comes_once_an_epoch_and_the_last_update_is_smaller(n, size):
    one = plan(n, size)
    for epoch in range(3):
        updates = list(one.of_epoch(epoch))
        assert sorted(tag.row for update in updates for tag in update) == list(range(n))
        assert len(updates) == one.per_epoch == -(-n // size)
        assert [len(update) for update in updates[:-1]] == [size] * (len(updates) - 1)
        assert len(updates[-1]) == (n % size or size)


def test_the_order_differs_by_epoch_and_seed():
    orders = [tuple(order(plan(seed=seed), epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25
    assert tuple(range(50)) not in orders


def test_the_order_does_not_depend_on_the_prompts():
    """All methods see the same examples in the same order: a fixed prompt is a pool of one."""
    others = [plan(pool=1), plan(pool=400), plan(k=1), plan(k=100), plan(epochs=9), plan(unit="example"), plan(unit="row")]
    for epoch in range(3):
        assert all(order(other, epoch) == order(plan(), epoch) for other in others)


def test_the_order_does_not_depend_on_the_size_of_an_update():
    assert order(plan(size=3), 1) == order(plan(size=16), 1)


def test_every_place_is_as_likely_for_every_example():
    n, epochs = 10, 600
    one = plan(n, 4, epochs)
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), order(one, epoch)] += 1
    chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert 30 < chi_square < 150  # 81 degrees of freedom: mean 81, standard deviation 13


@pytest.mark.parametrize("unit", UNITS)
def test_an_epoch_resumes_at_any_update(unit):
    one = plan(unit=unit)
    updates = list(one.of_epoch(2))
    for first in range(len(updates) + 1):
        assert list(one.of_epoch(2, first_update=first)) == updates[first:]


# The templates.


@pytest.mark.parametrize("unit", UNITS)
def test_the_tags_are_those_of_the_schedule(unit):
    one = plan(k=3, unit=unit)
    for epoch in range(3):
        position = 0
        for number, update in enumerate(one.of_epoch(epoch)):
            for tag in update:
                draw = one.schedule.draw(epoch=epoch, update=number, position=position, row=tag.row)
                assert tag.draw == draw and tag.template == one.sampler.index(draw)
                position += 1


def test_an_update_has_one_template_and_k_updates_share_it():
    updates = list(plan(n=80, pool=10**12, k=4).of_epoch(0))
    drawn = [{tag.template for tag in update} for update in updates]
    assert all(len(templates) == 1 for templates in drawn)
    assert drawn == [drawn[i // 4 * 4] for i in range(10)]
    assert len(set.union(*drawn)) == 3


def test_a_frozen_row_keeps_its_template():
    one = plan(unit="row")
    found = [{tag.row: tag.template for update in one.of_epoch(epoch) for tag in update} for epoch in range(3)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("n", "size", "epochs", "k"), [(50, 8, 3, 4), (50, 8, 1, 1), (48, 8, 2, 3), (13, 5, 4, 100), (1, 8, 2, 2)]
)
def test_templates_seen_is_what_a_run_sees(unit, n, size, epochs, k):
    def seen(pool: int) -> list[int]:
        one = plan(n, size, epochs, pool, k, unit=unit)
        return [tag.template for epoch in range(epochs) for update in one.of_epoch(epoch) for tag in update]

    # From a pool so large every draw gives a template of its own: counting templates counts draws.
    draws = len(set(seen(10**12)))
    assert plan(n, size, epochs, 10**12, k, unit=unit).seen() == Coverage(draws, draws, 0)
    for pool in (1, 5, 24):
        assert plan(n, size, epochs, pool, k, unit=unit).seen() == Coverage(draws, len(set(seen(pool))), 0)


# Micro-batches.


def check_split(lengths: Sequence[int], budget: int) -> list[list[int]]:
    batches = split_into_micro_batches(list(lengths), budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[index] for index in batch) <= budget or len(batch) == 1
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat)
    return batches


def test_micro_batches_cover_an_update_within_the_budget():
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 200, size=rng.integers(1, 40)).tolist()
        budget = int(rng.integers(1, 2000))
        batches = check_split(lengths, budget)
        assert all(batches)


def test_a_longer_example_is_alone():
    assert check_split([10, 500, 10, 600], 100) == [[0, 2], [1], [3]]
    assert check_split([7, 7, 7], 1) == [[0], [1], [2]]
    assert check_split([7], 1) == [[0]]


def test_what_fits_stays_together():
    assert check_split([10, 30, 20], 60) == [[0, 2, 1]]
    assert check_split([10, 30, 20], 59) == [[0, 2], [1]]


# The way to the trainer.

TASK = BUILT_IN["story_facts"]
EXAMPLES = [TASK.example("here", row, f"{i}", "story_facts") for i, row in enumerate(generate_rows("train", 21))]
POOL = PromptPool(
    "mine",
    tuple(
        PromptTemplate(text, id=text[:3])
        for text in ("{story} {question}", "{question}\n{story}\nAnswer:\n", "1) {A} 2) {B} 3) {C} 4) {D}\n{story}\n{question}")
    ),
    "text",
    "shown",
)


def data_module(tiny_llama: Path, *, workers=0, epoch=0, done=0, budget=300, unit="update") -> PaftDataModule:
    """Return a data module whose trainer has done so many updates of an epoch."""
    machine = (f"trainer.workers={workers}", f"trainer.micro_batch_tokens={budget}")
    config = compose_config("examples_per_update=4", "T=3", "K=2", "seed=3", f"schedule.unit={unit}", *machine)
    encoder = Encoder(AutoTokenizer.from_pretrained(tiny_llama), "text", cutoff=1024)
    data = PaftDataModule(EXAMPLES, POOL, encoder, config, TASK)
    data.trainer = SimpleNamespace(current_epoch=epoch, global_step=epoch * data.updates.per_epoch + done)
    return data


def tensors(batch: MicroBatch) -> list[torch.Tensor]:
    packing = batch.packing
    parts = [x for r in packing.layout for x in (r.token, r.place, r.position, r.allowed)]
    return [packing.input_ids, packing.position_ids, *parts, batch.positions, batch.targets]


def same(one: Sequence[Update], other: Sequence[Update]) -> bool:
    def content(update: Update) -> tuple:
        figures = (update.n_tokens, update.n_targets, update.templates, update.n_truncated)
        return figures, [[tensor.tolist() for tensor in tensors(batch)] for batch in update.micro_batches]

    return [content(update) for update in one] == [content(update) for update in other]


def test_the_loader_gives_the_updates_of_the_epoch(tiny_llama):
    data = data_module(tiny_llama, epoch=1)
    loader = data.train_dataloader()
    updates = list(loader)
    assert len(loader) == len(updates) == 6
    for update, tagged in zip(updates, data.updates.of_epoch(1), strict=True):
        assert update.templates == [tag.template for tag in tagged]
        ends = data.renderings.encoder.tokenizer.eos_token_id
        assert sum(int((batch.targets == ends).sum()) for batch in update.micro_batches) == len(tagged)
    assert not same(updates, list(data_module(tiny_llama, epoch=2).train_dataloader()))


@pytest.mark.parametrize("unit", UNITS)
def test_workers_change_nothing(tiny_llama, unit):
    alone = list(data_module(tiny_llama, epoch=1, unit=unit).train_dataloader())
    assert same(alone, list(data_module(tiny_llama, epoch=1, unit=unit).train_dataloader()))
    assert same(alone, list(data_module(tiny_llama, workers=2, epoch=1, unit=unit).train_dataloader()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_what_it_would_have_seen(tiny_llama, workers):
    whole = list(data_module(tiny_llama, epoch=2).train_dataloader())
    resumed = list(islice(data_module(tiny_llama, workers=workers, epoch=2, done=4).train_dataloader(), 6))
    assert len(resumed) == 2 and same(resumed, whole[4:])


def test_the_budget_changes_nothing_but_the_split(tiny_llama):
    loaded = [list(data_module(tiny_llama, budget=budget).train_dataloader()) for budget in (1, 300, 100_000)]
    for updates in zip(*loaded, strict=True):
        assert len({(u.n_tokens, u.n_targets, tuple(u.templates)) for u in updates}) == 1
        targets = [sorted(t for batch in u.micro_batches for t in batch.targets.tolist()) for u in updates]
        assert targets[0] == targets[1] == targets[2] and len(targets[0]) == updates[0].n_targets
    assert [len(u.micro_batches) for u in loaded[0]] == [4, 4, 4, 4, 4, 1]
    assert [len(u.micro_batches) for u in loaded[2]] == [1] * 6


def test_an_update_moves_to_a_device_as_a_whole(tiny_llama):
    data = data_module(tiny_llama)
    update = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(update, torch.device("meta"), 0)
    assert all(tensor.device.type == "meta" for batch in moved.micro_batches for tensor in tensors(batch))
    assert (moved.n_tokens, moved.templates) == (update.n_tokens, update.templates)
    assert data.transfer_batch_to_device(0, torch.device("meta"), 0) == 0  # the empty validation batch
    assert list(data.val_dataloader()) == [0]
