"""Losses that look at the templates of an update: what they are, however an update is split, dealt to ranks or replayed."""

import json
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from paft.config.compose import CONF
from paft.config.schema import OF_OTHER_LOSSES, LossConfig
from paft.data.batch import Update, pack_answers
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoded, Encoder
from paft.data.inputs import load_inputs
from paft.data.tasks.story_facts import generate_rows
from paft.jobs.one_run import prepare
from paft.jobs.planning import sampler_notes
from paft.reporting.described import _LOSSES
from paft.reporting.logged import ACTED
from paft.reporting.plan import Plan
from paft.runtime.errors import InputError
from paft.training.losses import answer_losses, disagreement, effective_templates, tilted
from paft.training.update_loss import _SUMS, UpdateLoss, UpdatePart
from tests.conftest import compose_config, whole_and_resumed
from tests.training.test_module import adapted

TILTED = ["loss=tilted", "loss.temperature=3", "loss.warmup=0.25", "sampler.templates_per_update=4"]
CONSISTENT = ["loss=consistent", "loss.warmup=0.25", "loss.weight=2", "sampler.templates_per_update=2", "sampler.paired=true"]
PAIRED = [*TILTED, "sampler.paired=true"]
ADAPTER = "adapter/adapter_model.safetensors"


def data_of(*overrides: str) -> PaftDataModule:
    run = prepare(compose_config(*overrides))
    inputs, ragged = run.inputs, run.config.model.attention == "varlen"
    return PaftDataModule(inputs.examples.train, inputs.train, run.encoder, run.config, inputs.examples.task, ragged)


def updates_of_a_run(overrides: list[str], tokens: int, epoch: int = 0) -> list[Update]:
    data = data_of(*overrides, f"trainer.micro_batch_tokens={tokens}")
    return [data.renderings[tagged] for tagged in data.updates.of_epoch(epoch)]


