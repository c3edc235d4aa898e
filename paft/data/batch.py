"""An optimiser update as tensors: packed micro-batches, and the tokens that are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from paft.packing import Branches, Packing, pack, size_of_bucket, to_device

T = TypeVar("T")

IGNORED = -100  # in place of a target: nothing is trained on


@dataclass(frozen=True)
class MicroBatch:
    """Packed sequences, and the P target tokens that they are trained on.

    A ragged row's P is padded to a power of two, by targets that are ignored.
    """

    packing: Packing
    positions: Tensor  # (P,) int64: indices into the packed row of the tokens whose logits predict the targets
    targets: Tensor  # (P,) int64: the token that should follow each of them
    # (B, G, P) fp32: the share that a target has in the mean loss of each of G templates, in each of B blocks of templates that
    # are weighed against each other; zero elsewhere. None: all targets count alike.
    shares: Tensor | None = None
    # (N, G) int64: of an answer token of an example, the target that it is under each of its G templates; only of examples
    # for which all of them offer the same answers, and whose answer has the same tokens under all. A ragged row's N is padded
    # by rows of -1. None: none are compared.
    aligned: Tensor | None = None
    # (E, P) fp32: 1 where a target belongs to one of the update's E renderings, and (P,) fp32: how much each target counts.
    # None: the losses of renderings are not told apart, and all targets count alike.
    renderings: Tensor | None = None
    weights: Tensor | None = None
    template: Tensor | None = None  # (1, N) bool: which tokens of the packed row are a template's own. None: not asked for


class Shown(NamedTuple):
    """Which renderings of an update are in a micro-batch, of how many at most, and how much each of them counts."""

    places: Sequence[int]
    most: int
    weights: Sequence[float]


@dataclass(frozen=True)
class Update:
    """One optimiser update: the micro-batches of this rank, and counts over the whole update."""

    micro_batches: list[MicroBatch]
    n_tokens: int
    targets: list[int]  # answer tokens of each rendering, over all of which the loss is the mean; an unlabelled one has none
    templates: list[int]  # index of the template of each rendering
    n_truncated: int  # prompts that lost their beginning to the cut-off
    draw: tuple[int, int] = (0, 0)  # epoch and number of the first example's draw
    others: list["Update"] = field(default_factory=list)  # the same examples under the draw's other candidates, if it has any

    @property
    def n_targets(self) -> int:
        """Number of answer tokens."""
        return sum(self.targets)

    @property
    def n_compared(self) -> int:
        """Number of tokens by which the loss of the comparison is divided: of answers, and one of each unlabelled rendering.

        Answers that are not the same tokens under all templates are compared with nothing and count, so that the loss of an
        update does not grow where few can be compared.
        """
        return sum(max(1, n) for n in self.targets)

    def to(self, device: torch.device) -> "Update":
        """Return a copy on the device; copying to a GPU goes on while this process prepares the next update."""
        return to_device(self, device)


def pack_answers(
    pairs: Sequence[tuple[list[int], list[int]]],
    ragged: bool = False,
    places: Sequence[tuple[int, int]] | None = None,
    offered: Sequence[Sequence[str]] | None = None,
    shown: Shown | None = None,
    own: Sequence[Sequence[bool]] | None = None,
) -> MicroBatch:
    """Pack (context, answer) pairs of token ids; the last token of an answer (end-of-text) is a target, never an input.

    Args:
        ragged: as in paft.packing.pack.
        places: the block and the template of each pair, both counted from 0; None: all targets count alike.
        offered: the answers that each pair's prompt offers, in the order of the choices. Right answers of a block, which are
            those of one example, are compared token by token where the offers are the same: under other letters a prediction
            speaks of other options. None: none are compared.
        shown: which renderings of the update the pairs are; None: their losses are not told apart.
        own: of each context, which tokens are the template's own; None: they are not needed.
    """
    positions: list[int] = []
    start = 0
    for context, answer in pairs:
        first = start + len(context) - 1
        positions += range(first, first + len(answer))
        start += len(context) + len(answer) - 1
    filler = size_of_bucket(len(positions), 16) - len(positions) if ragged else 0
    lengths = [len(answer) for _, answer in pairs]
    packing = pack([Branches(context + answer[:-1]) for context, answer in pairs], ragged)
    return MicroBatch(
        packing=packing,
        positions=torch.tensor(positions + [0] * filler),
        targets=torch.tensor([token for _, answer in pairs for token in answer] + [IGNORED] * filler),
        shares=None if places is None else _shares(lengths, places, len(positions) + filler, ragged),
        aligned=None if offered is None or places is None else _aligned([a for _, a in pairs], offered, places, ragged),
        renderings=None if shown is None else _members(lengths, shown, len(positions) + filler),
        weights=None if shown is None else torch.tensor(_spread(shown.weights, lengths) + [0.0] * filler),
        template=None if own is None else _marked(own, lengths, packing.input_ids.shape[1]),
    )


def _marked(own: Sequence[Sequence[bool]], lengths: Sequence[int], n_tokens: int) -> Tensor:
    """Return which tokens of a packed row are a template's own, (1, N)."""
    marks = [mark for context, length in zip(own, lengths, strict=True) for mark in [*context, *[False] * (length - 1)]]
    return torch.tensor([marks + [False] * (n_tokens - len(marks))])


