"""Packing: token sequences of different lengths in one row, with almost no padding, as the data hands them to the model.

The row goes through an unchanged transformers model with its position ids; an attention function
(paft/model/attention.py) keeps the sequences separate. There are two layouts. Rectangles run everywhere:
attention alone, a small share of the work, pads the sequences. A ragged layout pads nothing; it is what
FlashAttention's variable-length kernels take, and its shapes are few, so that CUDA graphs can be replayed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """Return a copy of a dataclass, or of a list of them, with the function applied to every tensor in it."""
    changed: Any = value
    if isinstance(value, Tensor):
        changed = function(value)
    elif isinstance(value, list):
        changed = [map_tensors(each, function) for each in value]
    elif is_dataclass(value) and not isinstance(value, type):
        changed = replace(value, **{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
    return changed  # type: ignore[no-any-return]


def to_device(value: T, device: torch.device) -> T:
    """Return a copy of a dataclass of tensors on a device; copying to a GPU goes on while this process goes on."""
    pin = device.type == "cuda"  # only from pinned memory does a copy not wait

    def move(tensor: Tensor) -> Tensor:
        return (tensor.pin_memory() if pin and not tensor.is_cuda else tensor).to(device, non_blocking=pin)

    return map_tensors(value, move)


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


@dataclass(frozen=True)
class Ragged:
    """S runs of neighbouring tokens of a packed row, and what each attends to, for kernels of variable length.

    A run's keys are the tokens that it continues, and then its own. Its queries are its own tokens; each sees the keys up to
    itself. A context is a run, and each of its branches is one. Runs at the end hold filler or nothing.
    """

    starts: Tensor  # (S + 1,) int32: where the queries of each run start in the row; the last is N
    key_starts: Tensor  # (S + 1,) int32: where the keys of each run start in `keys`
    keys: Tensor | None  # (M,) int64: which token of the packed row each key is; None: the N tokens, as they stand
    longest: int  # no run has more queries
    longest_keys: int  # no run has more keys


@dataclass(frozen=True)
class Packing:
    """A packed micro-batch: one row of N tokens, the last few of them filler that nothing reads."""

    input_ids: Tensor  # (1, N) int64
    position_ids: Tensor  # (1, N) int64
    layout: list[Rectangle] | Ragged  # rectangles cover the sequences in their order, and the filler

    def to(self, device: torch.device) -> "Packing":
        """Return a copy on the device."""
        return to_device(self, device)


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


def pack(sequences: Sequence[Branches], ragged: bool = False) -> Packing:
    """Pack sequences into one row; the positions of each continuation start right after its context.

    Args:
        ragged: lay the row out for kernels of variable length instead of in rectangles.
    """
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
    if ragged:
        return _ragged(ids, segments)
    if filler := _round_up(len(ids), _ROW_MULTIPLE) - len(ids):
        segments.append(_Segment(len(ids), list(range(filler)), [0] * filler, [], []))
        ids += [0] * filler
    positions = [position for segment in segments for position in segment.positions]
    return Packing(torch.tensor([ids]), torch.tensor([positions]), [_rectangle(group) for group in _groups(segments)])


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def size_of_bucket(length: int, least: int) -> int:
    """Return the size to which a length is padded, so that few sizes occur: a power of two, at least `least`."""
    return max(least, 1 << (length - 1).bit_length()) if length else least


def size_in_pieces(length: int, pieces: int) -> int:
    """Return the multiple of a piece of the next power of two, and of 128 at least, to which a number of tokens is padded."""
    return _round_up(length, max(128, size_of_bucket(length, 1) // pieces))


def _ragged(ids: list[int], segments: list[_Segment]) -> Packing:
    """Lay the segments out as runs, padded up to a bucket of tokens, runs, keys and longest runs."""
    runs: list[tuple[int, Sequence[int]]] = []  # own tokens, and the keys before these
    positions: list[int] = []
    for segment in segments:
        positions += segment.positions
        for branch, length in _lengths_by_branch(segment.branches):
            runs.append((length, segment.context if branch else segment.shared))
    longest = size_of_bucket(max(own for own, _ in runs), 64)
    n_tokens = size_in_pieces(len(ids), 16)
    for start in range(len(ids), n_tokens, longest):
        filler = min(longest, n_tokens - start)
        runs.append((filler, ()))
        positions += range(filler)
    runs += [(0, ())] * (size_of_bucket(len(runs), 8) - len(runs))
    starts = torch.tensor([0, *(own for own, _ in runs)]).cumsum(0)
    continued = any(before for _, before in runs)
    keys, key_starts, longest_keys = None, starts, longest
    if continued:
        key_starts = torch.tensor([0, *(len(before) + own for own, before in runs)]).cumsum(0)
        longest_keys = size_of_bucket(max(len(before) + own for own, before in runs), longest)
        each = [k for (own, before), at in zip(runs, starts.tolist(), strict=False) for k in (*before, *range(at, at + own))]
        keys = torch.tensor(each + [0] * (size_of_bucket(len(each), 1024) - len(each)))
    return Packing(
        input_ids=torch.tensor([ids + [0] * (n_tokens - len(ids))]),
        position_ids=torch.tensor([positions]),
        layout=Ragged(starts.int(), key_starts.int(), keys, longest, longest_keys),
    )


def _lengths_by_branch(branches: list[int]) -> list[tuple[int, int]]:
    """Return the branches of a segment, 0 being its context, each with its number of tokens."""
    return [(branch, len(list(tokens))) for branch, tokens in groupby(branches)]


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
