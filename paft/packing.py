"""Packing: token sequences of different lengths in one row, with almost no padding, as the data hands them to the model.

The row goes through an unchanged transformers model with its position ids; an attention function
(paft/model/attention.py) keeps the sequences separate. Only attention, a small share of the work, pads
them to rectangles. The idea is that of FlashAttention's variable-length kernels, which exist on GPUs
only; this form runs everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rectangle:
    """B neighbouring sequences of a packed row, n tokens in all, padded for attention to L tokens each.

    One row of a rectangle, L = 6: a context of two tokens (c) that forks into the branches a and b. The
    branches see the context and themselves, but not each other, and their positions start at the same number:

                  keys   c0  c1  a0  a1  b0   -       position
        query c0          x                              0
              c1          x   x                          1
              a0          x   x   x                      2
              a1          x   x   x   x                  3
              b0          x   x           x              2
               -         padding: no real query sees it, and its result is dropped

    A sequence that continues others has their tokens, padded to S, as further keys on the left; else S = 0.
    """

    token: Tensor  # (B * L,) int64: which of the n tokens stands at each place of the rectangle; 0 at padding
    place: Tensor  # (n,) int64: the place of each token in the rectangle, the inverse of token
    keys: Tensor | None  # (B * (S + L),) int64: which token of the packed row each key is; None (S = 0): the n tokens alone
    position: Tensor  # (B, L) int64: positions of the queries
    key_position: Tensor  # (B, S + L) int64: positions of the keys
    allowed: Tensor  # (1 or B, L, S + L) bool: which query sees which key
    causal: bool  # whether every query sees all keys up to its own place: no branches, and S = 0
    last: int  # the highest position

    def within(self, window: int | None) -> "Rectangle":
        """Return the rectangle as seen by a layer with a sliding window of `window` tokens (None: no window)."""
        if window is None or self.last < window:
            return self
        near = self.position[:, :, None] - self.key_position[:, None, :] < window
        return replace(self, allowed=self.allowed & near, causal=False)

    def to(self, device: torch.device) -> "Rectangle":
        """Return a copy on the device."""
        tensors: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class Packing:
    """A packed micro-batch: one row of N tokens, the last few of them filler that nothing reads."""

    input_ids: Tensor  # (1, N) int64
    position_ids: Tensor  # (1, N) int64
    rectangles: list[Rectangle]  # they cover the sequences in their order, and the filler

    def to(self, device: torch.device) -> "Packing":
        """Return a copy on the device."""
        rectangles = [rectangle.to(device) for rectangle in self.rectangles]
        return Packing(self.input_ids.to(device), self.position_ids.to(device), rectangles)


@dataclass(frozen=True)
class Branches:
    """A sequence that forks: a context, and continuations that see only the context and themselves.

    A sequence may continue the context of an earlier one, its parent, and sees that context and all that the parent continues.
    So a beginning that several sequences share is computed once.
    """

    context: Sequence[int]
    continuations: Sequence[Sequence[int]] = ()
    parent: int | None = None  # index of an earlier sequence of the same packing

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the context and of all continuations."""
        return len(self.context) + sum(map(len, self.continuations))


# The overhead of one more rectangle, in units of the work for one attention score; measured on a CPU.
_RECTANGLE_COST = 16_000
# Rows and rectangles are padded to multiples of these. A CPU's matrix library compiles a kernel for
# every new shape, 2 ms each: a tenth of a training step if no two rows have the same length.
_ROW_MULTIPLE, _SIDE_MULTIPLE = 64, 32


@dataclass(frozen=True)
class _Segment:
    """A sequence in the packed row: its own tokens, and those that it continues."""

    first: int  # index of its first token in the packed row
    positions: list[int]
    branches: list[int]  # 0: the context, n: its n-th continuation
    shared: list[int]  # indices of the tokens that it continues
    context: list[int]  # shared, and the indices of its own context


