"""The perturbed loss: half of it with the template's words moved to where the loss is higher, and nothing else moved."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from paft.config.schema import LossConfig
from paft.data.inputs import load_inputs
from paft.jobs.beside import base_run_of, user_run_of
from paft.jobs.planning import sampler_notes
from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from paft.training.embeddings import ShiftedEmbeddings
from paft.training.losses import answer_loss
from paft.training.update_loss import UpdateLoss, UpdatePart
from tests.conftest import compose_config, whole_and_resumed
from tests.training.test_losses import ADAPTER, data_of
from tests.training.test_module import adapted

OWN = ["loss=perturbed", "loss.size=0.1", "loss.warmup=0.25"]


def added(model, update, size: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an update's sums and its gradient."""
    update_loss = UpdateLoss(LossConfig(name="perturbed"), 10)
    n, strength = torch.tensor(float(update.n_targets)), None if size is None else torch.tensor(size)
    model.zero_grad()
    sums = sum(
        update_loss.add_gradients(model, UpdatePart(b, n, strength), torch.Tensor.backward) for b in update.micro_batches
    )
    return sums, parameters_to_vector([p.grad for p in model.parameters() if p.requires_grad]).clone()


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_it_is_the_gradient_step_written_out_however_an_update_is_split(tiny_overrides, tiny_llama, attention):
    model, own = adapted(tiny_llama, attention=attention), [*tiny_overrides, *OWN, f"model.attention={attention}"]
    whole, split = (
        (data := data_of(*own, f"trainer.micro_batch_tokens={tokens}")).renderings[next(iter(data.updates.of_epoch(0)))]
        for tokens in (100_000, 1)
    )
    (batch,) = whole.micro_batches
    assert batch.template.any() and not batch.template.all() and len(split.micro_batches) == 8
    # Written out: embeddings as an input of their own.
    table = model.get_input_embeddings()
    held = table(batch.packing.input_ids).detach()
    handle = table.register_forward_hook(lambda *_: given)
    trained = [p for p in model.parameters() if p.requires_grad]
    given = held.clone().requires_grad_()
    clean = answer_loss(model, batch) / whole.n_targets
    *of_clean, of_embeddings = torch.autograd.grad(clean, [*trained, given])
    length = of_embeddings.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, of_embeddings / length, 0)
    given = held + 0.1 * held.norm(dim=-1, keepdim=True) * unit * batch.template[..., None]
    moved = answer_loss(model, batch) / whole.n_targets
    of_moved = torch.autograd.grad(moved, trained)
    handle.remove()
    wanted = (parameters_to_vector(of_clean) + parameters_to_vector(of_moved)) / 2
    assert moved > clean
    for update in (whole, split):
        sums, gradient = added(model, update, 0.1)
        torch.testing.assert_close(sums, torch.stack([(clean + moved) / 2, moved - clean]).detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)
    assert not table._forward_hooks


def test_without_a_size_it_is_the_mean(tiny_overrides, tiny_llama):
    model, data = adapted(tiny_llama), data_of(*tiny_overrides, *OWN)
    update = data.renderings[next(iter(data.updates.of_epoch(0)))]
    sums, gradient = added(model, update, None)
    model.zero_grad()
    loss = sum(answer_loss(model, batch) for batch in update.micro_batches) / update.n_targets
    loss.backward()
    assert sums[0] == pytest.approx(float(loss)) and sums[1] == 0
    torch.testing.assert_close(gradient, parameters_to_vector([p.grad for p in model.parameters() if p.requires_grad]))


def test_only_marked_tokens_are_moved_and_none_without_a_gradient(tiny_llama):
    model = adapted(tiny_llama)
    ids = torch.arange(5)[None]
    where = torch.tensor([[True, False, True, False, False]])
    with ShiftedEmbeddings(model) as shifted:
        table = model.get_input_embeddings()
        before = table(ids)
        (before[:, [0, 1]] * torch.tensor(2.0)).sum().backward()
        shifted.move(torch.tensor(0.5), where)
        after = table(ids)
    apart = (after - before).norm(dim=-1) / before.norm(dim=-1)
    torch.testing.assert_close(apart[0].detach(), torch.tensor([0.5, 0, 0, 0, 0]), rtol=1e-5, atol=1e-7)
    assert torch.equal(table(ids), before.detach())


