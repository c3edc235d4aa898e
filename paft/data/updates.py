"""The updates of a run: the examples that each optimiser update sees, and the template of each example."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from paft.config.schema import TrainConfig
from paft.data.inputs import answer_kind
from paft.data.tasks.base import Task
from paft.prompts import PromptPool, Schedule
from paft.prompts.by_loss import ByLossSampler, ByLossSettings
from paft.prompts.mutate import Mutator
from paft.prompts.sampling import BalancedSampler, Sampler, families_of
from paft.prompts.schedule import Draw

_STREAM = 0x44415441  # "DATA": the data order has its own seed stream
_UNLABELLED_STREAM = 0x554E4C41  # "UNLA": that of the unlabelled rows, too
_TRIED_STREAM = 0x574F5253  # "WORS": which draws take the worst candidate, too


def updates_of(config: TrainConfig, n_examples: int, pool: PromptPool, task: Task, n_unlabelled: int = 0) -> "Updates":
    """Return the updates of a run on n_examples examples of a task, under templates that are drawn from a pool.

    Args:
        n_unlabelled: further examples, whose answers are not read.
    """
    drawn = config.method.name == "paft"
    schedule = Schedule(config.K, config.schedule.unit) if drawn else Schedule(1)  # by which a fixed prompt's shots are drawn
    per_update, paired = (config.sampler.templates_per_update, config.sampler.paired) if drawn else (1, False)
    per_epoch = -(-n_examples // rows_per_update(config.examples_per_update, per_update, paired))
    sampler = sampler_of(config, pool, task, schedule.draws_per_epoch(per_epoch, n_examples), per_epoch)
    unlabelled = Unlabelled(n_unlabelled, config.loss.unlabelled_per_update) if n_unlabelled else None
    candidates = None
    if drawn and config.sampler.candidates > 1:
        first = math.ceil(config.sampler.warmup * per_epoch * config.T)
        candidates = Candidates(config.sampler.candidates, config.sampler.adversarial, first)
    return Updates(
        n_examples, config.examples_per_update, config.T, schedule, sampler, per_update, paired, unlabelled, candidates
    )


def rows_per_update(renderings: int, templates: int, paired: bool) -> int:
    """Return the number of different examples of an update, of which each has all templates if they are paired."""
    return renderings // templates if paired else renderings


def foreseen(config: TrainConfig) -> TrainConfig:
    """Return the config with draws that can be foreseen: uniform ones where they depend on losses.

    The first two blocks of `sampler.lag` updates are the same.
    """
    sampler = config.sampler.model_copy(update={"temperature": 0.0, "temperature_end": None})
    return config.model_copy(update={"sampler": sampler})


def sampler_of(config: TrainConfig, pool: PromptPool, task: Task, draws_per_epoch: int, updates_per_epoch: int) -> Sampler:
    """Return the sampler of a run: uniform, balanced or by loss, with or without layout mutations."""
    chosen, mutator = config.sampler, mutator_of(config, task)
    if config.method.name != "paft" or not (chosen.balanced or chosen.by_loss):
        return Sampler(pool, config.seed, mutator, chosen.share)
    if chosen.by_loss:
        end = chosen.temperature if chosen.temperature_end is None else chosen.temperature_end
        settings = ByLossSettings((chosen.temperature, end), chosen.uniform_share, chosen.corrected, chosen.lag)
        families, total = families_of(pool, task.choice_fields), updates_per_epoch * config.T
        return ByLossSampler(
            pool,
            config.seed,
            mutator,
            chosen.share,
            settings=settings,
            families=families,
            updates_per_epoch=updates_per_epoch,
            total_updates=total,
            k=config.K,
        )
    per_draw = max(chosen.templates_per_update, chosen.candidates if chosen.candidates_are == "templates" else 1)
    return BalancedSampler(pool, config.seed, mutator, chosen.share, draws_per_epoch, per_draw, task.choice_fields)


def mutator_of(config: TrainConfig, task: Task) -> Mutator | None:
    """Return what changes the layouts of a run's templates; None: they are shown as they are, as any single prompt is."""
    if config.method.name != "paft" or not config.sampler.mutations:
        return None
    answer = answer_kind(config.dataset, task)
    return Mutator(config.sampler.mutations, task.choice_fields, next(iter(task.fields), None), answer, task.choices_vary)


@dataclass(frozen=True)
class Tagged:
    """A training example's index in the data, tagged with the draw of its template and that template's index in the pool."""

    row: int
    template: int
    draw: Draw
    weight: float = 1.0  # how much its answer tokens count in the loss
    candidates: int = 1  # of its draw, that the update is rendered with: training takes the worst of them


class Unlabelled(NamedTuple):
    """Rows whose answers are not read: how many there are, and how many each update holds besides the others."""

    rows: int
    per_update: int


class Candidates(NamedTuple):
    """Several templates of a draw, or layouts of its one, of which training takes the one that the model answers worst."""

    n: int
    share: float  # of the draws; the others have one candidate
    first_update: int  # of the run; draws that begin before it have one candidate


