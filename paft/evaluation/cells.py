"""The cells of a score matrix as a stream: windows of a fixed number of cells, each cut into batches of a token budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from paft.data.encode import Encoded, Encoder
from paft.data.tasks.base import Example
from paft.prompts import PromptPool

WINDOW = 2048  # cells that are encoded at a time; bounds memory, whatever the size of the matrix


@dataclass(frozen=True)
class Cell:
    """One rendering, encoded.

    prompt is an index into the pool's templates, example one into the examples. group is the example's: cells of a group
    share a text (RACE: the article).
    """

    prompt: int
    example: int
    group: str
    encoded: Encoded

    @cached_property
    def common(self) -> list[int]:
        """The tokens that all choices begin with; the last token of a choice never counts."""
        choices = self.encoded.continuations
        return choices[0][: common_prefix(choices)] if choices else []

    @cached_property
    def n_tokens(self) -> int:
        """The number of tokens in the context and in all choices; those common to all choices count once."""
        n_not_common = sum(len(choice) - len(self.common) for choice in self.encoded.continuations)
        return len(self.encoded.context) + len(self.common) + n_not_common


def windows(pool: PromptPool, examples: Sequence[Example], size: int = WINDOW) -> list[tuple[range, range]]:
    """Cut the matrix into windows (prompts, examples), two ranges of indices each.

    A window holds as many whole prompts as fit, or a part of one prompt's examples. Its cells are contiguous in the matrix
    sorted by prompt and example.

    Args:
        size: the most cells that a window holds.
    """
    n_prompts, n_examples = len(pool.templates), len(examples)
    if n_examples > size:
        parts = [range(start, min(start + size, n_examples)) for start in range(0, n_examples, size)]
        return [(range(prompt, prompt + 1), part) for prompt in range(n_prompts) for part in parts]
    step = max(1, size // n_examples)
    return [(range(start, min(start + step, n_prompts)), range(n_examples)) for start in range(0, n_prompts, step)]


def encode(encoder: Encoder, pool: PromptPool, examples: Sequence[Example], window: tuple[range, range]) -> Iterator[Cell]:
    """Yield the cells of a window, rendered and tokenised, prompt by prompt."""
    for prompt in window[0]:
        for example in window[1]:
            encoded = encoder.scoring(pool.templates[prompt], examples[example])
            yield Cell(prompt, example, examples[example].group, encoded)


def batches(cells: Sequence[Cell], budget: int) -> list[list[Cell]]:
    """Split the cells of a window into batches of at most `budget` tokens; what neighbours share is counted once.

    A cell that exceeds the budget has a batch of its own. Cells are ordered by prompt, within a prompt by group, and both
    groups and cells from the longest to the shortest, so that cells of similar length share a batch.
    """
    longest: dict[tuple[int, str], int] = {}
    for cell in cells:
        group = cell.prompt, cell.group
        longest[group] = max(longest.get(group, 0), cell.n_tokens)
    ordered = sorted(cells, key=lambda c: (c.prompt, -longest[c.prompt, c.group], c.group, -c.n_tokens, c.example))
    cut: list[list[Cell]] = [[]]
    tokens = 0
    for cell in ordered:
        if cut[-1] and tokens + (new := _new_tokens(cut[-1][-1], cell)) <= budget:
            tokens += new
        else:
            if cut[-1]:
                cut.append([])
            tokens = cell.n_tokens
        cut[-1].append(cell)
    return cut


def _new_tokens(previous: Cell, cell: Cell) -> int:
    """Return the number of a cell's tokens that it does not share with the previous cell of the same prompt."""
    shared = common_prefix([previous.encoded.context, cell.encoded.context]) if previous.prompt == cell.prompt else 0
    return cell.n_tokens - shared


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Return the number of tokens that all sequences begin with; the last token of a sequence never counts."""
    first, last = min(sequences), max(sequences)  # in lexicographic order: what these two share, all share
    limit = min(map(len, sequences)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)
