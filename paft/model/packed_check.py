"""Whether a model scores packed texts as it scores each alone: what is known of its architecture, and a comparison."""

import inspect
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from paft.model.attention import NAMES, PackingError, packed_logits
from paft.model.fused import Fused, fuse
from paft.packing import Branches, pack
from paft.runtime.errors import InputError
from paft.runtime.memory import is_out_of_memory

_OTHERS = "use a model with plain attention (Llama, Qwen, Mistral, Gemma 3, SmolLM, GPT-2, ...)."
# What a forward pass raises that does not take packed batches: other arguments, other shapes, other layers.
_OF_THE_CODE = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_BEYOND = 32  # tokens of the compared text that lie beyond the longest window
_SHORT = 4  # tokens of the compared sequences beside and after it; few, because a state leaks into the first few
# Of the logits' size, what rounding may change: the median over some tokens, because a mixture of experts may choose other
# experts at a few. Measured over 74 architectures with random weights: in fp32 at most 1e-6, in bf16 at most 0.03; through the
# 30 layers of SmolLM2 in bf16 0.11. A window that is lost there changes 1.1, so the names above need no sharper comparison.
_FP32, _BF16 = 0.001, 0.3


def check_architecture(path: str | None, config: PreTrainedConfig, cutoff: int) -> None:
    """Raise InputError if the config says that packed rows would lose a part of the model; no weights are needed.

    Args:
        path: of the model, for the message.
        cutoff: tokens of the longest text.
    """
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if reason := _known(config, kind, cutoff):
        raise _refusal(path, kind.__name__ if kind is not None else config.model_type, reason)
    limit = unscaled_positions(config)
    if limit is not None and cutoff > limit:
        raise InputError(
            f"cutoff={cutoff}: beyond {limit} tokens {config.model_type} scales the positions of a whole batch by its longest "
            f"text, so that a text's score would depend on its neighbours; set cutoff={limit} or lower."
        )


def _refusal(path: str | None, architecture: str, reason: str) -> InputError:
    return InputError(f"model.path={path}: {architecture} {reason}, which packed batches would lose; {_OTHERS}")


def _known(config: PreTrainedConfig, kind: Any, cutoff: int) -> str | None:
    """Return what packed rows would lose of an architecture, as far as its config and its class tell."""
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    chunk = getattr(text, "attention_chunk_size", None)
    with_alibi = getattr(text, "alibi", False) or getattr(getattr(text, "attn_config", None), "alibi", False)
    if getattr(text, "attn_logit_softcapping", None) is not None:
        return "soft-caps its attention scores"
    if text.model_type == "bloom" or with_alibi:
        return "adds ALiBi biases to its attention scores"
    if chunk is not None and chunk < cutoff and (layers is None or "chunked_attention" in layers):
        return f"attends within chunks of {chunk} tokens (texts of up to cutoff={chunk} have only one)"
    if layers is not None and any(state in layer for layer in layers for state in ("linear", "conv", "mamba", "recurrent")):
        return "carries a state along the text"
    if layers is None and getattr(kind, "_is_stateful", False):
        return "carries a state along the text"
    if kind is not None and not kind._can_set_attn_implementation():
        return "computes attention in code of its own, not through transformers' AttentionInterface"
    if kind is not None and "position_ids" not in inspect.signature(kind.forward).parameters:
        return "counts the positions of a text by itself"
    return None


def unscaled_positions(config: PreTrainedConfig) -> int | None:
    """Return up to how many tokens rotary positions do not depend on the longest text of a batch; None: always.

    LongRoPE (Phi-3 with 128k) takes other frequencies for a whole batch once one text is longer than this. Dynamic NTK
    scaling does so beyond `max_position_embeddings`, where texts are cut anyway.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]  # some have one for each type of layer
    limits = [each.get("original_max_position_embeddings") for each in kinds if each.get("rope_type") == "longrope"]
    return min((limit for limit in limits if limit is not None), default=None)


def use_attention(base: PreTrainedModel, implementation: str) -> None:
    """Let every part of a model attend through an implementation of transformers' AttentionInterface."""
    # Not set_attn_implementation: it refuses and warns by looking into source code. Here the comparison decides.
    for module in base.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation = implementation