def test_small_gradients_are_scaled_and_zeros_stay(tiny_llama):
    model = adapted(tiny_llama)
    with ShiftedEmbeddings(model) as shifted:
        table = model.get_input_embeddings()
        before = table(torch.arange(4)[None])
        (before[0, :3].sum(-1) * torch.tensor([1e-30, 1e-12, 1.0])).sum().backward()
        shifted.move(torch.tensor(0.03), torch.ones(1, 4, dtype=torch.bool))
        apart = (table(torch.arange(4)[None]) - before).norm(dim=-1) / before.norm(dim=-1)
    torch.testing.assert_close(apart[0].detach(), torch.tensor([0.03, 0.03, 0.03, 0]), rtol=1e-3, atol=1e-7)


def test_in_bf16_most_of_the_shift_is_left(tiny_llama):
    model = adapted(tiny_llama).to(torch.bfloat16)
    ids = torch.arange(50)[None]
    with ShiftedEmbeddings(model) as shifted:
        table = model.get_input_embeddings()
        before = table(ids)
        wanted = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        (before * wanted).sum().backward()
        shifted.move(torch.tensor(0.03), torch.ones(1, 50, dtype=torch.bool))
        moved = (table(ids) - before).float()
    assert torch.nn.functional.cosine_similarity(moved, wanted.float(), dim=-1).min() > 0.95


def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch):
    own = [*tiny_overrides, *OWN, "trainer.checkpoint_every=1", "model.lora.dropout=0.1"]
    whole, resumed = whole_and_resumed(own, tmp_path / "again", monkeypatch)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()
    assert whole.training.repeated_tokens == resumed.training.repeated_tokens > 0


@pytest.mark.parametrize("more", [["method=user"], ["sampler=by_loss", "sampler.lag=2", "K=1"], ["sampler=worst_of"]])
def test_it_goes_with_other_methods_and_samplers(tiny_overrides, more):
    results = run_training(compose_config(*tiny_overrides, *OWN, "K=1", *more))
    assert results.training.repeated_tokens < results.training.tokens and np.isfinite(results.robustness.mean)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [(["loss.size=0.001"], "loss.size"), (["loss.size=1.5"], "loss.size"), (["loss.warmup=1"], "loss.warmup")],
)
def test_what_is_out_of_range_is_refused(overrides, said):
    with pytest.raises(InputError, match=said):
        compose_config("loss=perturbed", *overrides)


def test_a_tokenizer_that_does_not_say_where_tokens_stand_is_refused(tiny_overrides, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False)
    with pytest.raises(InputError, match="loss=perturbed: the model's tokenizer does not say where"):
        data_of(*tiny_overrides, *OWN)


def test_a_fixed_prompt_beside_it_is_trained_by_the_same_loss_and_the_base_model_by_none(tiny_overrides):
    config = compose_config(*tiny_overrides, "loss=perturbed")
    assert user_run_of(config, load_inputs(config)).loss.name == "perturbed" and base_run_of(config).loss.name == "mean"
    user = compose_config(*tiny_overrides, "loss=perturbed", "loss.warmup=0.25", "method=user")
    assert sampler_notes(user, load_inputs(user)) == [
        "loss: the last 75% of the updates are computed twice, which the tokens above do not count"
    ]
    base = compose_config("method=base").run_name
    assert compose_config("method=base", "loss=perturbed", "loss.size=0.1").run_name == base


def test_names_of_other_runs_stay():
    tilted = compose_config("loss=tilted", "sampler.templates_per_update=4")
    assert "size" not in tilted.identity()["loss"] and "weight" not in compose_config("loss=perturbed").identity()["loss"]
    perturbed = compose_config("loss=perturbed")
    idle = perturbed.loss.model_copy(update={"weight": 2.0})  # as an earlier version let it pass
    assert perturbed.model_copy(update={"loss": idle}).run_name == perturbed.run_name
