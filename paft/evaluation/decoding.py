"""Continuing texts token by token: with a cache that grows, or with one of static shape, which CUDA graphs can replay."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from paft.evaluation.likelihood import NO_NUMBERS
from paft.model.base import Model, window_of
from paft.model.graphs import Replayed
from paft.packing import size_in_pieces, size_of_bucket
from paft.runtime.errors import InputError

_NO_NUMBER = -1  # in place of a token


class Continuing(Protocol):
    """Writes one more token for some of the texts that it continued last."""

    def __call__(self, kept: Sequence[int]) -> list[int]:
        """Return the next token of each kept text; the other texts are forgotten.

        Args:
            kept: indices into the texts of the call before (of the batch, the first time), ascending.

        Raises InputError if the model's scores are NaN.
        """


class Growing:
    """Continues prompts with transformers' dynamic cache: forgotten texts leave the batch at once.

    Args:
        ids: (B, L) int64, the prompts, padded on the left.
        mask: (B, L) int64, 0 at padding.

    Attributes:
        tokens: (B,) int64, the last token of each text; at first its first, which the prompt is followed by.
        mask: (B, tokens so far) int64.
        cache: holds all tokens but the last.

    Raises InputError if the model's scores are NaN.
    """

    def __init__(self, model: Model, ids: Tensor, mask: Tensor) -> None:
        self._model, self.mask, self.cache = model, mask, DynamicCache()
        self.tokens = next_tokens(model, ids, mask, self.cache)

    def __call__(self, kept: Sequence[int]) -> list[int]:
        """Continue the kept texts, as Continuing says."""
        if len(kept) < len(self.tokens):
            indices = torch.tensor(kept, device=self.tokens.device)
            self.cache.batch_select_indices(indices)
            self.tokens, self.mask = self.tokens[indices], self.mask[indices]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(kept), 1)], dim=1)
        self.tokens = next_tokens(self._model, self.tokens[:, None], self.mask, self.cache)
        found: list[int] = self.tokens.tolist()
        return found


def next_tokens(model: Model, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Return the likeliest next token (B,) int64 of each row.

    Args:
        ids: (B, n) int64, the tokens that the cache does not hold yet.
        mask: (B, tokens so far) int64, 0 at padding.

    Raises InputError if the model's scores are NaN.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    # An index and not the number 1, which would slice: for a strided view a CPU copies the LM head once per row.
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last
    )
    highest, best = out.logits[:, -1].max(-1)
    if highest.isnan().any():
        raise InputError(NO_NUMBERS)
    return best


@dataclass(frozen=True)
class Step:
    """What one step of static shape reads: B texts, each with M slots in the cache, of which the first are padding."""

    tokens: Tensor  # (B,) int64, the last token of each text
    padding: Tensor  # (B,) int64, slots on the left of each prompt that hold no token
    slot: Tensor  # () int64, where the cache takes these tokens
    slots: int  # M


Replay: TypeAlias = Callable[[Callable[[Step], Tensor]], Callable[[Step], Tensor]]


class _Layer(StaticLayer):
    """A layer of transformers' static cache that writes where it is told to, instead of counting.

    So a step may be run again: it writes the same into the same slot. Layers with a sliding window hold all tokens too; which
    of them a query sees, the model's masks say.

    Args:
        keys, values: (B, heads, M, D).
        slot: () int64, where the next token goes; shared by all layers, and changed in place.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values, self.cumulative_length = keys, values, slot
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values (B, heads, 1, D) of one token for each text, and return those of all slots."""
        at = self.cumulative_length.view(1)
        self.keys.index_copy_(2, at, key_states)
        self.values.index_copy_(2, at, value_states)
        return self.keys, self.values


class StaticDecoder:
    """Continues texts with a static cache: every step has one of few shapes, waits for nothing and may be run again.

    The batch and the slots of the cache are rounded up to few sizes. Texts that are no longer continued stay in the batch, and
    are ignored, until half of it would hold the others. The caches of all shapes share one piece of memory.

    Args:
        replay: given the step, returns what does the same (from a CUDA graph).
    """

    def __init__(self, model: Model, replay: Replay) -> None:
        self.model, self.step = model, replay(self._step)
        self._slot = torch.zeros((), dtype=torch.int64, device=model.device)
        self.forget()

    def forget(self) -> None:
        """Give the caches' memory back, and what was recorded with it."""
        self._memory: list[Tensor] = []  # keys and values of each layer in turn, flat
        self._caches: dict[tuple[int, int], Cache] = {}  # by B and M
        if isinstance(self.step, Replayed):
            self.step.forget()

    def take_over(self, texts: Growing, n_new: int) -> Continuing:
        """Return what continues the texts of a batch of which the first tokens are written.

        Args:
            n_new: the most tokens that a text will have.

        Raises NotImplementedError if the model's cache holds other things than keys and values.
        """
        held: list[Tensor] = []
        for layer in texts.cache.layers:
            if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
                raise NotImplementedError("its cache holds other things than keys and values")
            held += [layer.keys, layer.values]
        return _Static(self, held, texts.tokens, texts.mask, size_in_pieces(texts.mask.shape[1] + n_new, 4))

    def fill(self, held: Sequence[Tensor], texts: Sequence[int], slots: int) -> tuple[Tensor, list[Tensor]]:
        """Copy the keys and values of some texts of a batch into the cache whose batch they fill at least to a half.

        Args:
            held: keys and values of each layer in turn, (texts, heads, at most `slots`, D) each.
            texts: indices into them.
            slots: of the cache.

        Returns (B,) int64, which of the texts stands at each place of the cache's batch (places left over repeat one); and the
        cache's keys and values, as `held`.
        """
        n_batch = size_of_bucket(len(texts), 1)
        rows = torch.tensor([*texts, *[texts[0]] * (n_batch - len(texts))], device=self.model.device)
        shapes = [(n_batch, x.shape[1], slots, x.shape[3]) for x in held]
        if len(self._memory) != len(held) or any(m.numel() < prod(s) for m, s in zip(self._memory, shapes, strict=True)):
            self.forget()
            self._memory = [x.new_zeros(prod(shape)) for x, shape in zip(held, shapes, strict=True)]
        views = [memory[: prod(shape)].view(shape) for memory, shape in zip(self._memory, shapes, strict=True)]
        for source, view in zip(held, views, strict=True):
            picked = source.index_select(0, rows)  # a copy: the source may lie in the same memory
            view.zero_()  # what no query sees must be a number all the same
            view[:, :, : picked.shape[2]] = picked
        if (n_batch, slots) not in self._caches:
            layers: list[Any] = [_Layer(k, v, self._slot) for k, v in zip(views[::2], views[1::2], strict=True)]
            self._caches[n_batch, slots] = Cache(layers=layers)
        return rows, views

    def _step(self, step: Step) -> Tensor:
        """Return the likeliest next token (B,) int64 of each text, or -1 where the model's scores are NaN."""
        self._slot.copy_(step.slot)
        # Positions and tokens of texts that are no longer continued may lie beyond the model's tables.
        positions = (step.slot - step.padding).clamp(max=window_of(self.model.config, step.slots) - 1)
        out = self.model(
            input_ids=step.tokens.clamp(min=0)[:, None],
            attention_mask=torch.arange(step.slots, device=step.padding.device) >= step.padding[:, None],
            position_ids=positions[:, None],
            past_key_values=self._caches[len(step.tokens), step.slots],
            use_cache=True,
        )
        highest, best = out.logits[:, -1].max(-1)
        return best.masked_fill(highest.isnan(), _NO_NUMBER)


