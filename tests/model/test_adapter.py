"""A merged model scores as its adapter did, or nothing is written; GPT-2, whose layers are no linear ones, as any other."""

import json
import shutil
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from paft.jobs.evaluate import run_evaluation
from paft.jobs.export import export
from paft.jobs.train import run_training
from paft.model.adapter import save_adapter, with_adapter
from paft.model.base import add_lora, load_base, load_tokenizer
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation
from tests.model.test_architectures import config_of

IDS = torch.arange(10, 42)[None]
CPU = torch.device("cpu")


@pytest.fixture
def base_folder(tiny_llama, tmp_path):
    """A tiny Llama with tied embeddings and a generation config that transformers reads, but would not write."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 3], "temperature": 0.5, "do_sample": false}')
    return folder


def save_adapter_of(folder, out, targets):
    """Save an adapter that changes scores much; return its logits."""
    config = compose_config(f"model.path={folder}", "model.dtype=fp32", f"model.lora.target_modules=[{','.join(targets)}]")
    model = add_lora(load_base(config.model, CPU), config.model, seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
            if "embedding" in name:
                torch.nn.init.normal_(model.get_parameter(name.replace("_B", "_A")), std=0.1)
    about = {"run": "a", "method": "paft", "model": config.model.model_dump(), "dataset": config.dataset.model_dump()}
    save_adapter(model, load_tokenizer(config.model), out, about)
    return model.eval()(input_ids=IDS).logits.detach()


@pytest.mark.parametrize(
    ("targets", "tied"),
    [
        (["q_proj"], True),
        (["q_proj", "v_proj", "lm_head"], False),
        (["embed_tokens"], False),
        (["lm_head", "embed_tokens"], False),
    ],
)
def test_a_merged_model_scores_as_the_adapter_did(targets, tied, base_folder, tmp_path):
    wanted = save_adapter_of(base_folder, tmp_path / "adapter", targets)
    export(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, wanted, rtol=1e-4, atol=1e-5)
        base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        assert (base(IDS).logits - wanted).abs().max() > 0.003
    assert merged.config.tie_word_embeddings == tied
    assert (merged.get_input_embeddings().weight.data_ptr() == merged.get_output_embeddings().weight.data_ptr()) == tied
    assert "paft" not in (tmp_path / "merged" / "config.json").read_text()
    for name in ("generation_config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base_folder / name).read_bytes()
    model = load_base(config_of(tmp_path / "merged"), CPU)  # and it can be a base again
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_a_merge_that_changes_scores_is_refused(base_folder, tmp_path, monkeypatch):
    save_adapter_of(base_folder, tmp_path / "adapter", ["q_proj", "lm_head"])
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr("paft.model.adapter._untie", lambda _: None)
    with pytest.raises(InputError, match=r"adapter=.*adapter: LlamaForCausalLM scores otherwise once the adapter is merged"):
        export(tmp_path / "adapter", tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.fixture
def gpt2(tiny_llama, tmp_path):
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=1024, vocab_size=512, eos_token_id=0, bos_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


def test_the_layers_of_gpt2_that_lora_adapts_are_named(gpt2):
    config = config_of(gpt2, targets=["q_proj"])
    with pytest.raises(InputError, match=r"no module 'q_proj'; LoRA can adapt its c_attn, c_fc, c_proj, lm_head\."):
        add_lora(load_base(config, CPU), config, seed=0)


@pytest.mark.parametrize(("targets", "transposed"), [(["c_attn"], True), (["c_attn", "lm_head"], None)])
def test_gpt2_is_trained_saved_merged_and_scored(targets, transposed, gpt2, tiny_overrides, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(fan_in_fan_out|tie_word_embeddings).*")
        overrides = [*tiny_overrides, f"model.path={gpt2}", f"model.lora.target_modules=[{','.join(targets)}]", "optim.lr=1e-2"]
        results = run_training(compose_config(*overrides))
        folder = results.folder
        again = [f"output_root={tmp_path / 'evaluations'}", "eval_prompts=3", "eval_examples=6", "trainer.accelerator=cpu"]
        adapted = run_evaluation(compose_evaluation(f"adapter={folder / 'adapter'}", *again))
        assert adapted.robustness == results.robustness
        out = tmp_path / "merged"
        export(folder / "adapter", out)
    if transposed is not None:
        assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"] is transposed
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    model = with_adapter(load_base(config_of(gpt2, targets=targets), CPU), folder / "adapter", None, "gpt2").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
        base = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32)
        assert (merged(IDS).logits - base(IDS).logits).abs().max() > 1e-3  # it was trained
