"""The training step: the loss, what it is normalised by, and what trains."""

import pytest
import torch
import torch.nn.functional as F

from experiments.examples.paft_in_one_page import fine_tune
from paft.config.schema import LoraConfig, ModelConfig, OptimConfig
from paft.data.batch import pack_answers
from paft.data.updates import updates_of
from paft.jobs.one_run import prepare
from paft.model.base import add_lora, load_base, load_tokenizer
from paft.training.losses import answer_loss
from paft.training.module import PaftModule
from tests.conftest import compose_config

PAIRS = [(list(range(10, 20)), [30, 31, 0]), ([7, 8], [40, 0]), (list(range(50, 66)), [60, 0])]


def adapted(folder, **settings):
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj"])
    config = ModelConfig(path=str(folder), dtype="fp32", lora=lora, **settings)
    model = add_lora(load_base(config, torch.device("cpu")), config, seed=0)
    for parameter in model.parameters():  # so that the adapter does something
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_loss_is_the_full_logits_loss_forward_and_backward(tiny_llama, attention):
    model = adapted(tiny_llama, attention=attention)
    ours = answer_loss(model, pack_answers(PAIRS))
    got = gradients(model, ours)
    full = torch.zeros(())
    for context, answer in PAIRS:
        labels = torch.tensor([[-100] * len(context) + answer])
        logits = model(torch.tensor([context + answer])).logits
        full = full + F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
    torch.testing.assert_close(ours, full, rtol=1e-5, atol=1e-5)
    for one, other in zip(got, gradients(model, full), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_micro_batches_change_nothing(tiny_llama):
    model = adapted(tiny_llama)
    whole = gradients(model, answer_loss(model, pack_answers(PAIRS)))
    parts = gradients(model, sum(answer_loss(model, pack_answers([pair])) for pair in PAIRS))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_activation_checkpointing_acts_and_changes_nothing(tiny_llama):
    plain, saving = adapted(tiny_llama), adapted(tiny_llama, activation_checkpointing=True)
    for model in (plain, saving):
        PaftModule(model, OptimConfig(lr=1e-3, weight_decay=0, warmup=0.1, max_grad_norm=1), 10, 0).on_fit_start()
    calls = []
    saving.base_model.model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    one = gradients(plain, answer_loss(plain, pack_answers(PAIRS)))
    other = gradients(saving, answer_loss(saving, pack_answers(PAIRS)))
    assert len(calls) == 2  # once forward, once again in the backward pass
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_only_the_adapter_trains_and_in_fp32(tiny_llama):
    model = adapted(tiny_llama)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_the_optimiser_decays_the_adapter_as_asked_and_nothing_else(tiny_llama):
    model = adapted(tiny_llama)
    optim = OptimConfig(lr=1e-3, weight_decay=0.3, warmup=0.1, max_grad_norm=1)
    (group,) = PaftModule(model, optim, 100, 0).configure_optimizers().param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.3)
    assert [*map(id, group["params"])] == [id(p) for p in model.parameters() if p.requires_grad]


def test_the_learning_rate_warms_up_and_falls_to_zero(tiny_llama):
    module = PaftModule(adapted(tiny_llama), OptimConfig(lr=1.0, weight_decay=0, warmup=0.1, max_grad_norm=1), 100, 0)
    rates = [module.learning_rate(update) for update in range(101)]
    assert rates[:2] == [0.1, 0.2] and rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0)


def test_a_checkpoint_of_another_adapter_is_refused(tiny_llama):
    module = PaftModule(adapted(tiny_llama), OptimConfig(lr=1.0, weight_decay=0, warmup=0.1, max_grad_norm=1), 100, 0)
    state = module.state_dict()
    module.load_state_dict(state)
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match="do not fit"):
        module.load_state_dict(state)


def losses(config):
    """The losses of every update of a run, through Lightning."""
    from paft.jobs.train import run_training

    folder = run_training(config).folder
    rows = [line.split(",") for line in (folder / "log" / "version_0" / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("loss")
    return [float(row[column]) for row in rows[1:] if row[column]]


def test_paft_with_one_template_is_ordinary_sft(tiny_overrides, tmp_path):
    """Update for update: PAFT with a pool of one = method=user = plain padded fine-tuning, written out on one page."""
    text = "{story} {question} {A} {B} {C} {D} Answer:"
    pool = tmp_path / "one.yaml"
    pool.write_text(f"answer: text\nprompts:\n  - text: '{text}'\n")
    overrides = [*tiny_overrides, "optim.lr=1e-2"]
    paft = losses(compose_config(*overrides, f"prompts.train={pool}"))
    config = compose_config(*overrides, "method=user")
    config.method.prompt = text
    user = losses(config)
    assert paft == user

    run = prepare(config)
    rows = [{**example.fields, "answer": example.answer} for example in run.inputs.examples.train]
    updates = updates_of(config, len(rows), run.inputs.train, run.inputs.examples.task)
    plan = [(text, [rows[t.row] for t in update]) for epoch in range(config.T) for update in updates.of_epoch(epoch)]
    model = add_lora(load_base(config.model, torch.device("cpu")), config.model, config.seed)
    optim = config.optim
    plain = list(fine_tune(model, load_tokenizer(config.model), plan, optim.lr, optim.warmup, optim.max_grad_norm))
    assert user == pytest.approx(plain, abs=1e-4)