class _Static:
    """The texts of one batch, continued by a StaticDecoder."""

    def __init__(self, decoder: StaticDecoder, held: Sequence[Tensor], tokens: Tensor, mask: Tensor, slots: int) -> None:
        self._decoder, self._slots, self._next_slot = decoder, slots, mask.shape[1]
        self._held, self._tokens, self._padding = held, tokens, mask.shape[1] - mask.sum(1)
        self._select(range(len(tokens)))

    def _select(self, texts: Sequence[int]) -> None:
        rows, self._held = self._decoder.fill(self._held, texts, self._slots)
        self._tokens, self._padding = self._tokens[rows], self._padding[rows]
        self._places = list(range(len(texts)))  # of the texts in the batch

    def __call__(self, kept: Sequence[int]) -> list[int]:
        """Continue the kept texts, as Continuing says."""
        self._places = [self._places[i] for i in kept]
        if size_of_bucket(len(kept), 1) < len(self._tokens):
            self._select(self._places)
        slot = torch.full((), self._next_slot, device=self._tokens.device)
        self._tokens = self._decoder.step(Step(self._tokens, self._padding, slot, self._slots))
        self._next_slot += 1
        tokens = self._tokens.tolist()
        found = [tokens[place] for place in self._places]
        if _NO_NUMBER in found:
            raise InputError(NO_NUMBERS)
        return found
