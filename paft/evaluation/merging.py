"""Merging an adapter into its base model for scoring, which saves its own multiplications, where that is no loss."""

from collections.abc import Sequence

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.cells import Cell, batches, encode
from paft.evaluation.scoring import WithinMemory
from paft.model.attention import packed_logits
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
    """Add the adapter's weights to the base model's, in place, unless that costs more precision than batching does.

    Rounding differs with the shape of a batch, so that a rendering's log-probabilities are not quite the same alone and
    among others. Merging may change those of the next token, averaged over the vocabulary and 16 renderings, by
    `times_the_noise` as much.

    Args:
        batch_tokens: of a batch, as in scoring.
        least: nats by which log-probabilities may change in any case: fp32 scores that agree this well are equal.

    Returns whether it was done; if not, the model is as it was.
    """
    window = range(min(_PROMPTS, len(pool.templates))), range(min(_EXAMPLES, len(examples)))
    cells = list(encode(encoder, pool, examples, window))
    together = batches(cells, batch_tokens)
    alone = [[cell] for batch in together for cell in batch]
    within = WithinMemory(lambda batch: _next_log_probs(model, batch))

    def log_probs(plan: Sequence[Sequence[Cell]]) -> Tensor:
        return torch.stack([found for batch in plan for found in within(batch)])

    was_training = model.training
    model.eval()
    usual, noisy = log_probs(together), log_probs(alone)
    adapted = [layer.get_base_layer() for layer in model.modules() if isinstance(layer, LoraLayer)]
    originals = [layer.weight.clone() for layer in adapted]
    model.merge_adapter()
    tolerable = _distance(usual, log_probs(together)) <= max(least, times_the_noise * _distance(usual, noisy))
    tolerable = all(ranks.gather(tolerable))  # ranks score parts of one matrix: all merge, or none
    if not tolerable:
        model.unmerge_adapter()
        for layer, weight in zip(adapted, originals, strict=True):  # subtracting again would leave rounding behind
            layer.weight.data.copy_(weight)
    model.train(was_training)
    return tolerable


def _next_log_probs(model: PeftModel, cells: Sequence[Cell]) -> list[Tensor]:
    """Return the log-probabilities (V,) fp32 of what follows each context."""
    contexts = [cell.encoded.context for cell in cells]
    packing = pack([Branches(context) for context in contexts]).to(model.device)
    last = torch.tensor([len(context) for context in contexts], device=model.device).cumsum(0) - 1
    return list(packed_logits(model, packing, last).float().log_softmax(-1))


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())
