"""An optimiser update as tensors: packed micro-batches, and the tokens that are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paft.packing import Branches, Packing, pack

_IGNORED = -100  # cross-entropy's ignore_index


@dataclass(frozen=True)
class MicroBatch:
    """Packed sequences, and the P target tokens that they are trained on."""

    packing: Packing
    positions: Tensor  # (P,) int64: indices into the packed row of the tokens whose logits predict the targets
    targets: Tensor  # (P,) int64: the token that should follow each of them

    def to(self, device: torch.device) -> "MicroBatch":
        """Return a copy on the device."""
        return MicroBatch(self.packing.to(device), self.positions.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Update:
    """One optimiser update: the micro-batches of this rank, and counts over the whole update."""

    micro_batches: list[MicroBatch]
    n_tokens: int
    n_targets: int  # the loss is the mean over these
    templates: list[int]  # index of the template of each example
    n_truncated: int  # prompts that lost their beginning to the cut-off

    def to(self, device: torch.device) -> "Update":
        """Return a copy on the device."""
        return replace(self, micro_batches=[m.to(device) for m in self.micro_batches])


def pack_answers(pairs: Sequence[tuple[list[int], list[int]]]) -> MicroBatch:
    """Pack (context, answer) pairs of token ids; the last token of an answer (end-of-text) is a target, never an input."""
    positions: list[int] = []
    start = 0
    for context, answer in pairs:
        first = start + len(context) - 1
        positions += range(first, first + len(answer))
        start += len(context) + len(answer) - 1
    return MicroBatch(
        packing=pack([Branches(context + answer[:-1]) for context, answer in pairs]),
        positions=torch.tensor(positions),
        targets=torch.tensor([token for _, answer in pairs for token in answer]),
    )


def without_targets(batch: MicroBatch) -> MicroBatch:
    """Return a micro-batch of the same tokens, of which nothing is trained on: its loss and gradients are zero."""
    return replace(batch, targets=torch.full_like(batch.targets, _IGNORED))


def split_into_micro_batches(lengths: list[int], most_tokens: int, rank: int = 0, n_ranks: int = 1) -> list[list[int]]:
    """Split sequences into micro-batches of at most `most_tokens` tokens.

    Args:
        lengths: tokens of each sequence; one longer than most_tokens is a micro-batch of its own.
        rank, n_ranks: the rank whose micro-batches to return; ranks take turns in order of length, so that their work is equal.

    Returns lists of indices into `lengths`, sorted by length, so that sequences of similar length are together.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)[rank::n_ranks]
    batches: list[list[int]] = [[]]
    tokens = 0
    for index in order:
        tokens += lengths[index]
        if batches[-1] and tokens > most_tokens:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches if order else []
