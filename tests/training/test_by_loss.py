"""Training whose draws depend on its own losses: resumed, with loader workers, on two ranks, by graphs, and what is refused."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from paft.config.compose import from_dict
from paft.config.schema import SamplerConfig
from paft.data.datamodule import EpochSampler
from paft.data.inputs import load_inputs
from paft.jobs.one_run import prepare
from paft.jobs.planning import idle_sampler, sampler_notes
from paft.jobs.train import run_training
from paft.prompts import by_loss
from paft.runtime.errors import InputError
from paft.training.losses import answer_losses
from paft.training.module import PaftModule
from paft.training.update_loss import UpdateLoss, UpdatePart
from tests.conftest import compose_config, whole_and_resumed
from tests.training.test_losses import ADAPTER, data_of
from tests.training.test_module import adapted

CUES = ("Answer:", "The answer is")
OWN = ["sampler=by_loss", "sampler.lag=2", "K=1", "sampler.temperature=3", "sampler.uniform_share=0.05", "train_examples=64"]


def log(folder: Path) -> list[dict[str, float]]:
    (path,) = folder.glob("log/version_*/metrics.csv")
    rows = csv.DictReader(path.open(encoding="utf-8"))
    return [{name: float(row[name]) for name in ("loss", "template", "effective_pool")} for row in rows if row["loss"]]


@pytest.mark.parametrize("tokens", [100_000, 1])
def test_the_losses_of_renderings_come_back_however_an_update_is_split(tiny_overrides, tiny_llama, tokens):
    model = adapted(tiny_llama)
    data = data_of(*tiny_overrides, *OWN, "sampler.corrected=true", f"trainer.micro_batch_tokens={tokens}")
    tagged = next(iter(data.updates.of_epoch(0)))
    tagged = [type(tag)(tag.row, tag.template, tag.draw, weight=1 + i / 4) for i, tag in enumerate(tagged)]
    update = data.renderings[tagged]
    update_loss = UpdateLoss(compose_config().loss, 10, renderings=8)
    parts = [UpdatePart(batch, torch.tensor(float(update.n_targets)), None) for batch in update.micro_batches]
    sums = sum(update_loss.sums(model, part) for part in parts)
    wanted = []
    for tag in tagged:
        alone = data.renderings[[tag]].micro_batches[0]
        wanted.append(answer_losses(model, alone).sum())
    torch.testing.assert_close(update_loss.of_renderings(sums), torch.stack(wanted).detach(), rtol=1e-4, atol=1e-6)
    weighted = sum(tag.weight * loss for tag, loss in zip(tagged, wanted, strict=True)) / update.n_targets
    torch.testing.assert_close(sums[0], weighted, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(by_loss, "_LUCK", 0.0)
    own = [*tiny_overrides, *OWN, "trainer.checkpoint_every=1", "model.lora.dropout=0.1"]
    whole, resumed = whole_and_resumed(own, tmp_path / "again", monkeypatch)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()


def test_loader_workers_change_no_draw(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(by_loss, "_LUCK", 0.0)
    own = [*tiny_overrides, *OWN, "sampler.lag=6", "T=3"]
    usual, with_workers = (
        log(run_training(compose_config(*own, f"trainer.workers={n}", f"output_root={tmp_path / str(n)}")).folder)
        for n in (0, 2)
    )
    assert with_workers == usual


def test_the_weights_that_are_logged_are_those_that_examples_count_with(tiny_overrides, monkeypatch):
    monkeypatch.setattr(by_loss, "_LUCK", 0.0)
    counted, remaining = [], EpochSampler.__iter__

    def noted(sampler):
        for tagged in remaining(sampler):
            counted.append(np.mean([tag.weight for tag in tagged]))
            yield tagged

    monkeypatch.setattr(EpochSampler, "__iter__", noted)
    results = run_training(compose_config(*tiny_overrides, *OWN, "sampler.corrected=true"))
    (path,) = results.folder.glob("log/version_*/metrics.csv")
    logged = [float(row["weight"]) for row in csv.DictReader(path.open(encoding="utf-8")) if row["loss"]]
    np.testing.assert_allclose(logged, counted, rtol=1e-6)
    assert max(logged) > 1.05 and min(logged) < 0.95


@pytest.mark.parametrize(
    "more",
    [
        ["sampler.corrected=true"],
        ["sampler.corrected=true", "loss=perturbed"],
        ["loss=tilted", "sampler.templates_per_update=4"],
        ["loss=consistent", "sampler.templates_per_update=2", "sampler.paired=true"],
        ["sampler.mutations=[order]", "optim.average=0.5", "sampler.temperature=-1", "sampler.temperature_end=1"],
    ],
)
def test_it_goes_with_other_methods(tiny_overrides, more):
    results = run_training(compose_config(*tiny_overrides, *OWN, *more))
    assert np.isfinite(results.robustness.mean)
    by_fifth = results.training.acted
    assert len(by_fifth["effective_pool"]) == 5 and by_fifth["effective_pool"][0] == pytest.approx(results.plan.templates)
    figures = {
        "sampler.corrected=true": "weight",
        "loss=perturbed": "perturbation",
        "loss=tilted": "effective_templates",
        "loss=consistent": "disagreement",
    }
    assert {*by_fifth} == {"effective_pool", *(figures[each] for each in more if each in figures)}
    page = (results.folder / "report.html").read_text()
    assert "What the sampler and the loss did" in page and "templates that are drawn from" in page


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedule.unit=example"], "needs schedule.unit=update"),
        (["sampler.balanced=true"], "leave one out"),
        (["sampler.candidates=4"], "leave one out"),
        (["sampler.corrected=true", "loss=tilted", "sampler.templates_per_update=4"], "weighs a mean"),
        (["trainer.workers=8"], "use sampler.lag=18 or more"),
        (["sampler.temperature=11"], "sampler.temperature"),
        (["sampler.temperature_end=-11"], "sampler.temperature_end"),
        (["sampler.uniform_share=0"], "sampler.uniform_share"),
        (["sampler.uniform_share=1"], "sampler.uniform_share"),
        (["sampler.lag=4", "trainer.workers=2", "K=2"], "2 loader workers .* use sampler.lag=6 or more"),
        (["sampler.lag=1"], "sampler.lag"),
        (
            ["sampler.temperature=0", "sampler.corrected=true"],
            "sampler.corrected=true does nothing without sampler.temperature=1",
        ),
        (["sampler.temperature=0", "sampler.lag=8"], "sampler.lag=8 does nothing"),
        (["K=9"], "fewer than two whole draws at K=9; use sampler.lag=18 or more"),
    ],
)
def test_what_contradicts_it_is_refused(overrides, said):
    with pytest.raises(InputError, match=said):
        compose_config("sampler=by_loss", *overrides)


@pytest.mark.parametrize(("lag", "workers"), [(2, 0), (3, 0), (4, 1), (6, 2), (16, 2)])
def test_on_a_gpu_as_many_workers_render_ahead_as_the_lag_leaves_room_for(lag, workers, tiny_overrides):
    data = data_of(*tiny_overrides, *OWN, f"sampler.lag={lag}", "train_examples=160")
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    data.trainer = SimpleNamespace(current_epoch=0, global_step=0, strategy=strategy)
    assert data.train_dataloader().num_workers == workers


def test_prompts_of_one_family_are_refused(tiny_overrides, tmp_path):
    path = tmp_path / "alike.yaml"
    text = "{story}\n\n{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n"
    path.write_text(yaml.safe_dump({"prompts": [{"id": f"p{i}", "text": f"{text}{cue}"} for i, cue in enumerate(CUES)]}))
    with pytest.raises(InputError, match="2 training prompts are all of one"):
        data_of(*tiny_overrides, *OWN, f"prompts.train={path}")


@pytest.mark.parametrize(
    ("more", "idle"),
    [
        (["sampler.lag=7"], False),
        (["sampler.lag=8"], True),
        (["sampler.lag=7", "K=3"], False),  # the last draw begins after 15 of 16 updates
        (["sampler.lag=8", "K=4", "train_examples=72"], False),  # after 16 of 18
        (["sampler.lag=8", "K=4", "train_examples=64", "T=1"], True),  # after 12 of 16
        (["sampler.lag=8", "K=3", "train_examples=68"], True),  # after 15 of 17
    ],
)
def test_the_plan_says_when_losses_say_and_a_run_that_ends_before_is_warned_of(tiny_overrides, more, idle):
    config = compose_config(*tiny_overrides, *OWN, "examples_per_update=4", "T=1", *more)
    inputs, lag = load_inputs(config), config.sampler.lag
    said = f"after {2 * lag} updates losses say which are drawn more often; the draws above are as many uniform ones"
    found = [note for note in sampler_notes(config, inputs) if "losses say" in note]
    assert found == ([] if idle else [f"train prompts: {said}"])
    warned = idle_sampler(config, inputs)
    assert bool(warned) == idle
    if idle:
        assert "updates draw prompts uniformly" in warned[0] and f"lower sampler.lag={lag}" in warned[0]
        assert warned[0] in prepare(config).warnings


def test_several_templates_an_update_are_compared_whatever_k_is(tiny_overrides):
    several = ["loss=tilted", "sampler.templates_per_update=4", "K=4", "sampler.lag=2"]
    results = run_training(compose_config(*tiny_overrides, *OWN, *several))
    assert results.training.acted["effective_pool"]
    earlier = compose_config("sampler=by_loss").model_dump() | {"K": 32}  # of an earlier version, which let it pass
    assert from_dict(earlier).K == 32


def test_what_waits_to_be_told_keeps_no_gradients_alive(tiny_overrides, monkeypatch):
    kept = []
    tell = PaftModule._tell
    monkeypatch.setattr(PaftModule, "_tell", lambda module, own: kept.extend(module._unread) or tell(module, own))
    run_training(compose_config(*tiny_overrides, *OWN))
    assert kept and all(losses.untyped_storage().nbytes() == losses.nbytes for *_, losses in kept)


def test_names_of_other_runs_stay():
    same = compose_config("sampler=by_loss", "sampler.temperature_end=1").run_name
    assert same == compose_config("sampler=by_loss").run_name
    draws = {"lag": 8, "corrected": True}  # as an earlier version let them pass
    idle = compose_config().model_copy(update={"sampler": SamplerConfig(**draws)})
    assert from_dict(idle.model_dump()).run_name == compose_config().run_name
    assert not {"temperature", "lag", "corrected"} & {*compose_config("sampler=mutated").identity()["sampler"]}
    assert "-K4-mutated-by-loss-" in compose_config("sampler=mutated", "sampler.temperature=1").run_name
