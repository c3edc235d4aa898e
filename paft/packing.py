"""What the data hands to the model: ragged token sequences packed into one row, so that next to nothing is padded.

The row goes through an unchanged transformers model with its position ids; an attention function
(paft/model/attention.py) keeps the sequences apart. Only there, a small share of the work, are they
padded to a rectangle. The idea is that of FlashAttention's variable-length kernels, which exist on GPUs
alone; this form runs everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rectangle:
    """B neighbouring sequences of a packed row, padded for attention to L tokens each.

    token (B * L,) int64 says which of the sequences' tokens stands at each place (the first one at
    padding); place (n,) int64 is the way back. Keys are the sequences' own tokens, or, where sequences
    continue others, keys (B * (S + L),) int64 names them in the packed row: what a sequence continues,
    padded to S, then its own. position (B, L) and key_position (B, S + L) int64 are the positions of the
    queries and of the keys. allowed (1 or B, L, S + L) bool says which query (second to last axis) sees which key; causal says
    that this is every key up to its own place, last is the highest position.
    """

    token: Tensor
    place: Tensor
    keys: Tensor | None
    position: Tensor
    key_position: Tensor
    allowed: Tensor
    causal: bool
    last: int

    def within(self, window: int | None) -> "Rectangle":
        """Return the rectangle as a layer with a sliding window of so many tokens sees it (None: no window)."""
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
    """A packed micro-batch of N tokens in all, the last few of them filler that nothing reads.

    input_ids (1, N) and position_ids (1, N), int64. rectangles cover its sequences in their order.
    """

    input_ids: Tensor
    position_ids: Tensor
    rectangles: list[Rectangle]

    def to(self, device: torch.device) -> "Packing":
        """Return a copy on the device."""
        rectangles = [rectangle.to(device) for rectangle in self.rectangles]
        return Packing(self.input_ids.to(device), self.position_ids.to(device), rectangles)


@dataclass(frozen=True)
class Branches:
    """A sequence that forks: a context, and continuations that see the context and themselves only.

    parent is the index of an earlier sequence of the same packing; the context goes on where that one's ends, and
    sees it and what it continues in turn. So what several sequences begin with is computed once.
    """

    context: Sequence[int]
    continuations: Sequence[Sequence[int]] = ()
    parent: int | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens of the context and of all continuations."""
        return len(self.context) + sum(map(len, self.continuations))


# What one more rectangle costs, in attention scores' worth of work; measured on a CPU.
_RECTANGLE_COST = 16_000
# Rows and rectangles are filled up to multiples of these. A CPU's matrix library compiles a kernel for
# every new shape, 2 ms each: a tenth of a training step if no two rows are of one length.
_ROW_MULTIPLE, _SIDE_MULTIPLE = 64, 32


@dataclass(frozen=True)
class _Segment:
    """Where the tokens of a sequence stand in the packed row, and those that it continues."""

    first: int  # place in the packed row
    positions: list[int]
    branches: list[int]  # 0: the context, n: its n-th continuation
    shared: list[int]  # places in the packed row
    context: list[int]  # the same, with those of its own context


def pack(sequences: Sequence[Branches]) -> Packing:
    """Pack sequences into one row; each continuation is positioned right behind its context."""
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
    if filler := _up(len(ids), _ROW_MULTIPLE) - len(ids):
        segments.append(_Segment(len(ids), list(range(filler)), [0] * filler, [], []))
        ids += [0] * filler
    rectangles = [_rectangle(group) for group in _groups(segments)]
    positions = [position for segment in segments for position in segment.positions]
    return Packing(torch.tensor([ids]), torch.tensor([positions]), rectangles)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _groups(segments: list[_Segment]) -> list[list[_Segment]]:
    """Split neighbouring segments into groups so that padding each to its longest costs attention least."""
    own = [_up(len(segment.positions), _SIDE_MULTIPLE) for segment in segments]
    shared = [_up(len(segment.shared), _SIDE_MULTIPLE) for segment in segments]
    best, starts = [0], [0]  # cost of the first n segments, and where their last group starts
    for end in range(1, len(segments) + 1):
        length = before = 0
        cheapest, at = None, 0
        for start in range(end - 1, -1, -1):
            length, before = max(length, own[start]), max(before, shared[start])
            cost = best[start] + (end - start) * length * (length + before) + _RECTANGLE_COST
            if cheapest is None or cost < cheapest:
                cheapest, at = cost, start
        best.append(cheapest or 0)
        starts.append(at)
    groups, end = [], len(segments)
    while end > 0:
        groups.append(segments[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def _rectangle(segments: list[_Segment]) -> Rectangle:
    rows, longest = len(segments), _up(max(len(s.positions) for s in segments), _SIDE_MULTIPLE)
    before = _up(max(len(s.shared) for s in segments), _SIDE_MULTIPLE)
    length = torch.tensor([len(s.positions) for s in segments])
    offset = torch.arange(longest)
    real = offset < length[:, None]  # (B, L)
    start = F.pad(length.cumsum(0)[:-1], (1, 0))
    token = torch.where(real, start[:, None] + offset, 0)
    position = torch.tensor([p for s in segments for p in s.positions])[token]
    branch = torch.tensor([b for s in segments for b in s.branches])[token]
    allowed = (offset[:, None] >= offset)[None]
    keys = None
    if forks := bool(branch.any()):
        allowed = allowed & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    if before:  # every token sees all that its sequence continues
        n_shared = torch.tensor([len(s.shared) for s in segments])
        visible = (torch.arange(before) < n_shared[:, None])[:, None, :].expand(rows, longest, before)
        allowed = torch.cat([visible, allowed.expand(rows, longest, longest)], dim=2)
        continued = torch.tensor([s.shared + [0] * (before - len(s.shared)) for s in segments])
        keys = torch.cat([continued, segments[0].first + token], dim=1).reshape(-1)
    return Rectangle(
        token=token.reshape(-1),
        place=torch.arange(rows * longest).view(rows, longest)[real],
        keys=keys,
        position=position,
        key_position=torch.cat([torch.arange(before).expand(rows, before), position], dim=1),
        allowed=allowed,
        causal=not forks and not before,
        last=int(position.max()),
    )