def gradient(model, update: Update, paired: bool, temperature: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return an update's loss and its gradient as training computes them, by micro-batches."""
    update_loss = UpdateLoss(LossConfig(name="tilted", temperature=temperature), 10, paired)
    model.zero_grad()
    sums = torch.zeros(3)
    for batch in update.micro_batches:
        of_batch = tilted(answer_losses(model, batch), batch.shares, torch.tensor(temperature), paired)
        of_batch[0].backward()
        sums += of_batch.detach()
    trained = [p for p in model.parameters() if p.requires_grad]
    found = update_loss.figures(sums, trained)
    return found["loss"], parameters_to_vector([p.grad for p in trained]).clone()


def soft_maximum(model, overrides: list[str], number: int, paired: bool, temperature: float = 3.0) -> Tensor:
    """Return the gradient of (1/t) log mean exp(t loss), by autograd, of each example's renderings one by one."""
    data = data_of(*overrides)
    tagged = list(data.updates.of_epoch(0))[number]
    losses = {}
    for place, tag in enumerate(tagged):
        encoded = data.renderings._encoded(tag)
        of_answer = answer_losses(model, pack_answers([(encoded.context, encoded.continuations[0])], data.renderings.ragged))[
            : len(encoded.continuations[0])
        ]
        losses[place] = (tag.row if paired else 0, tag.draw.slot, of_answer)
    blocks = []
    for _, members in groupby(sorted(losses.values(), key=lambda one: one[:2]), key=lambda one: one[0]):
        by_template = [torch.cat([x[2] for x in own]).mean() for _, own in groupby(members, key=lambda one: one[1])]
        blocks.append(torch.stack(by_template).mul(temperature).exp().mean().log() / temperature)
    model.zero_grad()
    torch.stack(blocks).mean().backward()
    return parameters_to_vector([p.grad for p in model.parameters() if p.requires_grad]).clone()


@pytest.mark.parametrize("overrides", [TILTED, PAIRED], ids=["groups", "paired"])
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_the_gradient_is_the_soft_maximums_however_an_update_is_split(tiny_overrides, tiny_llama, overrides, attention):
    model, own = adapted(tiny_llama, attention=attention), [*tiny_overrides, *overrides, f"model.attention={attention}"]
    paired = overrides is PAIRED
    wanted = soft_maximum(model, own, 0, paired)
    whole, split = (updates_of_a_run(own, tokens)[0] for tokens in (100_000, 1))
    assert len(whole.micro_batches) == 1 and len(split.micro_batches) == (2 if paired else 4)
    for update in (whole, split):
        torch.testing.assert_close(gradient(model, update, paired)[1], wanted, rtol=1e-4, atol=1e-7)


def test_at_temperature_zero_all_templates_count_alike_and_at_a_high_one_the_worst():
    losses, cells = torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.tensor([[[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]])
    sums = tilted(losses, cells, torch.tensor(0.0), False)
    assert sums.tolist() == [9.0, 3.0, 3.0] and effective_templates(sums, False) == 3
    sums = tilted(losses, cells, torch.tensor(20.0), False)  # capped, so that nothing overflows
    assert sums.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tilted(losses / 3, cells, torch.tensor(5.0), False)
    torch.testing.assert_close(mixed, tilted(losses / 3, cells, torch.tensor(5.0), False), rtol=1e-6, atol=0)
    assert tilted(losses * 10, cells, torch.tensor(10.0), True)[0] == pytest.approx(50)  # not capped: all are compared at once
    paired = tilted(losses, cells, torch.tensor(5.0), True)
    assert paired[0] / paired[1] == pytest.approx(5.0, abs=1e-4) and effective_templates(paired, True) == pytest.approx(
        1, abs=1e-4
    )


def test_each_example_is_shown_under_all_templates_of_its_update(tiny_overrides):
    data = data_of(*tiny_overrides, *PAIRED, "train_examples=25")
    assert data.updates.per_epoch == 13
    updates = list(data.updates.of_epoch(1))
    rows = [tag.row for update in updates for tag in update]
    assert sorted(rows) == sorted([*range(25)] * 4) and [len(update) for update in updates] == [8] * 12 + [4]
    for update in updates:
        shown = {row: [tag.template for tag in own] for row, own in groupby(update, key=lambda tag: tag.row)}
        assert len({tuple(templates) for templates in shown.values()}) == 1


def by_pairs(model, overrides: list[str], toward: str) -> Tensor:
    """Return the first update's loss, by torch's own divergence, of each example's two renderings."""
    data = data_of(*overrides)
    tagged, total, n_targets = next(iter(data.updates.of_epoch(0))), torch.zeros(()), 0
    for one, other in zip(tagged[::2], tagged[1::2], strict=True):
        predictions, losses = [], []
        for tag in (one, other):
            encoded = data.renderings._encoded(tag)
            answer = encoded.continuations[0]
            logits = model(torch.tensor([encoded.context + answer])).logits[0, len(encoded.context) - 1 : -1]
            predictions.append(logits.log_softmax(-1))
            losses.append(F.cross_entropy(logits, torch.tensor(answer), reduction="none"))
            n_targets += len(answer)
        a, b = predictions
        if toward == "best":
            best = torch.where((losses[0] <= losses[1])[:, None], a, b).detach()
            apart = sum(F.kl_div(p, best, log_target=True, reduction="none").sum(-1) for p in predictions) / 2
        else:
            mean = ((a.exp() + b.exp()) / 2).log()
            apart = sum(F.kl_div(mean, p, log_target=True, reduction="none").sum(-1) for p in predictions) / 2
        total = total + losses[0].sum() + losses[1].sum() + 2.0 * 2 * apart.sum()
    return total / n_targets


@pytest.mark.parametrize("toward", ["best", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_disagreement_is_torchs_divergence_however_an_update_is_split(tiny_overrides, tiny_llama, toward, attention):
    model = adapted(tiny_llama, attention=attention)
    own = [*tiny_overrides, *CONSISTENT, f"loss.toward={toward}", f"model.attention={attention}"]
    wanted = by_pairs(adapted(tiny_llama, attention="sdpa"), own, toward)
    for tokens in (100_000, 1):
        update_loss = UpdateLoss(LossConfig(name="consistent", weight=2, toward=toward), 10, paired=True)
        update = updates_of_a_run(own, tokens)[0]
        n = torch.tensor(float(update.n_targets))
        parts = [UpdatePart(batch, n, torch.tensor(2.0), n_compared=n) for batch in update.micro_batches]
        assert len(parts) == (1 if tokens > 1 else 4)
        torch.testing.assert_close(sum(update_loss.sums(model, part)[0] for part in parts), wanted, rtol=1e-4, atol=1e-6)


def test_only_answers_of_the_same_tokens_are_compared():
    pairs = [([1, 2], [7, 0]), ([3], [7, 0]), ([1], [8, 0]), ([1, 2, 3], [9, 0])]
    offered = [["A", "B"]] * 4
    batch = pack_answers(pairs, places=[(0, 0), (0, 1), (1, 0), (1, 1)], offered=offered)
    assert batch.aligned.tolist() == [[0, 2], [1, 3]]
    ragged = pack_answers(pairs, True, [(0, 0), (0, 1), (1, 0), (1, 1)], offered=offered)
    assert ragged.aligned.tolist() == [[0, 2], [1, 3], *[[-1, -1]] * 14]
    logits = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    padded = replace(batch, targets=ragged.targets)
    apart = [disagreement(logits, torch.zeros(16), one, True) for one in (padded, ragged)]
    assert apart[0] == pytest.approx(float(apart[1])) and apart[0] > 0


def test_answers_are_compared_only_where_their_letters_are_of_the_same_options():
    pairs = [([1, 2], [7, 0]), ([3], [7, 0]), ([1], [8, 0]), ([1, 2, 3], [8, 0])]
    offered = [["A", "B", "C"], ["A", "C", "B"], ["A", "B", "C"], ["A", "B", "C"]]
    assert pack_answers(pairs, places=[(0, 0), (0, 1), (1, 0), (1, 1)], offered=offered).aligned.tolist() == [[4, 6], [5, 7]]


def test_a_run_compares_no_letters_of_options_that_a_mutation_has_moved(tiny_overrides):
    letters = ["dataset.answer=letter", "sampler.mutations=[option_order]", "train_examples=200", "K=1"]
    data = data_of(*tiny_overrides, *CONSISTENT, *letters)
    apart = 0  # updates with other options under the letters, some of whose examples have the same letter in both orders
    for tagged in data.updates.of_epoch(0):
        update = data.renderings[tagged]
        first, second = (data.updates.sampler.template(tag.draw, tag.template).letters for tag in tagged[:2])
        answers = [data.renderings._encoded(tag).continuations for tag in tagged]
        apart += first != second and any(answers[i] == answers[i + 1] for i in range(0, len(tagged), 2))
        n_compared = sum(len(batch.aligned) for batch in update.micro_batches)
        assert n_compared == (sum(update.targets) / 2 if first == second else 0)
    assert apart > 5


@pytest.mark.parametrize("overrides", [TILTED, PAIRED, CONSISTENT], ids=["groups", "paired", "consistent"])
def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch, overrides):
    own = [*tiny_overrides, *overrides, "trainer.checkpoint_every=2", "model.lora.dropout=0.1"]
    whole, resumed = whole_and_resumed(own, tmp_path / "again", monkeypatch)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=tilted"], "sampler.templates_per_update=4"),
        (["loss=tilted", "method=user"], "method=paft"),
        (["loss=tilted", "sampler.templates_per_update=4", "loss.temperature=0"], "loss.temperature"),
        ([*TILTED, "trainer.devices=8"], "trainer.devices=8"),
        ([*PAIRED, "trainer.devices=4"], "renderings stay together"),
        (["loss=consistent"], "sampler.paired=true"),
        (["loss=consistent", "sampler.paired=true"], "loss=consistent compares"),
        ([*CONSISTENT, "trainer.devices=8"], "loss=consistent deals"),
        (["sampler.paired=true"], "must be 2 or more"),
        (["loss=tilted", "sampler.paired=true", "sampler.templates_per_update=16"], "divide examples_per_update=8"),
        (["sampler.paired=true", "sampler.templates_per_update=3"], "divide examples_per_update=8"),
    ],
)
def test_what_has_no_templates_to_weigh_is_refused(overrides, said):
    with pytest.raises(InputError, match=said):
        compose_config(*overrides)


def test_answers_that_cannot_be_compared_are_refused_and_the_plan_says_how_many_can(tiny_overrides, tmp_path, monkeypatch):
    """After a line break an answer begins without a space, and is other tokens."""
    asks = "{story}\n\n{question}\n{A}, {B}, {C} or {D}?\n"
    alike, apart = (f"{asks}In the end it is", f"{asks}Who? It must be", f"{asks}"), (0, 2)

    tokens = count()

    def compared(prompts: list[str], *more: str) -> Plan:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in prompts))
        deck = [*tiny_overrides, *CONSISTENT, "sampler.balanced=true", "K=1", f"prompts.train={path}"]
        return prepare(compose_config(*deck, "train_prompts=null", *more)).plan

    with pytest.raises(InputError, match=r"no answer has the same tokens under all templates .* let all training prompts end"):
        compared([alike[i] for i in apart])
    plan = compared([*alike])
    assert 0 < plan.compared < 1 and f"{100 * plan.compared:.0f}% of the answers of a sample can be" in plan.text(tmp_path)
    assert compared([*alike[:2]]).compared == 1
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in list(generate_rows("train", 400))[-5:]))
    monkeypatch.setattr(Encoder, "asking", lambda *_: Encoded([1], [[next(tokens), 0]], 0))  # no two alike
    with pytest.raises(InputError, match="no answer of an unlabelled row has the same tokens"):
        compared([*alike[:2]], f"loss.unlabelled={tmp_path / 'rows.jsonl'}")


