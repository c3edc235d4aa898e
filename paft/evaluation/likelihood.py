"""Scoring by likelihood: the log-probability of each choice after each rendering, many renderings to a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.cells import Cell, common_prefix
from paft.evaluation.metrics import Metric, chosen
from paft.evaluation.store import StoredCell
from paft.model.attention import packed_logits, packs_ragged
from paft.model.base import Model
from paft.model.graphs import TOLERANCE, Replayed
from paft.packing import Branches, Packing, pack, size_of_bucket, to_device
from paft.runtime.errors import InputError

Normalise = Literal["sum", "token", "byte"]

# Without this error a choice would still be made, and be wrong without a sign of it.
NO_NUMBERS = (
    "The model's scores are not numbers (NaN): its training diverged (lower optim.lr), its weights are damaged, or its "
    "precision overflows (model.dtype=fp32)."
)
_LEAST_SHARED = 4  # the fewest shared tokens for which a sequence of their own pays
_ROWS = {"cpu": 16, "cuda": 256}  # of logits, normalised at a time


@dataclass
class TokenCount:
    """The tokens that an evaluation has sent through the model, including filler, and what it would send without sharing."""

    tokens: int = 0
    filler: int = 0
    unshared: int = 0

    def add(self, more: "TokenCount") -> None:
        """Count more tokens."""
        self.tokens += more.tokens
        self.filler += more.filler
        self.unshared += more.unshared


@dataclass(frozen=True)
class PackedRow:
    """A packed row, and the tokens whose log-probabilities are read off it; with a ragged row P and R are padded."""

    packing: Packing
    positions: Tensor  # (P,) int64: places in the packed row whose logits are needed
    rows: Tensor  # (R,) int64: indices into `positions`: what predicts each token, choice after choice
    tokens: Tensor  # (R,) int64: the tokens of all choices, one after the other


@dataclass(frozen=True)
class Prepared:
    """A batch of cells made ready for the model, on the CPU."""

    asked: PackedRow
    lengths: list[list[int]]  # tokens of each choice, by cell
    work: TokenCount


class Likelihood:
    """Answers cells with the choice of the highest log-probability.

    Of several with the same score the first is taken, and the cell is marked as tied.

    Args:
        normalise: sum takes the log-probability of the whole choice. token divides it by the choice's number of tokens, byte
            by its number of UTF-8 bytes, which does not depend on the tokenizer.
        graphs: replay CUDA graphs where the model's packed rows are ragged.
    """

    metric = Metric("choice")

    def __init__(self, model: Model, encoder: Encoder, normalise: Normalise = "sum", graphs: bool = False) -> None:
        self.model, self.encoder, self.normalise = model, encoder, normalise
        self.work = TokenCount()
        self.ragged = packs_ragged(model)
        self._graphs: Replayed[PackedRow] | None = None
        if graphs and self.ragged and model.device.type == "cuda":
            # From the second meeting on, because an evaluation has shapes that it meets once.
            self._graphs = Replayed(partial(token_log_probs, model), tolerance=TOLERANCE[model.dtype], enough=2)

    def prepare(self, cells: Sequence[Cell]) -> Prepared:
        """Return the cells made ready for the model, on the CPU; any thread may call this."""
        return prepare(cells, self.ragged)

    def __call__(self, cells: Sequence[Cell], examples: Sequence[Example], prepared: Prepared) -> list[StoredCell]:
        """Return a row of answer columns per cell.

        Args:
            examples: those of the cells, in their order.
            prepared: what `prepare` made of the cells.

        Raises InputError if the model's scores are NaN.
        """
        by_cell = choice_log_probs(self.model, prepared, self.work, self._graphs)
        if any(log_probs.isnan().any() for log_probs in by_cell):
            raise InputError(NO_NUMBERS)
        return [
            chosen(log_probs.numpy(), self._lengths(cell, example), example)
            for cell, example, log_probs in zip(cells, examples, by_cell, strict=True)
        ]

    def _lengths(self, cell: Cell, example: Example) -> NDArray[np.float32]:
        lengths = [1]
        if self.normalise == "token":
            lengths = [len(continuation) for continuation in cell.encoded.continuations]
        if self.normalise == "byte":
            lengths = [len(answer.encode()) for answer in self.encoder.answers(example)]
        return np.array(lengths, np.float32)


def prepare(cells: Sequence[Cell], ragged: bool = False) -> Prepared:
    """Pack all cells into one row, in which shared beginnings stand once (see `share`).

    The choices of a cell branch off after its context. Where every choice is a single token (letters), all are read from the
    logits of the context's last position.

    Args:
        ragged: as in paft.packing.pack; what the model's attention takes.
    """
    sequences, question_indices = share(cells)
    starts = [0]
    for sequence in sequences:
        starts.append(starts[-1] + sequence.n_tokens)
    positions: list[int] = []
    rows: list[int] = []
    for cell, index in zip(cells, question_indices, strict=True):
        branch_start = starts[index] + len(sequences[index].context)
        common_rows = range(len(positions), len(positions) + len(cell.common) + 1)
        positions += range(branch_start - len(common_rows), branch_start)
        for continuation in cell.encoded.continuations:
            n_branch = len(continuation) - len(common_rows)
            rows += [*common_rows, *range(len(positions), len(positions) + n_branch)]
            positions += range(branch_start, branch_start + n_branch)
            branch_start += n_branch
    tokens = [token for cell in cells for continuation in cell.encoded.continuations for token in continuation]
    if ragged:
        positions += [0] * (size_of_bucket(len(positions), 64) - len(positions))
        filler = [0] * (size_of_bucket(len(rows), 64) - len(rows))
        rows, tokens = rows + filler, tokens + filler
    packing = pack(sequences, ragged)
    n_row = packing.input_ids.shape[1]
    unshared = sum(len(cell.encoded.context) + sum(len(choice) - 1 for choice in cell.encoded.continuations) for cell in cells)
    return Prepared(
        PackedRow(packing, torch.tensor(positions), torch.tensor(rows), torch.tensor(tokens)),
        [[len(continuation) for continuation in cell.encoded.continuations] for cell in cells],
        TokenCount(n_row, n_row - starts[-1], unshared),
    )


def choice_log_probs(
    model: Model, batch: Prepared, work: TokenCount | None = None, graphs: Replayed[PackedRow] | None = None
) -> list[Tensor]:
    """Return, per cell, the log-probability (C,) fp32 of each of its choices, summed over the choice's tokens.

    Args:
        work: counts the tokens.
        graphs: replays token_log_probs; None: it is called.
    """
    if work is not None:
        work.add(batch.work)
    asked = to_device(batch.asked, model.device)
    log_probs = (token_log_probs(model, asked) if graphs is None else graphs(asked)).cpu()
    lengths = [length for of_cell in batch.lengths for length in of_cell]
    by_choice = iter(log_probs[: sum(lengths)].split(lengths))
    return [torch.stack([next(by_choice).sum() for _ in of_cell]) for of_cell in batch.lengths]


def token_log_probs(model: Model, asked: PackedRow) -> Tensor:
    """Return the log-probability (R,) fp32 of each token that is asked for."""
    logits = packed_logits(model, asked.packing, asked.positions)
    # A few rows at a time: their fp32 copies stay in a CPU's cache, and reuse memory instead of asking for more.
    normaliser = torch.cat([some.float().logsumexp(-1) for some in logits.split(_ROWS[logits.device.type])])
    return logits[asked.rows, asked.tokens].float() - normaliser[asked.rows]


@dataclass(frozen=True)
class _Node:
    """A node of the tree that `share` builds: the tokens of one sequence of the packed row."""

    tokens: Sequence[int]
    continuations: Sequence[Sequence[int]]  # what branches off after the tokens
    parent: "_Node | None"  # whose tokens this node continues
    depth: int
    n_before: int  # tokens of all ancestors

    @property
    def end(self) -> int:
        """The number of context tokens up to the end of this node, its ancestors' included."""
        return self.n_before + len(self.tokens)

    @property
    def length(self) -> int:
        """The number of tokens that this node adds to the row: its own and its continuations'."""
        return len(self.tokens) + sum(map(len, self.continuations))

    def child(self, context: Sequence[int], continuations: Sequence[Sequence[int]] = ()) -> "_Node":
        """Return a child that holds the rest of a context, which begins with the tokens up to this node's end."""
        parent = self if self.end else None  # the root has no tokens, so that nothing continues it
        return _Node(context[self.end :], continuations, parent, self.depth + 1, self.end)


