"""Attention within packed rows, through transformers' AttentionInterface, and logits at chosen tokens."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from paft.packing import Packing, Ragged, Rectangle

Kernel = Literal["eager", "sdpa", "varlen"]
NAMES: dict[Kernel, str] = {"eager": "paft_eager", "sdpa": "paft_sdpa", "varlen": "paft_varlen"}


class _Pad(torch.autograd.Function):
    """Pad (n, ...) to (B * L, ...). No real query sees padding, so its gradient is zero and the backward pass is a gather."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, place: Tensor) -> Tensor:
        """Gather the token of each place."""
        ctx.save_for_backward(place)
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gather the gradient of each token; autograd would scatter, which is several times slower on a CPU."""
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None


class _Unpad(torch.autograd.Function):
    """Unpad (B * L, ...) to (n, ...): the inverse of _Pad."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Tensor) -> Tensor:
        """Gather each token from its place."""
        ctx.save_for_backward(place)
        ctx.places = len(x)
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Put the gradient of each token at its place, and zeros at padding."""
        (place,) = ctx.saved_tensors
        return grad.new_zeros(ctx.places, *grad.shape[1:]).index_copy_(0, place, grad), None


def _attention(
    kernel: Kernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    row_k: Tensor,
    row_v: Tensor,
    rectangle: Rectangle,
    scaling: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """Attend within the sequences of a rectangle: q (n, H, D), k and v (n, H_kv, D); returns (n, H, D).

    Args:
        row_k, row_v: (N, H_kv, D), keys and values of the whole packed row.
        window: tokens of a sliding window; None: no window.
    """
    rows, longest = rectangle.position.shape
    heads, kv_heads, width = q.shape[1], k.shape[1], q.shape[2]

    def padded(x: Tensor) -> Tensor:  # (n, h, D) -> (B, h, L, D)
        x = _Pad.apply(x, rectangle.token, rectangle.place)
        return x.view(rows, longest, -1, width).transpose(1, 2)

    q = padded(q)
    if rectangle.keys is None:
        k, v = padded(k), padded(v)
    else:
        k, v = (x.index_select(0, rectangle.keys).view(rows, -1, kv_heads, width).transpose(1, 2) for x in (row_k, row_v))
    n_keys = k.shape[2]
    rectangle = rectangle.within(window)
    allowed = rectangle.allowed[:, None]  # (1 or B, 1, L, S + L)
    if kernel == "sdpa":
        causal = rectangle.causal  # without a mask, torch may choose faster kernels
        mask = None if causal else allowed
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=heads != kv_heads
        )
    else:
        # The queries of a key-value head are stacked, so that keys and values are never repeated.
        scores = ((q * scaling).reshape(rows, kv_heads, -1, width) @ k.transpose(2, 3)).view(rows, heads, longest, n_keys)
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        # Softmax sums in fp32 whatever its input; converting before it would only make the backward pass slower.
        weights = F.dropout(F.softmax(scores, dim=-1), dropout)
        out = (weights.view(rows, kv_heads, -1, n_keys) @ v).view(rows, heads, longest, width)
    return _Unpad.apply(out.transpose(1, 2).reshape(rows * longest, heads, width), rectangle.place)


def _varlen(q: Tensor, k: Tensor, v: Tensor, ragged: Ragged, scaling: float, dropout: float, window: int | None) -> Tensor:
    """Attend within the runs of a ragged row: q (N, H, D), k and v (N, H_kv, D); returns (N, H, D).

    On CUDA by FlashAttention's variable-length kernel, in bf16; elsewhere one run after another, which is slow, and is how
    this is tested without a GPU.
    """
    if ragged.keys is not None:
        k, v = k.index_select(0, ragged.keys), v.index_select(0, ragged.keys)
    if window is not None and window >= ragged.longest_keys:
        window = None
    if q.device.type == "cuda":
        out: Tensor = torch.ops.aten._flash_attention_forward(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            ragged.starts,
            ragged.key_starts,
            ragged.longest,
            ragged.longest_keys,
            dropout,
            True,  # causal: the last query sees the last key
            False,
            scale=scaling,
            window_size_left=None if window is None else window - 1,
            window_size_right=None if window is None else 0,
        )[0]
        return out
    bounds = zip(ragged.starts.tolist(), ragged.key_starts.tolist(), strict=True)
    return torch.cat(
        [
            _one_run(q[start:end], k[first:last], v[first:last], scaling, dropout, window)
            for (start, first), (end, last) in pairwise(bounds)
            if end > start
        ]
    )


def _one_run(q: Tensor, k: Tensor, v: Tensor, scaling: float, dropout: float, window: int | None) -> Tensor:
    """Attend from q (n, H, D), the last n of the m tokens of k and v (m, H_kv, D); returns (n, H, D)."""
    distance = torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))
    allowed = (distance >= 0) & (distance < (window or len(k)))
    gqa = q.shape[1] != k.shape[1]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout, scale=scaling, enable_gqa=gqa)
    return out[0].transpose(0, 1)


class PackingError(Exception):
    """Says what a model's attention computes and the functions here do not."""


# Arguments that some models pass to their attention function, that change its result, and that are not supported here.
_CHANGES_THE_RESULT = {
    "softcap": "soft-caps its attention scores",
    "s_aux": "has attention sinks",
    "position_bias": "adds a position bias to its attention scores",
}


def _attention_function(kernel: Kernel) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return an attention function with the signature that transformers calls."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        packing: Packing | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if packing is None:  # generation
            sdpa = AttentionInterface()["sdpa"]
            return sdpa(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
        for name, what_it_does in _CHANGES_THE_RESULT.items():
            if kwargs.get(name) is not None:
                raise PackingError(what_it_does)
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        window = kwargs.get("sliding_window")
        row_q, row_k, row_v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # (N, heads, D)
        if isinstance(packing.layout, Ragged):
            return _varlen(row_q, row_k, row_v, packing.layout, scaling, dropout, window)[None], None
        assert kernel != "varlen"  # packs_ragged says which layout a model takes
        sizes = [len(rectangle.place) for rectangle in packing.layout]
        split = zip(*(row.split(sizes) for row in (row_q, row_k, row_v)), packing.layout, strict=True)
        parts = [_attention(kernel, q, k, v, row_k, row_v, rectangle, scaling, dropout, window) for q, k, v, rectangle in split]
        return torch.cat(parts)[None], None

    return attention


def packed_logits(model: nn.Module, packing: Packing, positions: Tensor) -> Tensor:
    """Return the next-token logits (P, V) at the given tokens of a packed row; the LM head is applied to no others.

    Args:
        positions: (P,) int64, indices into the N tokens of the row.
    """
    # Given a 4-D mask, transformers does not build its own (N, N); the attention function above reads the packing.
    no_mask = torch.empty(1, 1, 1, 1, device=positions.device)
    out = model(
        input_ids=packing.input_ids,
        position_ids=packing.position_ids,
        attention_mask=no_mask,
        packing=packing,
        logits_to_keep=positions,
        use_cache=False,
    )
    logits: Tensor = out.logits[0]
    return logits


def packs_ragged(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether a model attends by kernels of variable length, whose packed rows are ragged."""
    return bool(model.config._attn_implementation == NAMES["varlen"])


def register() -> None:
    """Make `attn_implementation="paft_eager"`, `"paft_sdpa"` and `"paft_varlen"` known to transformers."""
    for kernel, name in NAMES.items():
        AttentionInterface.register(name, _attention_function(kernel))
        AttentionMaskInterface.register(name, AttentionMaskInterface()["sdpa"])
