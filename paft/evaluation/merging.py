"""Merging an adapter into its base model for scoring, which saves the adapter's multiplications, if precision allows it."""

from collections.abc import Sequence

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.cells import Cell, batches, encode
from paft.evaluation.scoring import WithinMemory
from paft.model.attention import packed_logits, packs_ragged
from paft.packing import Branches, pack
from paft.prompts import PromptPool
from paft.runtime import ranks

_PROMPTS, _EXAMPLES = 4, 4  # of the probe


@torch.no_grad()
def merge_within_tolerance(
    model: PeftModel,
    encoder: Encoder,
    pool: PromptPool,
    examples: Sequence[Example],
    batch_tokens: int,
    times_the_noise: float = 2.0,
    least: float = 1e-5,
) -> bool:
    """Add the adapter's weights to the base model's in place, unless that costs too much precision; return whether it did.

    Rounding depends on the shape of a batch, so that a rendering scored alone and the same rendering in a batch have slightly
    different log-probabilities. That difference is the noise of scoring. Merging is tolerable if it changes the
    log-probabilities of the next token by at most `times_the_noise`. Both are mean absolute differences over the vocabulary
    and up to 16 renderings. If merging is not tolerable, or a layer cannot be merged, the model is left as it was, bit for bit.

    Args:
        batch_tokens: tokens of a batch, as in scoring.
        times_the_noise: how many times the noise of scoring merging may change log-probabilities by.
        least: nats that they may change by in any case, because fp32 scores that agree this well are equal.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    if not all(map(_can_be_merged, layers)):
        return False
    window = range(min(_PROMPTS, len(pool.templates))), range(min(_EXAMPLES, len(examples)))
    cells = list(encode(encoder, pool, examples, window))
    batched = batches(cells, batch_tokens)
    one_by_one = [[cell] for batch in batched for cell in batch]
    within_memory = WithinMemory(lambda batch: _next_log_probs(model, batch))

    def log_probs(batching: Sequence[Sequence[Cell]]) -> Tensor:
        return torch.stack([each for batch in batching for each in within_memory(batch)])

    was_training = model.training
    model.eval()
    usual = log_probs(batched)
    noise = _distance(usual, log_probs(one_by_one))
    originals = [(weight, weight.clone()) for layer in layers for weight in layer.get_base_layer().parameters()]
    model.merge_adapter()
    tolerable = _distance(usual, log_probs(batched)) <= max(least, times_the_noise * noise)
    tolerable = all(ranks.gather(tolerable))  # ranks score parts of one matrix: all merge, or none
    if not tolerable:
        model.unmerge_adapter()
        for weight, original in originals:  # subtracting the adapter again leaves rounding errors
            weight.data.copy_(original)
    model.train(was_training)
    return tolerable


def _can_be_merged(layer: BaseTunerLayer) -> bool:
    """Say whether PEFT can add an adapted layer's update to its weights in place; a bias needs one to be added to."""
    base = layer.get_base_layer()
    if not isinstance(layer, LoraLayer) or not isinstance(base, nn.Linear | nn.Embedding | Conv1D):
        return False
    without_bias = getattr(base, "bias", None) is None
    return base.weight.is_floating_point() and not (without_bias and any(layer.lora_bias.values()))


def _next_log_probs(model: PeftModel, cells: Sequence[Cell]) -> list[Tensor]:
    """Return the log-probabilities (V,) fp32 of the token that follows each context."""
    contexts = [cell.encoded.context for cell in cells]
    packing = pack([Branches(context) for context in contexts], packs_ragged(model)).to(model.device)
    last = torch.tensor([len(context) for context in contexts], device=model.device).cumsum(0) - 1
    return list(packed_logits(model, packing, last).float().log_softmax(-1))


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())
