"""The sampler: which template a draw gives. When templates are drawn is the schedule's to say (schedule.py).

A draw gives a template, not an index: a mutated template is in no pool. Every draw of the samplers here is a pure function of
the seed and its place in the run, so that loader workers, ranks and a resumed run agree by construction; no state is stored.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from paft.prompts import families
from paft.prompts.mutate import Mutator
from paft.prompts.pool import PromptPool
from paft.prompts.schedule import Draw
from paft.prompts.template import PromptTemplate

STREAM = 0x50414654  # "PAFT": separates the prompt draws from every other use of the same seed


class Sampler:
    """Draws a template of the pool uniformly, with replacement (Algorithm 1), and perhaps changes its layout.

    Args:
        pool: the training pool.
        seed: of the run.
        mutator: changes the layouts of drawn templates; None: they are shown as they are.
        share: of the draws whose layout is changed, from 0 to 1.
    """

    def __init__(self, pool: PromptPool, seed: int, mutator: Mutator | None = None, share: float = 1.0) -> None:
        self.pool, self.seed, self.mutator, self.share = pool, seed, mutator, share
        self._last: tuple[Draw, PromptTemplate] | None = None  # the examples of an update share their draw

    def index(self, draw: Draw) -> int:
        """Return the index in the pool of a draw's template, as it was before any mutation."""
        return uniform(draw, len(self.pool.templates), self.seed)

    def weight(self, draw: Draw) -> float:
        """Return how much the examples of a draw count in the loss."""
        return 1.0

    def template(self, draw: Draw, index: int) -> PromptTemplate:
        """Return the template that a draw shows.

        Args:
            index: of the draw's template in the pool, as `index` returned it; loader workers get it from the main process.
        """
        if self._last is None or self._last[0] != draw:
            self._last = (draw, self._shown(draw, index))
        return self._last[1]

    def _shown(self, draw: Draw, index: int) -> PromptTemplate:
        template = self.pool.templates[index]
        if self.mutator is None:
            return template
        rng = random.Random(f"layout {self.seed} {draw.epoch} {draw.number} {draw.slot}")
        return self.mutator.mutated(template, rng) if rng.random() < self.share else template


class BalancedSampler(Sampler):
    """Deals all templates of the pool before any comes again, such that wordings and layouts take turns.

    Args:
        draws_per_epoch: of a run; an epoch goes on where the one before it ended.
        per_draw: templates that a draw has at once, one for each slot.
        choice_fields: the fields that are options, to read layouts off templates that do not name theirs.
    """

    def __init__(
        self,
        pool: PromptPool,
        seed: int,
        mutator: Mutator | None,
        share: float,
        draws_per_epoch: int,
        per_draw: int,
        choice_fields: Sequence[str],
    ) -> None:
        super().__init__(pool, seed, mutator, share)
        self.draws_per_epoch, self.per_draw = draws_per_epoch, per_draw
        self.choice_fields = choice_fields
        self._decks: dict[int, list[int]] = {}

    def index(self, draw: Draw) -> int:
        """Return the index in the pool of a draw's template, as it was before any mutation."""
        dealt = (draw.epoch * self.draws_per_epoch + draw.number) * self.per_draw + draw.slot
        deck, place = divmod(dealt, len(self.pool.templates))
        if deck not in self._decks:
            self._decks[deck] = self._shuffled(deck)  # all are kept, because frozen draws come in the order of the rows
        return self._decks[deck][place]

    @cached_property
    def _families(self) -> tuple[list[str], list[str]]:
        return families_of(self.pool, self.choice_fields)

    def _shuffled(self, deck: int) -> list[int]:
        """Return all indices in the order in which a deck deals them."""
        bits = np.random.Philox(key=[self.seed, STREAM], counter=[0, deck, 0, 1 << 32])  # slots of draws are far below
        order = np.random.Generator(bits).permutation(len(self.pool.templates)).tolist()
        return list(_taking_turns(order, *self._families))


def uniform(draw: Draw, n: int, seed: int) -> int:
    """Return one of the numbers 0 to n - 1, each with the same probability, as a function of a draw and the seed."""
    # Philox is a counter-based generator: one cheap evaluation per draw and no state to store.
    bits = np.random.Philox(key=[seed, STREAM], counter=[0, draw.number, draw.epoch, draw.slot])
    return int(np.random.Generator(bits).integers(n))


def families_of(pool: PromptPool, choice_fields: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the wording family and the layout family of each template.

    Where the pool does not name them, wordings are clustered and layouts are read off the texts.
    """
    templates = pool.templates
    wordings = [t.wording for t in templates] if names_families(pool) else families.wordings(templates)
    return wordings, [t.layout or families.layout(t, frozenset(choice_fields)) for t in templates]


def names_families(pool: PromptPool) -> bool:
    """Return whether a pool says which wording family each of its templates belongs to."""
    return all(template.wording for template in pool.templates)


def _taking_turns(order: Sequence[int], wordings: Sequence[str], layouts: Sequence[str]) -> Iterator[int]:
    """Yield the indices such that wordings take turns, and layouts as far as possible; where several fit, in their order.

    Each turn takes the wording of whose templates the smallest share was dealt, and of these the one whose layout was dealt
    least.
    """
    left: dict[str, list[int]] = {}
    for index in order:
        left.setdefault(wordings[index], []).append(index)
    sizes = {name: len(indices) for name, indices in left.items()}
    of_layout = {name: layouts.count(name) for name in set(layouts)}
    dealt = dict.fromkeys(of_layout, 0)
    for _ in order:
        wording = min(left, key=lambda name: 1 - len(left[name]) / sizes[name] if left[name] else 2.0)
        index = min(left[wording], key=lambda i: dealt[layouts[i]] / of_layout[layouts[i]])
        left[wording].remove(index)
        dealt[layouts[index]] += 1
        yield index
