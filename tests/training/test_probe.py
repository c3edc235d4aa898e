"""Adversarial choice: a draw takes the candidate that the model answers worst, and everything repeats it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from paft.config.compose import from_dict
from paft.config.schema import SamplerConfig
from paft.data.inputs import load_inputs
from paft.data.shots import Shots
from paft.jobs.one_run import prepare
from paft.jobs.planning import idle_sampler, sampler_notes
from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from paft.training.losses import answer_loss
from paft.training.probe import Probe, losses_of, worst
from tests.conftest import compose_config, whole_and_resumed
from tests.training.test_losses import ADAPTER, data_of
from tests.training.test_module import adapted

WORST = ["sampler=worst_of", "sampler.adversarial=1", "sampler.warmup=0", "K=2"]


def log(folder: Path) -> list[dict[str, float]]:
    (path,) = folder.glob("log/version_*/metrics.csv")
    names = ("loss", "template", "probe_margin")
    return [{name: float(row[name]) for name in names} for row in csv.DictReader(path.open(encoding="utf-8")) if row["loss"]]


def test_the_worst_candidate_of_the_draws_first_update_is_taken_for_all_its_updates(tiny_overrides, tiny_llama):
    model, data = adapted(tiny_llama), data_of(*tiny_overrides, *WORST)
    updates = [data.renderings[tagged] for tagged in data.updates.of_epoch(0)]
    candidates = [updates[0], *updates[0].others]
    assert len(candidates) == 4 and len({one.templates[0] for one in candidates}) > 1
    with torch.no_grad():
        losses = [float(sum(answer_loss(model, b) for b in one.micro_batches)) / one.n_targets for one in candidates]
    probe = Probe()
    assert losses_of(model, candidates) == pytest.approx(losses, abs=1e-4)
    taken = int(np.argmax(losses))
    assert probe.chosen(model, updates[0]) is candidates[taken]
    assert probe.margin == pytest.approx(max(losses) - sum(losses) / 4, abs=2e-4)
    assert probe.tokens == sum(one.n_tokens for one in candidates)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # whatever the weights are now
    assert probe.chosen(model, updates[1]).templates == [updates[1].templates, *(o.templates for o in updates[1].others)][taken]
    assert probe.tokens == sum(one.n_tokens for one in candidates)


def test_candidates_differ_in_the_template_alone(tiny_overrides, monkeypatch):
    data = data_of(*tiny_overrides, *WORST, "dataset.shots=2")
    tag = next(iter(data.updates.of_epoch(0)))[0]
    seen, of = [], Shots.of
    monkeypatch.setattr(Shots, "of", lambda shots, draw, row: seen.append(of(shots, draw, row)) or seen[-1])
    data.renderings[[tag]]
    assert len(seen) == 4 and len(seen[0]) == 2 and seen == [seen[0]] * 4


def test_candidates_may_be_layouts_of_one_template(tiny_overrides):
    layouts = ["sampler.mutations=[order,labels,separators]", "sampler.candidates_are=layouts"]
    for more in [], ["sampler.balanced=true"], ["train_prompts=2"]:  # fewer prompts than candidates
        data = data_of(*tiny_overrides, *WORST, *layouts, *more)
        updates = [data.renderings[update] for epoch in (0, 1) for update in data.updates.of_epoch(epoch)]
        assert all({*other.templates} == {*update.templates} for update in updates for other in update.others)
        sampler = data.updates.sampler
        can_change = [sampler.mutator.can_change(sampler.pool.templates[update.templates[0]]) for update in updates]
        tried = [len(update.others) for update in updates]
        assert any(tried) and all(can for can, n in zip(can_change, tried, strict=True) if n)
    balanced = ["sampler.balanced=true", "K=2"]  # no card of the deck goes to a layout
    plain, several = (data_of(*tiny_overrides, *more).updates for more in (balanced, [*WORST, *layouts, *balanced]))
    assert [[tag.template for tag in update] for update in plain.of_epoch(0)] == [
        [tag.template for tag in update] for update in several.of_epoch(0)
    ]
    mutated = data_of(*tiny_overrides, "K=2", layouts[0])  # the first candidate is the layout that it has without the others
    data = data_of(*tiny_overrides, *WORST, *layouts)
    for one, other in zip(mutated.updates.of_epoch(0), data.updates.of_epoch(0), strict=True):
        for a, b in zip(mutated.renderings[one].micro_batches, data.renderings[other].micro_batches, strict=True):
            assert torch.equal(a.packing.input_ids, b.packing.input_ids)


def test_a_candidate_that_comes_twice_is_tried_once(tiny_overrides):
    data = data_of(*tiny_overrides, *WORST, "sampler.candidates=2", "train_prompts=2")
    tagged = [update for epoch in (0, 1) for update in data.updates.of_epoch(epoch)]
    drawn = [{data.updates.sampler.index(update[0].draw._replace(slot=slot)) for slot in (0, 1)} for update in tagged]
    assert [1 + len(data.renderings[update].others) for update in tagged] == [len(own) for own in drawn]
    assert {len(own) for own in drawn} == {1, 2}


def test_only_the_draws_that_take_the_worst_are_rendered_with_several(tiny_overrides):
    data = data_of(*tiny_overrides, *WORST, "sampler.adversarial=0.5", "sampler.warmup=0.5", "train_examples=64")
    by_draw = {}
    for epoch in (0, 1):
        for tagged in data.updates.of_epoch(epoch):
            update = data.renderings[tagged]
            by_draw.setdefault(update.draw, []).append(1 + len(update.others))
    assert [len(set(numbers)) for numbers in by_draw.values()] == [1] * 8 and {*by_draw[0, 0]} == {1}
    assert {n for (epoch, _), (n, *_) in by_draw.items() if epoch == 0} == {1}
    assert {n for (epoch, _), (n, *_) in by_draw.items() if epoch == 1} == {1, 4}


def test_of_equal_candidates_the_first_is_taken():
    assert worst([1.0, 2.0, 2.0]) == 1


def test_draws_take_the_first_candidate_in_the_warm_up_and_by_their_share(tiny_overrides):
    def chosen(*overrides: str) -> tuple[list[float], list[float]]:
        config = compose_config(*tiny_overrides, *WORST, *overrides, "train_examples=64", "K=1")
        own = log(run_training(config).folder)
        return [row["template"] for row in own], [row["probe_margin"] for row in own]

    uniform = [float(tagged[0].template) for epoch in (0, 1)
               for tagged in data_of(*tiny_overrides, "train_examples=64", "K=1").updates.of_epoch(epoch)]  # fmt: skip
    templates, margins = chosen("sampler.warmup=0.5")
    assert templates[:8] == uniform[:8] and margins[:8] == [0.0] * 8
    assert templates[8:] != uniform[8:] and min(margins[8:]) > 0
    some = chosen("sampler.adversarial=0.5")[1]
    assert 0 < sum(margin > 0 for margin in some) < 16


def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch):
    own = [*tiny_overrides, *WORST, "trainer.checkpoint_every=1", "model.lora.dropout=0.1"]
    whole, resumed = whole_and_resumed(own, tmp_path / "again", monkeypatch)  # in the middle of a draw
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()
    assert resumed.training.probe_tokens == whole.training.probe_tokens > 0
    assert resumed.training.tokens == whole.training.tokens


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedule.unit=example"], "needs schedule.unit=update"),
        (["sampler.templates_per_update=2"], "leave one out"),
        (["sampler.adversarial=1.5"], "sampler.adversarial"),
        (["sampler.candidates=0"], "sampler.candidates"),
        (
            ["sampler.candidates=1", "sampler.adversarial=1"],
            "sampler.adversarial=1.0 does nothing without sampler.candidates=4",
        ),
        (["sampler.candidates=65"], "sampler.candidates=65"),
        (["sampler.adversarial=0"], "no draw takes the worst"),
        (["sampler.candidates_are=layouts"], "needs sampler.candidates=2 or more, and sampler.mutations"),
        (["sampler.candidates_are=layouts", "sampler.mutations=[order]", "sampler.candidates=1"], "candidates=2 or more"),
        (["sampler.candidates_are=orders"], "sampler.candidates_are"),
    ],
)
def test_what_is_no_choice_is_refused(overrides, said):
    with pytest.raises(InputError, match=said):
        compose_config("sampler=worst_of", *overrides)


def test_the_plan_says_when_draws_take_the_worst_and_a_run_where_none_does_is_warned_of(tiny_overrides):
    late = [*tiny_overrides, *WORST, "sampler.warmup=0.2", "T=1", "train_examples=40"]
    config = compose_config(*late, "K=1")
    said = "after 20% of the updates 100% of the draws take the worst"
    inputs = load_inputs(config)
    assert any(said in note for note in sampler_notes(config, inputs)) and not idle_sampler(config, inputs)
    config = compose_config(*late, "K=6")
    (warned,) = idle_sampler(config, load_inputs(config))
    assert warned.startswith("No draw takes the worst of 4 candidates") and warned in prepare(config).warnings
    assert warned.endswith("of the 5 updates does; lower K=6, or train longer.")
    assert not any("take the worst" in note for note in sampler_notes(config, load_inputs(config)))


def test_more_candidates_than_prompts_are_refused(tiny_overrides):
    with pytest.raises(InputError, match=r"sampler\.candidates=4 is more than the training prompts, of which there are 2"):
        data_of(*tiny_overrides, *WORST, "train_prompts=2")


def test_names_of_other_runs_stay():
    identity = compose_config("sampler=mutated").identity()["sampler"]
    assert not {"candidates", "candidates_are", "adversarial", "warmup", "paired"} & {*identity}
    draws = {"warmup": 0.0, "adversarial": 1.0}  # as an earlier version let them pass
    idle = compose_config().model_copy(update={"sampler": SamplerConfig(**draws)})
    assert from_dict(idle.model_dump()).run_name == compose_config().run_name
    several = ["sampler=mutated", "sampler.candidates=4"]
    assert "-K4-mutated-worst4-" in compose_config(*several).run_name
    assert "-K4-mutated-worst4-layouts-" in compose_config(*several, "sampler.candidates_are=layouts").run_name
