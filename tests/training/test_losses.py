"""Tilted losses: their gradients are the soft maximum's over templates, however an update is split, dealt or replayed."""

import csv
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from paft.config.schema import LossConfig, OptimConfig
from paft.data.batch import Update, pack_answers
from paft.data.datamodule import PaftDataModule
from paft.jobs.train import prepare, run_training
from paft.runtime.errors import InputError
from paft.runtime.launch import run_on
from paft.training.checkpoints import states
from paft.training.losses import answer_losses, effective_templates, tilted
from paft.training.module import PaftModule
from tests.conftest import compose_config, interrupt_before_its_adapter_is_saved
from tests.model.test_graphs import Recorder
from tests.training.test_module import adapted

TILTED = ["loss=tilted", "loss.temperature=3", "loss.warmup=0.25", "sampler.templates_per_update=4"]
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
    module = PaftModule(model, OptimConfig(lr=1, weight_decay=0, warmup=0, max_grad_norm=1), 10, 0, paired=paired)
    module.loss = LossConfig(name="tilted", temperature=temperature)
    model.zero_grad()
    sums = torch.zeros(3)
    for batch in update.micro_batches:
        of_batch = tilted(answer_losses(model, batch), batch.cells, torch.tensor(temperature), paired)
        of_batch[0].backward()
        sums += of_batch.detach()
    trained = [p for p in model.parameters() if p.requires_grad]
    found = module._divided(sums, trained)
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


@pytest.mark.parametrize("overrides", [TILTED, PAIRED], ids=["groups", "paired"])
def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch, overrides):
    own = [*tiny_overrides, *overrides, "trainer.checkpoint_every=2", "model.lora.dropout=0.1"]
    whole = run_training(compose_config(*own)).folder
    config = compose_config(*own, f"output_root={tmp_path / 'again'}")
    interrupt_before_its_adapter_is_saved(config, monkeypatch)
    folder = tmp_path / "again" / whole.name
    states(folder / "checkpoints")[0].write_bytes(b"torn")  # so that there is something left to train
    run_training(config)
    assert (folder / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def log(folder: Path) -> list[list[float]]:
    (path,) = folder.glob("log/version_*/metrics.csv")
    names = ("loss", "grad_norm", "effective_templates")
    return [[float(row[name]) for name in names] for row in csv.DictReader(path.open(encoding="utf-8")) if row["loss"]]


def test_graphs_and_ranks_change_nothing_but_rounding(tiny_overrides, tmp_path, monkeypatch):
    own = [*tiny_overrides, *TILTED, "train_examples=25", "model.attention=varlen", "trainer.micro_batch_tokens=256"]

    def trained(name: str, devices: int = 1) -> list[list[float]]:
        config = compose_config(*own, f"output_root={tmp_path / name}", f"trainer.devices={devices}")
        run_on(devices, "cpu", run_training, config)
        return log(tmp_path / name / config.run_name)

    usual = trained("one")
    assert usual[0][2] == 4 and min(effective for _, _, effective in usual) < 3.99
    np.testing.assert_allclose(trained("two", 2), usual, rtol=1e-3)
    monkeypatch.setattr(PaftModule, "on_train_start", lambda module: module.replay_graphs(Recorder()))
    np.testing.assert_allclose(trained("graphs"), usual, rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=tilted"], "sampler.templates_per_update=4"),
        (["loss=tilted", "method=user"], "method=paft"),
        (["loss=tilted", "sampler.templates_per_update=4", "loss.temperature=0"], "loss.temperature"),
        ([*TILTED, "trainer.devices=8"], "trainer.devices=8"),
        ([*PAIRED, "trainer.devices=4"], "renderings stay together"),
        (["sampler.paired=true"], "must be 2 or more"),
        (["sampler.paired=true", "sampler.templates_per_update=3"], "divide examples_per_update=8"),
    ],
)
def test_what_has_no_templates_to_weigh_is_refused(overrides, said):
    with pytest.raises(InputError, match=said):
        compose_config(*overrides)


def test_names_and_identities_of_runs_with_the_mean_stay(tiny_overrides):
    identity = compose_config("sampler=balanced").identity()
    assert "loss" not in identity and "paired" not in identity["sampler"]
    assert "-K4-G4-paired-tilted-" in compose_config(*PAIRED).run_name
