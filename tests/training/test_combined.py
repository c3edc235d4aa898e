"""Losses, and the worst of several prompts, with mutated layouts, balanced draws and averaged weights: all act in one run."""

import pytest

from paft.jobs.train import run_training
from tests.conftest import compose_config
from tests.training.test_losses import ADAPTER

SMALL = ["K=1", "T=2", "train_examples=32", "train_prompts=8"]
TOGETHER = [*SMALL, "sampler=mutated", "sampler.balanced=true", "optim.average=0.5"]
IDLE = {"effective_templates": 2.0, "disagreement": 0.0, "perturbation": 0.0, "probe_margin": 0.0}  # where nothing is done
WORST = ["loss=perturbed", "sampler.candidates=2", "sampler.adversarial=1"]


@pytest.mark.parametrize(
    ("overrides", "figures"),
    [
        (["loss=tilted", "sampler.templates_per_update=2"], {"effective_templates"}),
        (["loss=consistent", "sampler.templates_per_update=2", "sampler.paired=true"], {"disagreement"}),
        (["loss=perturbed"], {"perturbation"}),
        (WORST, {"perturbation", "probe_margin"}),
    ],
    ids=["tilted", "consistent", "perturbed", "perturbed, the worst of two"],
)
def test_what_goes_together_acts_together(tiny_overrides, overrides, figures):
    results = run_training(compose_config(*tiny_overrides, *TOGETHER, *overrides))
    acted = results.training.acted
    assert {*acted} == figures
    assert all(any(value not in (None, IDLE[name]) for value in acted[name]) for name in figures)
    assert results.plan.layouts_seen >= 8
    assert results.training.drawn.templates == 8 or "probe_margin" in figures  # dealt, all; of two one is left out


def test_their_weights_are_averaged(tiny_overrides):
    whole = [*tiny_overrides, *TOGETHER, *WORST, "validation.every=8"]  # at the end alone: no earlier weights can be the best
    averaged, last = (run_training(compose_config(*whole, *own)) for own in ([], ["optim.average=0"]))
    assert averaged.training.acted == last.training.acted  # the same updates
    assert (averaged.folder / ADAPTER).read_bytes() != (last.folder / ADAPTER).read_bytes()
