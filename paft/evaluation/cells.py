"""The cells of a score matrix as one stream: windows that fit in memory, and in them batches of a token budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from paft.data.encode import Encoded, Encoder
from paft.data.tasks.base import Example
from paft.prompts import PromptPool

WINDOW = 2048  # cells that are encoded at a time: what bounds memory, whatever the size of the matrix


@dataclass(frozen=True)
class Cell:
    """One rendering, encoded. prompt and example are places in the pool and among the examples."""

    prompt: int
    example: int
    group: str
    encoded: Encoded

    @cached_property
    def common(self) -> list[int]:
        """Tokens that all choices begin with; the last of each is its own."""
        choices = self.encoded.continuations
        return choices[0][: common_prefix(choices)] if choices else []

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of the context and of all choices, those that the choices have in common counted once."""
        each = sum(len(choice) - len(self.common) for choice in self.encoded.continuations)
        return len(self.encoded.context) + len(self.common) + each


def windows(pool: PromptPool, examples: Sequence[Example], size: int = WINDOW) -> list[tuple[range, range]]:
    """Cut the matrix into (prompts, examples): as many whole prompts as fit, or a part of one prompt's examples.

    Each window's cells stand together in the matrix sorted by prompt and example.

    Args:
        size: most cells of a window.
    """
    n_prompts, n_examples = len(pool.templates), len(examples)
    if n_examples > size:
        parts = [range(start, min(start + size, n_examples)) for start in range(0, n_examples, size)]
        return [(range(prompt, prompt + 1), part) for prompt in range(n_prompts) for part in parts]
    step = max(1, size // n_examples)
    return [(range(start, min(start + step, n_prompts)), range(n_examples)) for start in range(0, n_prompts, step)]


def encode(encoder: Encoder, pool: PromptPool, examples: Sequence[Example], window: tuple[range, range]) -> Iterator[Cell]:
    """Render and tokenise the cells of a window, prompt by prompt."""
    for prompt in window[0]:
        for example in window[1]:
            encoded = encoder.scoring(pool.templates[prompt], examples[example])
            yield Cell(prompt, example, examples[example].group, encoded)


def batches(cells: Sequence[Cell], budget: int) -> list[list[Cell]]:
    """Split the cells of a window into batches of at most `budget` tokens, what neighbours share counted once.

    Prompt by prompt, in it the groups together, in both the longest first: rows of like length share a batch.
    """
    longest: dict[tuple[int, str], int] = {}
    for cell in cells:
        group = cell.prompt, cell.group
        longest[group] = max(longest.get(group, 0), cell.n_tokens)
    ordered = sorted(cells, key=lambda c: (c.prompt, -longest[c.prompt, c.group], c.group, -c.n_tokens, c.example))
    found: list[list[Cell]] = [[]]
    tokens = 0
    for cell in ordered:
        if found[-1] and tokens + (new := _new_tokens(found[-1][-1], cell)) <= budget:
            tokens += new
        else:
            if found[-1]:
                found.append([])
            tokens = cell.n_tokens
        found[-1].append(cell)
    return found


def _new_tokens(before: Cell, cell: Cell) -> int:
    """Count the tokens of a cell that its neighbour of the same prompt does not begin with."""
    shared = common_prefix([before.encoded.context, cell.encoded.context]) if before.prompt == cell.prompt else 0
    return cell.n_tokens - shared


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Return how many tokens all sequences begin with; the last token of each is its own."""
    first, last = min(sequences), max(sequences)  # in lexicographic order: all others share what these two do
    most = min(map(len, sequences)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)
