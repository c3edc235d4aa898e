"""An estimate of the memory that training needs, from the architecture alone."""

import torch
from torch import nn

from paft.config.schema import ModelConfig
from paft.model.base import Model, attention_of, dtype_of, without_adapter
from paft.model.sharding import layers_of

# Bytes kept for the backward pass per input and output feature of a linear layer, per byte of the dtype:
# measured on Llama-shaped layers (paft/model/attention.py, bf16), where norms keep fp32 copies.
_KEPT = 1.4
_QUANTISED = 0.52  # bytes per 4-bit weight, including its share of the blocks' scales
_RUNTIME = 600 * 2**20  # Python, torch, transformers and lightning themselves


def training_memory(
    model: ModelConfig, trained_model: Model, device: torch.device, tokens: int, longest: int, shards: int = 1
) -> int:
    """Estimate the peak memory of training in bytes, accurate to some tens of percent.

    Args:
        trained_model: the model with its adapter, or with all its weights trained, on the meta device.
        device: where it will be trained.
        tokens: number of tokens in the largest micro-batch.
        longest: number of tokens in its longest sequence (the eager kernel keeps that many scores per token).
        shards: devices over which the layers of the base model are spread; 1: they are not.
    """
    size = dtype_of(model, device).itemsize
    base = without_adapter(trained_model)
    architecture = base.config.get_text_config()
    layers: int = architecture.num_hidden_layers
    frozen = sum(p.numel() for p in trained_model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in trained_model.parameters() if p.requires_grad)
    linears = [
        m
        for name, m in base.named_modules()
        if isinstance(m, nn.Linear) and m is not base.get_output_embeddings() and "lora_" not in name
    ]
    per_token = _KEPT * size * sum(m.in_features + m.out_features for m in linears)
    if attention_of(model, base.config, device, backward=True).kernel == "eager":
        per_token += layers * architecture.num_attention_heads * longest * (4 + 1.5 * size)
    if model.activation_checkpointing:
        per_token = per_token / layers + layers * architecture.hidden_size * size
    weights = frozen * size
    if model.quantization is not None:
        weights -= (size - _QUANTISED) * sum(m.weight.numel() for m in linears)
    if shards > 1:  # two layers are whole at a time: the one at work and the next
        layered = [size * sum(p.numel() for p in layer.parameters() if not p.requires_grad) for layer in layers_of(base)]
        weights -= sum(layered) - sum(layered) / shards - 2 * max(layered)
    return round(weights + 16 * trained + tokens * per_token + _RUNTIME)  # 16: weight, gradient, two moments in fp32
