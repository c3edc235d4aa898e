"""The models of benchmarks: one of conf/model, a folder or hub id, or a shape with random weights for timings alone."""

import argparse
import os
import shlex
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedConfig, Qwen2Config

from paft.config.base_model import called
from paft.config.compose import CONF
from paft.config.schema import ModelConfig
from paft.model.base import skeleton
from paft.model.converted import loadable

_LENGTH: dict[str, Any] = {"max_position_embeddings": 8192}
SHAPES: dict[str, PreTrainedConfig] = {
    "135m": LlamaConfig(  # SmolLM2-135M's
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, **_LENGTH,
    ),
    "0.5b": Qwen2Config(  # Qwen2.5-0.5B's
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True, **_LENGTH,
    ),
    "8b": LlamaConfig(  # Llama-3-8B's
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False, **_LENGTH,
    ),
}  # fmt: skip


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --accelerator, --model and --tokenizer to a benchmark's command."""
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu")
    shapes = ", ".join(SHAPES)
    parser.add_argument(
        "--model", default="smollm2_135m", help=f"of conf/model, a folder or hub id, or a shape of random weights: {shapes}"
    )
    parser.add_argument("--tokenizer", help="a shape's: a folder; default: the embedded model's")


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides of conf/train.yaml that choose model and device; a shape is saved at the first call."""
    name = arguments.model
    device = f"trainer.accelerator={arguments.accelerator}"
    if name in SHAPES:
        return [device, f"model.path={_shape_folder(name, arguments.tokenizer)}"]
    in_conf = (Path(CONF) / "model" / f"{name}.yaml").is_file()
    return [device, f"model={name}" if in_conf else f"model.path={name}"]


def label_of(name: str, config: ModelConfig) -> str:
    """Return what a page calls the model."""
    return f"{name} shape with random weights" if name in SHAPES else called(config.path, "SmolLM2-135M")


def _shape_folder(name: str, tokenizer: str | None) -> Path:
    """Return the folder of a shape, in the machine's temporary folder, where later processes find it."""
    folder = Path(tempfile.gettempdir()) / "paft_shapes" / "-".join([name, *([Path(tokenizer).name] if tokenizer else [])])
    if not folder.is_dir():
        print(f"Saving random weights of the {name} shape to {folder} ...", flush=True)
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:  # it frees the device's memory
            process.submit(_save_shape, name, tokenizer, folder).result()
    return folder


def _save_shape(name: str, tokenizer: str | None, folder: Path) -> None:
    scratch = folder.with_name(f".{folder.name}-{os.getpid()}")
    AutoTokenizer.from_pretrained(tokenizer or loadable(None)).save_pretrained(scratch)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(SHAPES[name], dtype=torch.bfloat16).save_pretrained(scratch)
    scratch.rename(folder)


def linear_layers(config: ModelConfig) -> Counter[tuple[int, int]]:
    """Return how many linear layers have each shape (in, out), without the LM head, which few positions reach."""
    base: Any = skeleton(config, trained=False)
    head = base.get_output_embeddings()
    return Counter((m.in_features, m.out_features) for m in base.modules() if isinstance(m, nn.Linear) and m is not head)


def weights_of(layers: Counter[tuple[int, int]]) -> int:
    """Return the number of weights of linear layers; each is a multiplication and an addition per token."""
    return sum(count * inner * outer for (inner, outer), count in layers.items())


def command_of(module: str) -> str:
    """Return the command that made a page, with the folder of the data as DIR."""
    typed = list(sys.argv[1:])
    for option in ("--data", "--tokenizer"):
        if option in typed:
            typed[typed.index(option) + 1] = "DIR"
    return shlex.join(["python", "-m", module, *typed])
