"""A tiny Llama as a GGUF file, and wheels that hold pieces of a file: real ones, made in the test."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from transformers import LlamaForCausalLM

CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"


def save_tiny_gguf(
    model: Path, file: Path, without: Sequence[str] = (), tensors: Mapping[str, Any] = {}, **fields: Any
) -> dict[str, torch.Tensor]:
    """Write the tiny Llama as llama.cpp's converter does, its matrices in 8 bits; return the weights that the file stands for.

    Args:
        model: the folder of the tiny Llama.
        without: fields of the tokenizer and names of tensors to leave out.
        tensors: more tensors.
        fields: to add or to replace, their dots written as two underscores.
    """
    llama = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    config, writer = llama.config, gguf.GGUFWriter(file, fields.pop("architecture", "llama"))
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if "tokenizer" not in without:
        _add_tokenizer(writer, model, without)
    for key, value in fields.items():
        add = {int: writer.add_uint32, str: writer.add_string, bool: writer.add_bool}[type(value)]
        add(key.replace("__", "."), value)
    stored = {}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in llama.named_parameters():
        weight = parameter.detach().numpy()
        place = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads is not None:  # llama.cpp pairs neighbouring rows for its rotary embedding, transformers the two halves
            weight = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        kind = GGMLQuantizationType.F32 if weight.ndim == 1 else GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(np.ascontiguousarray(weight), kind)
        unpacked = gguf.quants.dequantize(packed, kind)
        if heads is not None:
            unpacked = unpacked.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)
        stored[name] = torch.tensor(unpacked)
        if place not in without:
            writer.add_tensor(place, packed, raw_dtype=kind)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path, without: Sequence[str]) -> None:
    bpe = json.loads((model / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<end>" else 1 for token in tokens])  # 3: a control token
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    if "chat_template" not in without:
        writer.add_chat_template(CHAT)


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """Write a wheel that holds these files, and no code; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    about = f"{path.name.removesuffix('-py3-none-any.whl')}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in files.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path
