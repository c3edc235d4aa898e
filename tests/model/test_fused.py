"""Fused operations: the same losses and gradients as plain transformers and PEFT, and nothing replaced that is not known."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from paft.data.batch import pack_answers
from paft.model import fused
from paft.model.base import add_lora, load_base
from paft.model.fused import fuse, fuse_lora, fused_kind, fused_of
from paft.training.losses import answer_loss
from tests.model.test_architectures import CHOICES, CONTEXTS, POSITIONS, answer_log_probs, config_of, tiny

CPU = torch.device("cpu")
PAIRS = [(context, choices[-1]) for context, choices in zip(CONTEXTS, CHOICES, strict=True)]
# By architecture: how many norms, attentions and gated layers are fused, of two decoder layers.
KNOWN = {
    "llama": (5, 2, 2), "qwen2": (5, 2, 2), "mistral, window": (5, 2, 2), "qwen3": (9, 2, 2), "gemma": (5, 2, 2),
    "gemma3_text, window": (13, 2, 2), "smollm3": (5, 2, 2), "exaone4, window": (9, 2, 2), "granite": (5, 2, 2),
    "phi3, window": (5, 0, 0), "mixtral": (5, 2, 0), "glm4": (9, 0, 0), "cohere2, window": (0, 0, 2), "gpt2": (0, 0, 0),
}  # fmt: skip


def replaced(model):
    """Return how many norms, attentions and gated layers have a forward of their own."""
    names = [type(module).__name__ for module in model.modules() if "forward" in vars(module)]
    return tuple(sum(name.endswith(end) for name in names) for end in ("RMSNorm", "Attention", "MLP"))


def with_effect(model):
    """Give LoRA's second matrices weights that change scores, the same for each model."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def update(model, dtype="fp32", seed=3):
    """Return the loss of an update and the adapter's gradients."""
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        loss = answer_loss(model, pack_answers(PAIRS))
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]


def far(got, wanted):
    """Return how far tensors are off, relative to their norm."""
    return max(float((g - w).norm() / w.norm().clamp_min(1e-12)) for g, w in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_fused_and_trains_as_plain_transformers_and_peft(name, tmp_path):
    targets = {"gpt2": ["c_attn"], "phi3, window": ["qkv_proj", "down_proj"]}.get(name, ["q_proj", "v_proj"])
    config = config_of(tiny(name, tmp_path), targets=targets)
    base = load_base(config, CPU, cutoff=POSITIONS)
    assert replaced(base) == KNOWN[name]
    ours = with_effect(add_lora(base, config, seed=0))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).requires_grad_(False)
    plain = with_effect(add_lora(plain, config, seed=0))
    assert replaced(plain) == (0, 0, 0)
    loss, gradients = update(ours)
    wanted = -sum(answer_log_probs(plain, *pair).sum() for pair in PAIRS)
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=0)
    assert far(gradients, [p.grad for p in plain.parameters() if p.requires_grad]) < 1e-5


def pair_of(folder, dtype="fp32", dropout=0.0, targets=("q_proj", "v_proj", "gate_proj", "down_proj"), cutoff=POSITIONS):
    """Return the same adapted model fused and not."""
    config = config_of(folder, dtype=dtype, targets=targets)
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"dropout": dropout})})
    return [
        with_effect(add_lora(load_base(config, CPU, cutoff=cutoff, fused=setting), config, seed=0)).train()
        for setting in ("auto", "off")
    ]


def test_dropout_draws_the_masks_that_peft_draws(tmp_path):
    ours, plain = pair_of(tiny("llama", tmp_path), dropout=0.4)
    (loss, gradients), (wanted, wanted_gradients) = update(ours), update(plain)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    assert far(gradients, wanted_gradients) < 1e-5
    assert update(ours, seed=4)[0] != loss


@pytest.mark.parametrize("name", ["llama", "gemma3_text, window"])
def test_bf16_is_as_far_from_fp32_as_peft_under_autocast(name, tmp_path):
    tiny(name, tmp_path, initializer_range=0.05)
    exact, exact_gradients = update(pair_of(tmp_path)[1])
    (loss, gradients), (wanted, wanted_gradients) = (update(model, "bf16") for model in pair_of(tmp_path, "bf16"))
    assert abs(loss - wanted) < 0.01 * wanted and abs(loss - exact) < 0.01 * exact
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert far(gradients, exact_gradients) < 2 * far(wanted_gradients, exact_gradients) + 0.01


