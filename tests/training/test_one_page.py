"""The one-page example is the oracle: Lightning, packing and micro-batches take the steps of Algorithm 1 written out."""

import csv
from pathlib import Path

import pytest
import torch

from experiments.examples.paft_in_one_page import draws, fine_tune
from paft.data.updates import updates_of
from paft.jobs.one_run import prepare
from paft.jobs.train import train
from paft.model.base import add_lora, load_base, load_tokenizer
from paft.training.module import PaftModule
from tests.conftest import compose_config


@pytest.mark.parametrize(
    ("more", "clipped"),
    [(["optim.max_grad_norm=1000"], False), (["optim.max_grad_norm=0.1", "optim.weight_decay=10"], True)],
    ids=["as they are", "clipped, and the weights decay"],
)
def test_every_loss_and_every_gradient_is_that_of_the_one_page_example(more, clipped, tiny_overrides, monkeypatch):
    small = [*tiny_overrides, "K=2", "train_examples=20", "optim.lr=1e-2", "trainer.micro_batch_tokens=300"]
    config = compose_config(*small, *more)
    gradients: list[dict[str, torch.Tensor]] = []
    step = PaftModule.training_step

    def recorded(self, batch, batch_idx):
        figures = step(self, batch, batch_idx)
        gradients.append({name: p.grad.clone() for name, p in self.model.named_parameters() if p.requires_grad})
        assert len(batch.micro_batches) > 1 or batch_idx % 3 == 2  # an update of several micro-batches, but for the last
        return figures

    monkeypatch.setattr(PaftModule, "training_step", recorded)
    run = prepare(config)
    folder = train(run).folder
    log = [row for row in csv.DictReader((folder / "log" / "version_0" / "metrics.csv").open()) if row["loss"]]
    losses = [float(row["loss"]) for row in log]
    assert {float(row["grad_norm"]) > config.optim.max_grad_norm for row in log} == {clipped}

    examples, templates = run.inputs.examples.train, run.inputs.train.templates
    rows = [{**example.fields, "answer": example.answer} for example in examples]
    ours = updates_of(config, len(rows), run.inputs.train, run.inputs.examples.task)
    plan = [
        (templates[update[0].template].text, [rows[tag.row] for tag in update])
        for epoch in range(config.T)
        for update in ours.of_epoch(epoch)
    ]
    assert len({template for template, _ in plan}) > 1  # prompts are drawn anew
    model = add_lora(load_base(config.model, torch.device("cpu")), config.model, config.seed)
    optim = config.optim
    rest = (optim.lr, optim.warmup, optim.max_grad_norm, optim.weight_decay)
    plain = fine_tune(model, load_tokenizer(config.model), plan, *rest)
    for update, loss in enumerate(plain):
        assert loss == pytest.approx(losses[update], rel=1e-5), update
        for name, p in model.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(p.grad, gradients[update][name], rtol=1e-4, atol=1e-6, msg=f"{update}: {name}")
    assert update + 1 == len(losses) == len(gradients) == 6


def test_a_template_is_kept_for_k_updates_and_rows_come_once_an_epoch():
    rows = [{"answer": str(i)} for i in range(20)]
    drawn = list(draws(rows, "abcdefgh", k=2, epochs=3, size=4, seed=0))
    assert len(drawn) == 3 * 5
    for epoch in range(3):
        updates = drawn[5 * epoch : 5 * epoch + 5]
        assert sorted(row["answer"] for _, group in updates for row in group) == sorted(row["answer"] for row in rows)
        templates = [template for template, _ in updates]
        assert templates[0] == templates[1] and templates[2] == templates[3]
    assert len({template for template, _ in drawn}) > 2


def test_it_is_a_page():
    page = Path(__file__).parent.parent.parent / "experiments" / "examples" / "paft_in_one_page.py"
    assert len(page.read_text().splitlines()) < 100
