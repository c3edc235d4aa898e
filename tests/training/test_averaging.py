"""Averaging the adapter over the last updates, and samplers in a whole run: exact, also when resumed."""

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from paft.jobs.train import run_training
from paft.reporting.results import Results
from paft.training.checkpoints import states
from paft.training.module import PaftModule
from tests.conftest import compose_config, interrupt_before_its_adapter_is_saved, small_run

ADAPTER = "adapter/adapter_model.safetensors"


def weights_after_each_update(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Record the adapter's weights after each update of the runs to come."""
    recorded: list[dict[str, torch.Tensor]] = []
    step = PaftModule.training_step

    def recording(self, batch, batch_idx):
        figures = step(self, batch, batch_idx)
        recorded.append({name: weight.detach().clone() for name, weight in get_peft_model_state_dict(self.model).items()})
        return figures

    monkeypatch.setattr(PaftModule, "training_step", recording)
    return recorded


@pytest.fixture(scope="module")
def plain(tiny_llama, tmp_path_factory) -> tuple[Results, list[dict[str, torch.Tensor]]]:
    """A run without averaging, and its weights after each update."""
    with pytest.MonkeyPatch.context() as patch:
        recorded = weights_after_each_update(patch)
        return run_training(compose_config(*small_run(tiny_llama, tmp_path_factory.mktemp("plain")))), recorded


@pytest.mark.parametrize(
    ("share", "updates", "n"),
    [(0.0, 6, 0), (0.5, 6, 3), (0.4, 6, 3), (1.0, 6, 6), (0.01, 6, 1), (0.5, 1, 1), (0.07, 100, 7), (0.14, 50, 7)],
)
def test_a_share_of_the_updates_is_rounded_up(share, updates, n):
    """Not by what a product of fractions has too much: 0.07 * 100 and 0.14 * 50 are a little more than 7."""
    optim = compose_config().optim.model_copy(update={"average": share})
    assert [update for update in range(1, updates + 1) if update >= optim.first_averaged(updates)] == [
        *range(updates - n + 1, updates + 1)
    ]


def test_the_saved_adapter_is_the_mean_of_the_last_weights(tiny_overrides, monkeypatch):
    recorded = weights_after_each_update(monkeypatch)
    # One validation, at the end: no earlier weights can be the best.
    run = run_training(compose_config(*tiny_overrides, "optim.average=0.5", "optim.lr=1e-2", "validation.every=6"))
    assert len(recorded) == 6
    for name, weight in load_file(run.folder / ADAPTER).items():
        mean = torch.stack([weights[name] for weights in recorded[-3:]]).mean(0)
        torch.testing.assert_close(weight, mean, rtol=1e-5, atol=1e-7)


def test_averaging_changes_no_update(plain, tiny_overrides, monkeypatch):
    recorded = weights_after_each_update(monkeypatch)
    run_training(compose_config(*tiny_overrides, "optim.average=0.8"))
    assert len(recorded) == 6
    for averaged, without in zip(recorded, plain[1], strict=True):
        assert all(torch.equal(averaged[name], without[name]) for name in without)


@pytest.mark.parametrize(
    "settings",
    [
        ["sampler=balanced", "sampler.templates_per_update=4", "K=1"],
        ["sampler=mutated", "sampler.balanced=true", "sampler.share=0.5", "optim.average=0.6", "K=2"],
    ],
)
def test_a_resumed_run_equals_an_undisturbed_one(tiny_overrides, tmp_path, monkeypatch, settings):
    overrides = [*tiny_overrides, *settings, "model.lora.dropout=0.1", "trainer.checkpoint_every=1", "optim.lr=1e-2"]
    whole = run_training(compose_config(*overrides)).folder
    config = compose_config(*overrides, f"output_root={tmp_path / 'again'}", "trainer.checkpoints_kept=10")
    interrupt_before_its_adapter_is_saved(config, monkeypatch)
    folder = tmp_path / "again" / whole.name
    for state in states(folder / "checkpoints")[:2]:  # as if it had been killed after the fourth update
        state.unlink()
    run_training(config)
    assert (folder / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    assert (folder / "matrix.parquet").read_bytes() == (whole / "matrix.parquet").read_bytes()


def test_workers_draw_the_same_layouts(tiny_overrides, tmp_path):
    settings = [*tiny_overrides, "sampler=mutated", "sampler.balanced=true", "K=1", "optim.lr=1e-2"]
    alone = run_training(compose_config(*settings)).folder
    workers = run_training(compose_config(*settings, f"output_root={tmp_path / 'w'}", "trainer.workers=2")).folder
    assert (alone / ADAPTER).read_bytes() == (workers / ADAPTER).read_bytes()


def test_the_plan_counts_layouts_and_says_what_cannot_be_changed(tiny_overrides, capsys):
    results = run_training(compose_config(*tiny_overrides, "sampler=mutated", "K=1"))
    said = " ".join(capsys.readouterr().out.split())
    assert results.plan.layouts_seen == 6 and "in 6 layouts" in said
    assert "53 of 60 have parts whose layout is mutated; the others (7) are shown as they are" in said
    assert "-K1-mutated-T2-" in results.run


def test_a_run_can_be_scored_on_validation_instead_of_the_test(plain, tiny_overrides):
    settings = [*tiny_overrides, "evaluate=false", "eval_prompts=null", "eval_examples=5"]
    results = run_training(compose_config(*settings))
    assert results.run.endswith("-validation") and results.robustness.n_prompts == 20
    assert results.robustness.n_examples == 5
    assert {"train", "validation", "test"} == {*results.fingerprints.pools}
    validation = results.fingerprints.pools["test"]
    assert validation.name == "validation" and validation.prompts == 20
    assert any("these numbers are no test" in line for line in results.warnings)
    test = plain[0]
    assert test.fingerprints.pools["test"].fingerprint != validation.fingerprint
    assert (test.folder / ADAPTER).read_bytes() == (results.folder / ADAPTER).read_bytes()  # the same training