@pytest.mark.parametrize("change", ["two adapters", "dora", "disabled", "merged", "bias", "bf16 without autocast"])
def test_what_is_not_plain_lora_stays_as_peft_computes_it(change, tmp_path):
    dtype = torch.bfloat16 if change.startswith("bf16") else torch.float32
    base = AutoModelForCausalLM.from_pretrained(tiny("llama", tmp_path), dtype=dtype).requires_grad_(False)
    lora = PeftLoraConfig(r=4, target_modules=["q_proj"], use_dora=change == "dora", lora_bias=change == "bias")
    if change == "bias":
        for layer in base.model.layers:
            layer.self_attn.q_proj.bias = torch.nn.Parameter(torch.ones(32), requires_grad=False)
    model = with_effect(get_peft_model(base, lora))
    if change == "two adapters":
        model.add_adapter("other", lora)
        model.base_model.set_adapter(["default", "other"])
        with_effect(model)
    if change == "merged":
        model.merge_adapter()
    ids = torch.tensor([CONTEXTS[0]])
    ours = copy.deepcopy(model)
    fuse_lora(ours, "torch")

    def logits(model):
        if change == "disabled":
            with model.disable_adapter():
                return model(input_ids=ids).logits
        return model(input_ids=ids).logits

    assert torch.equal(logits(ours), logits(model))
    assert "forward" in vars(ours.base_model.model.model.layers[0].self_attn.q_proj)


def test_a_copy_of_a_fused_model_computes_with_its_own_weights(tmp_path):
    ours, _ = pair_of(tiny("llama", tmp_path))
    twin = copy.deepcopy(ours)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert far([update(ours)[0]], [update(pair_of(tmp_path)[1])[0]]) < 1e-5
    assert update(twin)[0] != update(ours)[0]


@pytest.mark.parametrize("broken", ["rms_norm", "gated", "rotary"])
def test_a_fused_operation_that_is_wrong_or_fails_is_not_taken(broken, tmp_path, monkeypatch, capsys):
    def fails(*args):
        raise RuntimeError("no compiler. None at all.")

    wrong = {"rms_norm": lambda x, *_: x * 1.0, "gated": fails, "rotary": lambda q, k, *_: (q * 1.0, k * 1.0)}[broken]
    monkeypatch.setattr(fused, "TORCH", replace(fused.TORCH, **{broken: wrong}))
    base = load_base(config_of(tiny("llama", tmp_path)), CPU)
    position = ["rms_norm", "rotary", "gated"].index(broken)
    assert replaced(base) == tuple(0 if i == position else n for i, n in enumerate(KNOWN["llama"]))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Llama") and " stays as transformers computes it: its fused form does not work here (" in line
    assert broken != "gated" or line.endswith("(RuntimeError: no compiler).")


@pytest.mark.parametrize(
    ("device", "setting", "installed", "kind"),
    [
        ("cpu", "auto", True, "torch"),
        ("cuda", "auto", True, "liger"),
        ("cuda", "auto", False, "torch"),
        ("cuda", "off", True, "off"),
        ("cpu", "off", False, "off"),
    ],
)
def test_the_kind_is_known_without_a_model(device, setting, installed, kind, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object() if installed else None)
    assert fused_kind(torch.device(device), setting) == kind


def test_off_replaces_nothing_and_is_remembered(tmp_path):
    config = config_of(tiny("llama", tmp_path))
    base = load_base(config, CPU, fused="off")
    assert replaced(base) == (0, 0, 0) and fused_of(base) == "off"
    model = add_lora(base, config, seed=0)
    assert all("forward" not in vars(module) for module in model.modules())
    base = load_base(config, CPU)
    assert fused_of(base) == "torch" and replaced(base) != (0, 0, 0)
    fuse(base, "off")
    assert fused_of(base) == "off" and replaced(base) == (0, 0, 0)


def test_another_architecture_with_a_known_name_is_not_touched():
    class LlamaRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8), requires_grad=False)
            self.variance_epsilon = 1e-6

        def forward(self, hidden_states):
            return self.weight * hidden_states

    module = torch.nn.Sequential(LlamaRMSNorm())
    fuse(module, "torch")
    assert replaced(module) == (0, 0, 0)