def _members(lengths: Sequence[int], shown: Shown, n_targets: int) -> Tensor:
    """Return which rendering of the update each target belongs to, (E, P)."""
    places = torch.tensor(_spread(shown.places, lengths))
    member = torch.zeros(shown.most, n_targets)
    member[places, torch.arange(len(places))] = 1
    return member


def _spread(values: Sequence[T], lengths: Sequence[int]) -> list[T]:
    """Return the value of each rendering once for each of its targets."""
    return [value for value, length in zip(values, lengths, strict=True) for _ in range(length)]


def _shares(lengths: Sequence[int], places: Sequence[tuple[int, int]], n_targets: int, ragged: bool) -> Tensor:
    """Return the share of each target in the mean loss of its template, (B, G, P); a ragged row's B and G are powers of two."""
    blocks, templates = (max(numbers) + 1 for numbers in zip(*places, strict=True))
    if ragged:
        blocks, templates = size_of_bucket(blocks, 1), size_of_bucket(templates, 1)
    member = torch.zeros(blocks, templates, n_targets)
    start = 0
    for length, (block, template) in zip(lengths, places, strict=True):
        member[block, template, start : start + length] = 1
        start += length
    return member / member.sum(-1, keepdim=True).clamp_min(1)


def _aligned(
    answers: Sequence[list[int]], offered: Sequence[Sequence[str]], places: Sequence[tuple[int, int]], ragged: bool
) -> Tensor:
    """Return which targets are the same answer token, among the same answers that are offered, under each template, (N, G)."""
    by_block: dict[int, list[tuple[int, list[int], Sequence[str]]]] = {}
    start = 0
    for answer, offers, (block, _) in zip(answers, offered, places, strict=True):
        by_block.setdefault(block, []).append((start, answer, offers))
        start += len(answer)
    rows = [
        [first + token for first, _, _ in members]
        for members in by_block.values()
        if all(answer == members[0][1] and offers == members[0][2] for _, answer, offers in members)
        for token in range(len(members[0][1]))
    ]
    width = max(map(len, by_block.values()))
    filler = size_of_bucket(len(rows), 16) - len(rows) if ragged else 0
    return torch.tensor(rows + [[-1] * width] * filler, dtype=torch.int64).view(-1, width)


def without_targets(batch: MicroBatch) -> MicroBatch:
    """Return a micro-batch of the same tokens, of which nothing is trained on: its loss and gradients are zero."""
    shares = None if batch.shares is None else torch.zeros_like(batch.shares)
    aligned = None if batch.aligned is None else torch.full_like(batch.aligned, -1)
    renderings = None if batch.renderings is None else torch.zeros_like(batch.renderings)
    targets = torch.full_like(batch.targets, IGNORED)
    return replace(batch, targets=targets, shares=shares, aligned=aligned, renderings=renderings)


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
