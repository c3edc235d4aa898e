"""Fixtures: a tiny random Llama with a real tokenizer, and a way to compose configs for it."""

import os
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from paft.cli import CONFIG_PATH
from paft.config import EvaluateConfig, TrainConfig, parse, parse_evaluation
from paft.data.story_facts import generate_rows


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 2-layer random Llama (grouped-query attention) and a byte-level BPE tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    text = [f"{row['story']} {row['question']} {row['A']} Answer:" for row in generate_rows("train", 300)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(text, trainers.BpeTrainer(vocab_size=512, special_tokens=["<end>"], initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def compose_config(*overrides: str) -> TrainConfig:
    """Compose conf/train.yaml with overrides, as the command line does."""
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        return parse(compose("train", list(overrides)))


def compose_evaluation(*overrides: str) -> EvaluateConfig:
    """Compose conf/evaluate.yaml with overrides, as the command line does."""
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        return parse_evaluation(compose("evaluate", list(overrides)), overrides)


@pytest.fixture
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with which importing torch, lightning or transformers ends the process."""
    folder = tmp_path_factory.mktemp("without_torch")
    for name in ("torch", "lightning", "transformers", "peft", "datasets"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    return folder


@pytest.fixture
def tiny_overrides(tiny_llama: Path, tmp_path: Path) -> list[str]:
    """Overrides that make a run of seconds on the tiny Llama, in a folder of its own."""
    return [
        f"model.path={tiny_llama}",
        "model.dtype=fp32",
        f"output_root={tmp_path / 'runs'}",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "train_examples=24",
        "T=2",
        "eval_examples=6",
        "eval_prompts=3",
        "validation.prompts=2",
        "validation.examples=4",
    ]