@torch.no_grad()
def check_packing(base: PreTrainedModel, implementation: str, cutoff: int, fused: Fused = "off") -> None:
    """Switch a model to packed rows and fused operations; raise InputError if scores would not be those of plain passes.

    A packed row of a long text, which forks, and of another beside it is compared with plain forward passes under the
    attention that transformers has chosen. The long text is longer than the longest window that the config names, if texts
    can be that long.

    Args:
        base: as transformers loads it.
        implementation: the name of an attention function of paft.model.attention.
        cutoff: tokens of the longest text.
        fused: which operations besides attention to replace, after the plain passes.
    """
    window = max(_windows(base.config.get_text_config(), cutoff), default=0)
    drawn = ordinary_ids(base, max(min(cutoff, window + _BEYOND), 3 * _SHORT) + 2 * _SHORT)
    text, branch, other = drawn[: -2 * _SHORT], drawn[-2 * _SHORT : -_SHORT], drawn[-_SHORT:]
    long, stem, fork = text[: -2 * _SHORT], text[-2 * _SHORT : -_SHORT], text[-_SHORT:]
    ragged = implementation == NAMES["varlen"]
    row = pack([Branches(long), Branches(stem, [branch, fork], parent=0), Branches(other)], ragged).to(base.device)
    beyond = min(_BEYOND, len(text) - window)
    compared = range(len(text) - max(beyond, 2 * _SHORT), len(text))
    places = [i if i < len(text) - _SHORT else i + _SHORT for i in compared]  # the fork stands behind its branch
    places += range(len(text) + _SHORT, len(text) + 2 * _SHORT)
    fuse(base, "off")
    try:
        plain = torch.cat([_plain_logits(base, text, len(compared)), _plain_logits(base, other, _SHORT)])
        use_attention(base, implementation)
        fuse(base, fused)
        error = relative_error(packed_logits(base, row, torch.tensor(places, device=base.device)), plain)
    except PackingError as lost:
        raise _refusal(base.name_or_path, type(base).__name__, str(lost)) from None
    except _OF_THE_CODE as problem:
        if is_out_of_memory(problem) or "CUDA error" in str(problem):
            raise  # this is the machine's trouble, not the architecture's
        raise InputError(
            f"model.path={base.name_or_path}: {type(base).__name__} does not take packed batches "
            f"({type(problem).__name__}: {' '.join(str(problem).split())[:120]}); {_OTHERS}"
        ) from None
    if not plain.isfinite().all():
        return  # damaged weights or an overflow: scoring says so
    rounding = _FP32 if base.dtype == torch.float32 and not getattr(base, "is_quantized", False) else _BF16
    parts = {
        f"after {window} tokens" if window else "alone": error[:-_SHORT][-beyond:],
        "after a fork": error[-2 * _SHORT : -_SHORT],
        "beside another": error[-_SHORT:],
    }
    for where, part in parts.items():
        if not part.median() <= rounding:
            raise InputError(
                f"model.path={base.name_or_path}: {type(base).__name__} scores a text otherwise in a packed batch than in a "
                f"plain forward pass ({where}: {part.median():.0%} off), so a mask, positions or a state are lost; {_OTHERS}"
            )


def _plain_logits(base: PreTrainedModel, ids: list[int], last: int) -> Tensor:
    """Return the logits (last, V) at the last tokens of a text by itself."""
    out = base(input_ids=torch.tensor([ids], device=base.device), use_cache=False, logits_to_keep=last)
    logits: Tensor = out.logits[0]
    return logits


def _windows(config: PreTrainedConfig, cutoff: int) -> Iterator[int]:
    """Yield the windows and chunks that a config names, as far as texts can be longer."""
    for key, value in config.to_dict().items():
        if ("window" in key or "chunk" in key) and "layers" not in key and isinstance(value, int) and 1 < value < cutoff:
            yield value


def ordinary_ids(base: PreTrainedModel, n: int) -> list[int]:
    """Draw n token ids, the same at each call, from the middle of a vocabulary; special tokens stand at its ends."""
    size = len(base.get_input_embeddings().get_parameter("weight"))
    return random.Random(0).choices(range(size // 4, size * 3 // 4), k=n)


def relative_error(got: Tensor, wanted: Tensor) -> Tensor:
    """Return how far logits (P, V) are off, at each of P tokens, relative to how far they vary over the vocabulary.

    Raises ValueError if the shapes are not the same.
    """
    if got.shape != wanted.shape:
        raise ValueError(f"{tuple(got.shape)} are not {tuple(wanted.shape)}")
    got, wanted = got.float(), wanted.float()
    size = (wanted - wanted.mean(-1, keepdim=True)).norm(dim=-1)
    return (got - wanted).norm(dim=-1) / size.clamp_min(1e-30)
