"""Scoring by likelihood: the log-probability of each choice after each rendering, in one forward pass for many."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.cells import Cell, common_prefix
from paft.evaluation.store import Row
from paft.model.attention import packed_logits
from paft.packing import Branches, pack
from paft.runtime.errors import InputError

Model: TypeAlias = PeftModel | PreTrainedModel
Normalise = Literal["sum", "token", "byte"]

# An answer would still be chosen, and be wrong in silence.
NO_NUMBERS = (
    "The model's scores are not numbers (NaN): its training diverged (lower optim.lr), its weights are damaged, or its "
    "precision overflows (model.dtype=fp32)."
)
_LEAST_SHARED = 4  # tokens that are worth a sequence of their own
_ROWS = 16  # of logits that are normalised at a time


@dataclass
class Work:
    """What an evaluation has computed: tokens went through the model, filler among them, instead of unshared ones."""

    tokens: int = 0
    filler: int = 0
    unshared: int = 0


class Likelihood:
    """Answers with the choice of the highest log-probability; of equals the first, and the cell is marked as tied.

    normalise: sum takes the log-probability of the whole choice, token divides it by the choice's tokens, byte by its
    UTF-8 bytes (which does not depend on the tokenizer).
    """

    def __init__(self, model: Model, encoder: Encoder, normalise: Normalise = "sum") -> None:
        self.model, self.encoder, self.normalise = model, encoder, normalise
        self.work = Work()

    def __call__(self, cells: Sequence[Cell], examples: Sequence[Example]) -> list[Row]:
        """Return what each cell was answered with; examples are those of the cells.

        Raises InputError if the model computes no numbers.
        """
        found = choice_log_probs(self.model, cells, self.work)
        if any(log_probs.isnan().any() for log_probs in found):
            raise InputError(NO_NUMBERS)
        return [self._row(*each) for each in zip(cells, examples, found, strict=True)]

    def _row(self, cell: Cell, example: Example, log_probs: Tensor) -> Row:
        scores = log_probs / self._length(cell, example)
        predicted = int(scores.argmax())
        return {
            "log_probs": log_probs.tolist(),
            "predicted": predicted,
            "correct": predicted == example.gold,
            "tied": int((scores == scores[predicted]).sum()) > 1,
            "output": None,
            "output_tokens": 0,
        }

    def _length(self, cell: Cell, example: Example) -> Tensor:
        if self.normalise == "token":
            return torch.tensor([len(continuation) for continuation in cell.encoded.continuations])
        if self.normalise == "byte":
            return torch.tensor([len(answer.encode()) for answer in self.encoder.answers(example)])
        return torch.ones(())


def choice_log_probs(model: Model, cells: Sequence[Cell], work: Work | None = None) -> list[Tensor]:
    """Return, per cell, the summed log-probability (C,) fp32 of each of its choices.

    What the contexts of a prompt, or of a group under a prompt, begin with is computed once; so are the context of all
    choices and what these begin with: they branch off behind it in one packed row, and where every choice is one token
    (letters) all are read from the context's last position.
    """
    sequences, own = share(cells)
    starts = [0]
    for sequence in sequences:
        starts.append(starts[-1] + sequence.n_tokens)
    positions: list[int] = []  # tokens of the packed row whose logits are needed
    rows: list[int] = []  # which of those predict the choices' tokens, one choice after the other
    for cell, index in zip(cells, own, strict=True):
        start = starts[index] + len(sequences[index].context)
        shared = range(len(positions), len(positions) + len(cell.common) + 1)
        positions += range(start - len(shared), start)
        for continuation in cell.encoded.continuations:
            n_own = len(continuation) - len(shared)
            rows += [*shared, *range(len(positions), len(positions) + n_own)]
            positions += range(start, start + n_own)
            start += n_own
    packing = pack(sequences)
    if work is not None:
        work.tokens += packing.input_ids.shape[1]
        work.filler += packing.input_ids.shape[1] - starts[-1]
        work.unshared += sum(
            len(cell.encoded.context) + sum(len(choice) - 1 for choice in cell.encoded.continuations) for cell in cells
        )
    logits = packed_logits(model, packing.to(model.device), torch.tensor(positions, device=model.device))
    choices = [[len(continuation) for continuation in cell.encoded.continuations] for cell in cells]
    tokens = [token for cell in cells for continuation in cell.encoded.continuations for token in continuation]
    # A few rows at a time: their fp32 copies stay in the cache and in memory that is there already.
    normaliser = torch.cat([some.float().logsumexp(-1) for some in logits.split(_ROWS)])
    log_probs = (logits[rows, tokens].float() - normaliser[rows]).cpu()
    each = iter(log_probs.split([length for lengths in choices for length in lengths]))
    return [torch.stack([next(each).sum() for _ in lengths]) for lengths in choices]


@dataclass(frozen=True)
class _Node:
    """A sequence of the row before its place is known."""

    tokens: Sequence[int]
    continuations: Sequence[Sequence[int]]
    parent: "_Node | None"
    depth: int
    n_before: int  # tokens that it continues

    @property
    def end(self) -> int:
        """Tokens up to where the node ends, what it continues included."""
        return self.n_before + len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens of its own."""
        return len(self.tokens) + sum(map(len, self.continuations))

    def child(self, context: Sequence[int], continuations: Sequence[Sequence[int]] = ()) -> "_Node":
        """Return the node of a context that begins with this one's."""
        parent = self if self.end else None  # the root has no tokens
        return _Node(context[self.end :], continuations, parent, self.depth + 1, self.end)


def share(cells: Sequence[Cell]) -> tuple[list[Branches], list[int]]:
    """Lay the cells out as sequences that share what they begin with; returns them and each cell's place among them.

    Neighbouring cells of a prompt share its opening words, those of a group under it what they begin with beyond that
    (RACE: the article). Token ids are compared, not texts, so a tokenizer that merges across a boundary shares less
    but is never wrong.
    """
    shared: list[_Node] = []
    own: list[_Node] = []
    root = _Node((), (), None, 0, 0)

    def begin(node: _Node, together: Sequence[Cell]) -> _Node:
        """Return what these cells all begin with beyond the node, if it is worth a node of its own."""
        end = common_prefix([cell.encoded.context for cell in together])
        if len(together) < 2 or end - node.end < _LEAST_SHARED:
            return node
        shared.append(node.child(together[0].encoded.context[:end]))
        return shared[-1]

    def asking(node: _Node, cell: Cell) -> _Node:
        """Return the node of a cell: its context, what its choices begin with, the rest of each but its last token."""
        rest = [choice[len(cell.common) : -1] for choice in cell.encoded.continuations]
        return node.child([*cell.encoded.context, *cell.common], rest)

    for _, of_prompt in groupby(cells, key=lambda cell: cell.prompt):
        opening = begin(root, together := list(of_prompt))
        for _, of_group in groupby(together, key=lambda cell: cell.group):
            article = begin(opening, members := list(of_group))
            own += [asking(article, cell) for cell in members]

    # Parents first; then by length, so that neighbours make good rectangles.
    ordered = sorted([*shared, *own], key=lambda n: (bool(n.continuations), n.depth, n.length, n.n_before))
    places = {id(node): place for place, node in enumerate(ordered)}
    sequences = [Branches(n.tokens, n.continuations, None if n.parent is None else places[id(n.parent)]) for n in ordered]
    return sequences, [places[id(node)] for node in own]
