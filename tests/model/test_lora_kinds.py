"""DoRA and rsLoRA: fused or not, the losses and gradients of plain PEFT; trained, resumed, saved, evaluated and merged."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from paft.jobs.evaluate import run_evaluation
from paft.jobs.export import export
from paft.jobs.train import run_training
from paft.model.base import add_lora, load_base
from paft.model.fused import fuse_lora
from tests.conftest import compose_config, compose_evaluation, interrupt_before_its_adapter_is_saved
from tests.model.test_architectures import POSITIONS, answer_log_probs, config_of, tiny
from tests.model.test_fused import PAIRS, far, update, with_effect

CPU = torch.device("cpu")
KINDS = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True, "r": 8}, "both": {"use_dora": True, "use_rslora": True}}
ADAPTER = "adapter/adapter_model.safetensors"


def settings(folder, kind, dropout=0.0, dtype="fp32"):
    config = config_of(folder, dtype=dtype, targets=["q_proj", "v_proj", "down_proj"])
    lora = config.lora.model_copy(update=KINDS[kind] | {"dropout": dropout})
    return config.model_copy(update={"lora": lora})


def on_plain_peft(folder, config):
    """The same adapter as PEFT computes it, on plain transformers."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    model = with_effect(add_lora(base, config, seed=0))
    assert all("forward" not in vars(module) for module in model.modules())
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_packed_and_fused_equal_plain_peft(kind, name, tmp_path):
    config = settings(tiny(name, tmp_path), kind)
    ours = with_effect(add_lora(load_base(config, CPU, cutoff=POSITIONS), config, seed=0))
    plain = on_plain_peft(tmp_path, config)
    loss, gradients = update(ours)
    wanted = -sum(answer_log_probs(plain, *pair).sum() for pair in PAIRS)
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=0)
    assert far(gradients, [p.grad for p in plain.parameters() if p.requires_grad]) < 1e-5
    # The kinds differ from LoRA of the same weights, or the comparison would say nothing.
    assert abs(float(update(with_effect(plain_lora(tmp_path)))[0]) - float(loss)) > 1e-3


def plain_lora(folder):
    config = config_of(folder, targets=["q_proj", "v_proj", "down_proj"])
    return add_lora(load_base(config, CPU, cutoff=POSITIONS), config, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_the_masks_that_peft_draws(kind, tmp_path):
    config = settings(tiny("llama", tmp_path), kind, dropout=0.4)
    ours, plain = (
        with_effect(add_lora(load_base(config, CPU, cutoff=POSITIONS, fused=fused), config, seed=0)).train()
        for fused in ("torch", "off")
    )
    (loss, gradients), (wanted, wanted_gradients) = update(ours), update(plain)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    assert far(gradients, wanted_gradients) < 1e-5 and update(ours, seed=4)[0] != loss


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_as_far_from_fp32_as_peft_under_autocast(kind, tmp_path):
    tiny("llama", tmp_path, initializer_range=0.05)

    def updated(dtype, fused):
        config = settings(tmp_path, kind, dtype=dtype)
        return update(with_effect(add_lora(load_base(config, CPU, cutoff=POSITIONS, fused=fused), config, seed=0)), dtype)

    exact, exact_gradients = updated("fp32", "off")
    (loss, gradients), (wanted, wanted_gradients) = updated("bf16", "torch"), updated("bf16", "off")
    assert abs(loss - wanted) < 0.01 * wanted and abs(loss - exact) < 0.01 * exact
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert far(gradients, exact_gradients) < 2 * far(wanted_gradients, exact_gradients) + 0.01


def test_the_layers_of_dora_step_aside_and_those_of_rslora_are_fused(tmp_path, monkeypatch):
    from paft.model import fused

    tiny("llama", tmp_path)
    counted = []
    apply = fused._LoraLinear.apply
    monkeypatch.setattr(fused._LoraLinear, "apply", lambda *arguments: counted.append(1) or apply(*arguments))
    for kind, fuses in (("dora", False), ("rslora", True)):
        counted.clear()
        config = settings(tmp_path, kind)
        model = add_lora(load_base(config, CPU, cutoff=POSITIONS), config, seed=0)
        fuse_lora(model, "torch")
        update(model)
        assert bool(counted) == fuses


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_a_run_is_resumed_bit_for_bit_evaluated_and_merged(kind, tiny_overrides, tmp_path, monkeypatch):
    typed = [*tiny_overrides, f"lora@model.lora={kind}", "model.lora.r=4", "optim.lr=1e-2", "trainer.checkpoint_every=1"]
    whole = run_training(compose_config(*typed))
    config = compose_config(*typed, f"output_root={tmp_path / 'again'}")
    interrupt_before_its_adapter_is_saved(config, monkeypatch)
    folder = tmp_path / "again" / whole.folder.name
    newest = max((folder / "checkpoints").glob("update-*"))
    newest.unlink()  # so that the last update is repeated
    resumed = run_training(config)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()
    assert resumed.robustness == whole.robustness
    saved = load_file(whole.folder / ADAPTER)
    assert any("lora_magnitude_vector" in name for name in saved) == (kind == "dora")

    few = ["trainer.accelerator=cpu", "trainer.progress=false", "eval_examples=6", "eval_prompts=3"]
    again = run_evaluation(compose_evaluation(f"adapter={whole.folder / 'adapter'}", f"output_root={tmp_path}", *few))
    assert again.robustness == whole.robustness
    export(whole.folder / "adapter", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(str(config.model.path), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, whole.folder / "adapter").eval()
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)
        with adapted.disable_adapter():
            assert (model(ids).logits - adapted(ids).logits).abs().max() > 1e-3  # it was trained
    card = (whole.folder / "adapter" / "README.md").read_text()
    assert f"A {'DoRA' if kind == 'dora' else 'rsLoRA'} adapter for" in card and f"- {kind}\n" in card
    assert ("vLLM: it takes no DoRA" in card) == (kind == "dora")
