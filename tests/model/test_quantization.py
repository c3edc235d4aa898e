"""QLoRA: a base model in 4 bits. It needs a GPU; all but its kernels is tested here, as bitsandbytes computes on a CPU, too."""

import csv
import importlib.util

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from paft.jobs.evaluate import run_evaluation
from paft.jobs.export import export
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.model.base import load_base
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation


@pytest.fixture
def tiny_overrides(tiny_overrides, tiny_llama, tmp_path) -> list[str]:
    """With a tiny Llama that is wide enough for bitsandbytes' blocks of 64 weights."""
    folder = tmp_path / "wider"
    config = AutoConfig.from_pretrained(tiny_llama)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return [*tiny_overrides, f"model.path={folder}"]


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Let it run here, without the repacking that makes it wrong."""
    for place in ("paft.jobs.one_run", "paft.jobs.evaluate"):
        monkeypatch.setattr(f"{place}.check_quantization", lambda *_: None)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


def test_a_run_in_four_bits_is_trained_evaluated_and_merged(tiny_overrides, tmp_path, on_a_cpu):
    import bitsandbytes

    config = compose_config(*tiny_overrides, "model.quantization=4bit", "optim.lr=1e-2")
    base = load_base(config.model, torch.device("cpu"))
    assert isinstance(base.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)
    results = run_training(config)
    folder = results.folder
    rows = csv.DictReader((folder / "log" / "version_0" / "metrics.csv").open())
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses[-1] < losses[0]
    assert not results.scoring.merged
    again = run_evaluation(
        compose_evaluation(
            f"adapter={folder / 'adapter'}", f"output_root={tmp_path / 'evals'}", "eval_prompts=3", "eval_examples=6",
            "trainer.accelerator=cpu", "trainer.micro_batch_tokens=2048", "trainer.progress=false",
        )
    )  # fmt: skip
    assert again.config["model"]["quantization"] == "4bit" and again.robustness == results.robustness
    export(folder / "adapter", tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == torch.float32


def test_it_is_another_run(tiny_overrides, on_a_cpu):
    plain, quantised = (compose_config(*tiny_overrides, *more) for more in ([], ["model.quantization=4bit"]))
    assert plain.run_name != quantised.run_name and "quantization" not in plain.identity()["model"]
    assert prepare(quantised).plan.memory_bytes < prepare(plain).plan.memory_bytes


def test_what_is_missing_is_said(tiny_overrides, monkeypatch):
    with pytest.raises(InputError, match=r"model\.quantization=4bit needs an NVIDIA GPU; leave it out on this machine"):
        prepare(compose_config(*tiny_overrides, "model.quantization=4bit"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"model\.quantization=4bit needs bitsandbytes; run `pip install bitsandbytes`"):
        compose_config(*tiny_overrides, "model.quantization=4bit")
