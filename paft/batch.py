"""What the data hands to the model: ragged token sequences packed into one row, so that next to nothing is padded.

The row goes through an unchanged transformers model with its position ids; an attention function
(paft/model/attention.py) keeps the sequences apart. Only there, a small share of the work, are they
padded to a rectangle. The idea is that of FlashAttention's variable-length kernels, which exist on GPUs
alone; this form runs everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rectangle:
    """B neighbouring sequences of a packed row, padded for attention to L tokens each.

    token (B * L,) int64 says which of the sequences' tokens stands at each place (the first one at
    padding); place (n,) int64 is the way back. position (B, L) int64 is the position of each place.
    allowed (1 or B, L, L) bool says which query (second to last axis) sees which key; causal says
    that this is every key up to its own place.
    """

    token: Tensor
    place: Tensor
    position: Tensor
    allowed: Tensor
    causal: bool

    def within(self, window: int | None) -> "Rectangle":
        """Return the rectangle as a layer with a sliding window of so many tokens sees it (None: no window)."""
        if window is None or self.position.shape[1] <= window:
            return self
        near = self.position[:, :, None] - self.position[:, None, :] < window
        return replace(self, allowed=self.allowed & near, causal=False)

    def to(self, device: torch.device) -> "Rectangle":
        """Return a copy on the device."""
        token, place, position, allowed = (x.to(device) for x in (self.token, self.place, self.position, self.allowed))
        return Rectangle(token, place, position, allowed, self.causal)


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
    """A sequence that forks: a context, and continuations that see the context and themselves only."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]] = ()


# What one more rectangle costs, in attention scores' worth of work; measured on a CPU.
_RECTANGLE_COST = 16_000
# Rows and rectangles are filled up to multiples of these. A CPU's matrix library compiles a kernel for
# every new shape, 2 ms each: a tenth of a training step if no two rows are of one length.
_ROW_MULTIPLE, _SIDE_MULTIPLE = 64, 32


def pack(sequences: Sequence[Branches]) -> Packing:
    """Pack sequences into one row; each continuation is positioned right behind its context."""
    ids: list[int] = []
    positions: list[int] = []
    branches: list[int] = []  # 0: the context, n: its n-th continuation
    lengths: list[int] = []
    for sequence in sequences:
        n = len(sequence.context)
        ids += sequence.context
        positions += range(n)
        branches += [0] * n
        for number, continuation in enumerate(sequence.continuations, 1):
            ids += continuation
            positions += range(n, n + len(continuation))
            branches += [number] * len(continuation)
        lengths.append(n + sum(map(len, sequence.continuations)))
    if filler := _up(len(ids), _ROW_MULTIPLE) - len(ids):
        ids += [0] * filler
        positions += range(filler)
        branches += [0] * filler
        lengths.append(filler)
    rectangles, start = [], 0
    for group in _groups(lengths):
        end = start + sum(group)
        rectangles.append(_rectangle(group, positions[start:end], branches[start:end]))
        start = end
    return Packing(torch.tensor([ids]), torch.tensor([positions]), rectangles)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _groups(lengths: list[int]) -> list[list[int]]:
    """Split neighbouring lengths into groups so that padding each to its longest costs attention least."""
    best: list[tuple[int, list[list[int]]]] = [(0, [])]  # cost and groups of the first n lengths
    for end in range(1, len(lengths) + 1):
        options = []
        for start in range(end):
            group = lengths[start:end]
            cost = best[start][0] + len(group) * _up(max(group), _SIDE_MULTIPLE) ** 2 + _RECTANGLE_COST
            options.append((cost, [*best[start][1], group]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def _rectangle(lengths: list[int], positions: list[int], branches: list[int]) -> Rectangle:
    rows, longest = len(lengths), _up(max(lengths), _SIDE_MULTIPLE)
    length = torch.tensor(lengths)
    offset = torch.arange(longest)
    real = offset < length[:, None]  # (B, L)
    start = F.pad(length.cumsum(0)[:-1], (1, 0))
    token = torch.where(real, start[:, None] + offset, 0)
    allowed = (offset[:, None] >= offset)[None]
    if any(branches):
        branch = torch.tensor(branches)[token]
        allowed = allowed & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    return Rectangle(
        token=token.reshape(-1),
        place=torch.arange(rows * longest).view(rows, longest)[real],
        position=torch.tensor(positions)[token],
        allowed=allowed,
        causal=not any(branches),
    )


@dataclass(frozen=True)
class MicroBatch:
    """Packed sequences with the tokens that are trained on.

    positions (P,) int64 are the tokens from whose logits a target is predicted, targets (P,) int64
    what should follow them.
    """

    packing: Packing
    positions: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """Return a copy on the device."""
        return MicroBatch(self.packing.to(device), self.positions.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Update:
    """The examples of one optimiser update."""

    micro_batches: list[MicroBatch]
    n_tokens: int
    n_targets: int  # the loss is the mean over these
    templates: list[int]  # index of the template of each example
    n_truncated: int  # prompts that lost their beginning to the cut-off

    def to(self, device: torch.device) -> "Update":
        """Return a copy on the device."""
        return replace(self, micro_batches=[m.to(device) for m in self.micro_batches])