def pack(sequences: Sequence[Branches]) -> Packing:
    """Pack sequences into one row; the positions of each continuation start right after its context."""
    ids: list[int] = []
    segments: list[_Segment] = []
    for sequence in sequences:
        shared = [] if sequence.parent is None else segments[sequence.parent].context
        first = len(ids)
        n, start = len(sequence.context), len(shared)
        positions, branches = list(range(start, start + n)), [0] * n
        ids += sequence.context
        for number, continuation in enumerate(sequence.continuations, 1):
            ids += continuation
            positions += range(start + n, start + n + len(continuation))
            branches += [number] * len(continuation)
        segments.append(_Segment(first, positions, branches, shared, [*shared, *range(first, first + n)]))
    if filler := _round_up(len(ids), _ROW_MULTIPLE) - len(ids):
        segments.append(_Segment(len(ids), list(range(filler)), [0] * filler, [], []))
        ids += [0] * filler
    rectangles = [_rectangle(group) for group in _groups(segments)]
    positions = [position for segment in segments for position in segment.positions]
    return Packing(torch.tensor([ids]), torch.tensor([positions]), rectangles)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _groups(segments: list[_Segment]) -> list[list[_Segment]]:
    """Group neighbouring segments, each group padded to its longest, so that attention costs least (a dynamic program)."""
    lengths = [_round_up(len(segment.positions), _SIDE_MULTIPLE) for segment in segments]
    shared_lengths = [_round_up(len(segment.shared), _SIDE_MULTIPLE) for segment in segments]
    best, starts = [0], [0]  # cost of the first n segments, and where their last group starts
    for end in range(1, len(segments) + 1):
        longest = longest_shared = 0
        cheapest, cheapest_start = None, 0
        for start in range(end - 1, -1, -1):
            longest = max(longest, lengths[start])
            longest_shared = max(longest_shared, shared_lengths[start])
            cost = best[start] + (end - start) * longest * (longest + longest_shared) + _RECTANGLE_COST
            if cheapest is None or cost < cheapest:
                cheapest, cheapest_start = cost, start
        best.append(cheapest or 0)
        starts.append(cheapest_start)
    groups, end = [], len(segments)
    while end > 0:
        groups.append(segments[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def _rectangle(segments: list[_Segment]) -> Rectangle:
    """Build the rectangle of a group: B = rows, L = longest, S = longest_shared."""
    rows, longest = len(segments), _round_up(max(len(s.positions) for s in segments), _SIDE_MULTIPLE)
    longest_shared = _round_up(max(len(s.shared) for s in segments), _SIDE_MULTIPLE)
    length = torch.tensor([len(s.positions) for s in segments])
    offset = torch.arange(longest)
    real = offset < length[:, None]  # (B, L)
    start = F.pad(length.cumsum(0)[:-1], (1, 0))
    token = torch.where(real, start[:, None] + offset, 0)
    position = torch.tensor([p for s in segments for p in s.positions])[token]
    branch = torch.tensor([b for s in segments for b in s.branches])[token]
    allowed = (offset[:, None] >= offset)[None]  # (1, L, L): causal
    keys = None
    if forks := bool(branch.any()):
        allowed = allowed & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    if longest_shared:  # every token sees all that its sequence continues
        n_shared = torch.tensor([len(s.shared) for s in segments])
        visible = (torch.arange(longest_shared) < n_shared[:, None])[:, None, :].expand(rows, longest, longest_shared)
        allowed = torch.cat([visible, allowed.expand(rows, longest, longest)], dim=2)
        continued = torch.tensor([s.shared + [0] * (longest_shared - len(s.shared)) for s in segments])
        keys = torch.cat([continued, segments[0].first + token], dim=1).reshape(-1)
    return Rectangle(
        token=token.reshape(-1),
        place=torch.arange(rows * longest).view(rows, longest)[real],
        keys=keys,
        position=position,
        key_position=torch.cat([torch.arange(longest_shared).expand(rows, longest_shared), position], dim=1),
        allowed=allowed,
        causal=not forks and not longest_shared,
        last=int(position.max()),
    )