def test_names_and_identities_of_runs_with_the_mean_stay(tiny_overrides):
    identity = compose_config("sampler=balanced").identity()
    assert "loss" not in identity and "paired" not in identity["sampler"]
    assert "-K4-G4-paired-tilted-" in compose_config(*PAIRED).run_name


def test_the_plan_says_how_many_updates_hold_a_prompt_twice(tiny_overrides):
    def notes(*more: str) -> list[str]:
        config = compose_config(*tiny_overrides, *CONSISTENT, "K=1", *more)
        return sampler_notes(config, load_inputs(config))

    (said,) = notes("train_prompts=5")
    assert said.startswith("train prompts: 20% of the updates show fewer than 2 different ones")
    assert not notes("train_prompts=60") and not [n for n in notes("train_prompts=5", "sampler.balanced=true") if "fewer" in n]
    data = data_of(*tiny_overrides, *CONSISTENT, "K=1", "train_prompts=5", "train_examples=2000")
    twice = [tagged[0].template == tagged[1].template for tagged in data.updates.of_epoch(0)]
    assert np.mean(twice) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("overrides", [TILTED, CONSISTENT, ["sampler.templates_per_update=2"]])
def test_more_templates_an_update_than_prompts_are_refused(tiny_overrides, overrides):
    said = r"sampler\.templates_per_update=\d is more than the training prompts, of which there are 1"
    with pytest.raises(InputError, match=said):
        data_of(*tiny_overrides, *overrides, "train_prompts=1")
    assert data_of(*tiny_overrides, *overrides, "train_prompts=1", "sampler=mutated")


def test_every_loss_is_in_every_table_of_losses():
    """One that is missing somewhere would fail in the first update, or behind the last."""
    names = set(get_args(LossConfig.model_fields["name"].annotation))
    assert names == set(_SUMS) == set(OF_OTHER_LOSSES) == set(_LOSSES)
    assert names == {path.stem for path in Path(CONF, "loss").glob("*.yaml")}
    trained = torch.nn.Parameter(torch.ones(1))
    trained.grad = torch.ones(1)
    figures = [UpdateLoss(LossConfig(name=name), 10).figures(torch.ones(_SUMS[name]), [trained]) for name in names]
    assert all({*own} <= {"loss", *ACTED} for own in figures)  # what the run's page shows of them