def share(cells: Sequence[Cell]) -> tuple[list[Branches], list[int]]:
    """Return the sequences of a packed row in which shared beginnings stand once, and the index of each cell's sequence.

    The sequences form a tree. Two prompts on two articles, with two questions each, are:

        opening of prompt 1 -+- article 1 -+- question 1 -+- choice A
                             |             |              +- choice B
                             |             +- question 2 -- ...
                             +- article 2 -+- question 3 -- ...
                                           +- question 4 -- ...
        opening of prompt 2 -+- article 1 -- ...
                             +- article 2 -- ...

    An opening is what all contexts of a prompt begin with. An article is what those of a group begin with beyond that. A
    question is the rest of a cell's context and what its choices begin with; the rest of each choice, without its last token
    (which predicts nothing), branches off there. A level is left out where fewer than two cells or fewer than four tokens
    would share it.

    Token ids are compared, not texts: where a tokenizer merges across a boundary, less is shared, and nothing is wrong.

    Args:
        cells: those of a prompt are neighbours, and within it those of a group.
    """
    shared_nodes: list[_Node] = []  # openings and articles
    questions: list[_Node] = []  # one per cell
    root = _Node((), (), None, 0, 0)

    def shared_below(node: _Node, members: Sequence[Cell]) -> _Node:
        """Return a child of the node for what all these contexts begin with, or the node itself if that is too little."""
        end = common_prefix([cell.encoded.context for cell in members])
        if len(members) < 2 or end - node.end < _LEAST_SHARED:
            return node
        shared_nodes.append(node.child(members[0].encoded.context[:end]))
        return shared_nodes[-1]

    def question_below(node: _Node, cell: Cell) -> _Node:
        branches = [choice[len(cell.common) : -1] for choice in cell.encoded.continuations]
        return node.child([*cell.encoded.context, *cell.common], branches)

    for _, prompt_cells in groupby(cells, key=lambda cell: cell.prompt):
        opening = shared_below(root, of_prompt := list(prompt_cells))
        for _, group_cells in groupby(of_prompt, key=lambda cell: cell.group):
            article = shared_below(opening, of_group := list(group_cells))
            questions += [question_below(article, cell) for cell in of_group]

    # Shared nodes before questions and parents before children; then by length, so that neighbours fill a rectangle well.
    ordered = sorted([*shared_nodes, *questions], key=lambda n: (bool(n.continuations), n.depth, n.length, n.n_before))
    index = {id(node): i for i, node in enumerate(ordered)}  # by identity: two prompts may have equal nodes
    sequences = [Branches(n.tokens, n.continuations, None if n.parent is None else index[id(n.parent)]) for n in ordered]
    return sequences, [index[id(node)] for node in questions]