class Updates:
    """The updates of a run: a pure function of seed, epoch and update.

    Each epoch is a new permutation of the examples; the last update of an epoch holds those that remain.

    Args:
        schedule: when a template is drawn.
        sampler: which template a draw gives; its seed is that of the order of the examples, too.
        examples_per_update: renderings, if paired.
        templates_per_update: how many templates an update holds, each for as many examples.
        paired: whether each example of an update is shown under all of its templates.
        unlabelled: further rows, whose indices follow those of the examples; they come in turn, each time in another order,
            whose last rows wait for the next where no whole update is left. None: there are none.
        candidates: for schedules by update alone. None: each draw has one.
    """

    def __init__(
        self,
        n_examples: int,
        examples_per_update: int,
        epochs: int,
        schedule: Schedule,
        sampler: Sampler,
        templates_per_update: int = 1,
        paired: bool = False,
        unlabelled: Unlabelled | None = None,
        candidates: Candidates | None = None,
    ) -> None:
        self.n_examples = n_examples
        self.examples_per_update = examples_per_update
        self.epochs = epochs
        self.schedule = schedule
        self.sampler = sampler
        self.templates_per_update = templates_per_update
        self.paired = paired
        self.unlabelled = unlabelled
        self.candidates = candidates
        self._turn: tuple[int, list[int]] | None = None  # the unlabelled rows' last order, and which one it is

    @property
    def rows_per_update(self) -> int:
        """Number of different examples of an update."""
        return rows_per_update(self.examples_per_update, self.templates_per_update, self.paired)

    @property
    def per_epoch(self) -> int:
        """Number of updates per epoch; the last one may be smaller."""
        return -(-self.n_examples // self.rows_per_update)

    @property
    def total(self) -> int:
        """Number of updates of the run."""
        return self.per_epoch * self.epochs

    def of_epoch(self, epoch: int, first_update: int = 0) -> Iterator[list[Tagged]]:
        """Yield the updates of an epoch, starting at `first_update`."""
        bits = np.random.Philox(key=[self.sampler.seed, _STREAM], counter=[0, 0, epoch, 0])
        order = np.random.Generator(bits).permutation(self.n_examples).tolist()
        for update in range(first_update, self.per_epoch):
            start = update * self.rows_per_update
            rows = order[start : start + self.rows_per_update]
            rows += self._unlabelled(epoch * self.per_epoch + update)
            tagged, drawn = [], dict[Draw, tuple[int, float, int]]()  # rows share draws
            for i, row in enumerate(rows):
                n = self.templates_per_update
                for slot in range(n) if self.paired else (i * n // len(rows),):
                    draw = self.schedule.draw(epoch=epoch, update=update, position=start + i, row=row, slot=slot)
                    if draw not in drawn:
                        drawn[draw] = self.sampler.index(draw), self.sampler.weight(draw), self._n_candidates(draw)
                    template, weight, candidates = drawn[draw]
                    tagged.append(Tagged(row, template, draw, weight, candidates))
            yield tagged

    @property
    def most_renderings(self) -> int:
        """The most renderings of an update."""
        unlabelled = 0 if self.unlabelled is None else self.unlabelled.per_update * self.templates_per_update
        return self.examples_per_update + unlabelled

    def _n_candidates(self, draw: Draw) -> int:
        """Return how many templates a draw takes the worst of: by its place in the run, whatever training has learnt."""
        if (
            self.candidates is None
            or draw.epoch * self.per_epoch + draw.number * self.schedule.k < self.candidates.first_update
        ):
            return 1
        bits = np.random.Philox(key=[self.sampler.seed, _TRIED_STREAM], counter=[0, draw.number, draw.epoch, 0])
        return self.candidates.n if np.random.Generator(bits).random() < self.candidates.share else 1

    def _unlabelled(self, number: int) -> list[int]:
        """Return the unlabelled rows of an update of the run."""
        if self.unlabelled is None:
            return []
        n, size = self.unlabelled
        turn, place = divmod(number, n // size)  # no update holds rows of two turns, because it could hold one of them twice
        if self._turn is None or self._turn[0] != turn:
            bits = np.random.Philox(key=[self.sampler.seed, _UNLABELLED_STREAM], counter=[0, 0, turn, 0])
            self._turn = turn, np.random.Generator(bits).permutation(n).tolist()
        return [self.n_examples + i for i in self._turn[1][place * size : (place + 1) * size]]

    def seen(self) -> "Coverage":
        """Return what the whole run sees of the pool."""
        tagged = {tag.draw: tag.template for epoch in range(self.epochs) for update in self.of_epoch(epoch) for tag in update}
        texts = {self.sampler.template(draw, index).text for draw, index in tagged.items()} if self.sampler.mutator else set()
        return Coverage(len(tagged), len({*tagged.values()}), len(texts))


@dataclass(frozen=True)
class Coverage:
    """What a run sees of the pool: draws, different templates among them, and different layouts if these are mutated."""

    draws: int
    templates: int
    layouts: int
