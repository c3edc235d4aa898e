"""Losses, and the worst of several prompts, with mutated layouts, balanced draws and averaged weights: all act in one run."""

import pytest

from paft.jobs.train import run_training
from tests.conftest import compose_config

TOGETHER = [
    "sampler=mutated",
    "sampler.balanced=true",
    "optim.average=0.5",
    "K=1",
    "T=2",
    "train_examples=32",
    "train_prompts=8",
]


@pytest.mark.parametrize(
    ("overrides", "figure"),
    [
        (["loss=tilted", "sampler.templates_per_update=2"], "effective_templates"),
        (["loss=consistent", "sampler.templates_per_update=2", "sampler.paired=true"], "disagreement"),
        (["loss=perturbed", "sampler.candidates=2", "sampler.adversarial=1"], "perturbation"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_goes_together_acts_together(tiny_overrides, overrides, figure):
    results = run_training(compose_config(*tiny_overrides, *TOGETHER, *overrides))
    training = results.training
    alone = {"effective_templates": 2.0, "disagreement": 0.0, "perturbation": 0.0}  # where the loss did nothing
    assert any(value not in (None, alone[figure]) for value in training.acted[figure])
    assert ("probe_margin" in training.acted) == ("sampler.candidates=2" in overrides)
    assert results.plan.layouts_seen >= 8
    assert training.drawn.templates == 8 or "probe_margin" in training.acted  # all are dealt; the better one of two is left out
