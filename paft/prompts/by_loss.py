"""Draws by loss: wordings and layouts that training answers worse are drawn more often, or less often.

Importance sampling and curriculum in one: the sign of a temperature says what comes more often, and it may move over the run.
The losses are those of training itself, so that no forward pass is added. They count by their ranks within a block of updates,
because they fall by powers of ten over a run: in nats the luck of the first updates would outweigh all that comes later.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from paft.prompts.mutate import Mutator
from paft.prompts.pool import PromptPool
from paft.prompts.sampling import STREAM, Sampler
from paft.prompts.schedule import Draw

_RATE = 0.1  # of moving means, a visit
_MOST_OFTEN = 4  # no template is drawn more often than so many times as uniform draws do: families that nobody can answer exist
_HEAVIEST = 4.0  # weight of a rare template, where weights are corrected
_LUCK = 2.0  # times the expected spread of noise: what a dozen families may have by luck
_UNIFORM_BLOCKS = 2  # the first ones, whose draws know no losses
_DIGITS = 4  # of a loss that count; ranks sum in another order than one process does, and rounding must not change a draw


class Visit(NamedTuple):
    """The mean loss of a template in an update."""

    update: int
    template: int
    loss: float


class Scores(NamedTuple):
    """What is known of the families at a time: the wordings in the first list of each pair, the layouts in the second."""

    of_families: list[list[float]]  # moving means of the ranks of losses in their blocks, of mean 0 and variance 1 there
    visits: list[list[int]]
    noise: float  # moving mean of the squared distance between a rank and what its families' scores say


class ByLossSettings(NamedTuple):
    """How losses change draws.

    temperature: of the softmax over the pool, at the beginning and at the end of the run; scores are divided by their standard
    deviation, and count as far as they are more than noise. uniform_share: of the probability, which all templates have alike.
    corrected: whether a template's examples weigh less as it is drawn more often. lag: updates in a block; draws know the
    losses of all blocks but the one before.
    """

    temperature: tuple[float, float]
    uniform_share: float
    corrected: bool
    lag: int


class ByLossSampler(Sampler):
    """Draws templates with a probability that depends on the losses of their wordings and layouts.

    A family's score is the moving mean of the ranks of its templates' losses, each among those of the same block of updates.
    The draws of a block know the losses of all blocks but the one before it, however far loader workers read ahead; so they are
    a function of the seed and of these losses alone.

    Args:
        settings: how losses change draws.
        families: the wording and the layout of each template.
        updates_per_epoch, total_updates: of the run.
        k: updates that a draw holds for.
    """

    def __init__(
        self,
        pool: PromptPool,
        seed: int,
        mutator: Mutator | None = None,
        share: float = 1.0,
        *,
        settings: ByLossSettings,
        families: Sequence[Sequence[str]],
        updates_per_epoch: int,
        total_updates: int,
        k: int,
    ) -> None:
        super().__init__(pool, seed, mutator, share)
        self.settings = settings
        self.updates_per_epoch, self.total_updates, self.k = updates_per_epoch, total_updates, k
        names = [list(dict.fromkeys(kind)) for kind in families]
        self._members = [[of.index(name) for name in kind] for of, kind in zip(names, families, strict=True)]
        none = Scores([[0.0] * len(of) for of in names], [[0] * len(of) for of in names], 0.0)
        self._scores = {0: none, 1: none}  # that the draws of a block go by
        self._visits: list[Visit] = []  # of blocks that are in no scores yet
        self._cached: tuple[int, np.ndarray] | None = None

    def index(self, draw: Draw) -> int:
        """Return the index in the pool of a draw's template; raises RuntimeError if losses that it depends on are missing."""
        if not self.goes_by_losses(draw):
            return super().index(draw)
        bits = np.random.Philox(key=[self.seed, STREAM], counter=[0, draw.number, draw.epoch, draw.slot])
        place = np.random.Generator(bits).random()
        cumulated = self.probabilities(draw).cumsum()
        return min(int(np.searchsorted(cumulated, place, side="right")), len(cumulated) - 1)

    def goes_by_losses(self, draw: Draw) -> bool:
        """Return whether losses say by then which templates are drawn more often; before, draws are uniform."""
        return self._block(draw) >= _UNIFORM_BLOCKS

    def weight(self, draw: Draw) -> float:
        """Return how much the examples of a draw count in the loss; 1 unless weights are corrected."""
        if not self.settings.corrected:
            return 1.0
        return self.weights(draw, [self.index(draw)])[0]

    def weights(self, draw: Draw, templates: Sequence[int]) -> list[float]:
        """Return how much an example counts in the loss if a draw shows it under each of some templates, corrected."""
        own = self.probabilities(draw)[list(templates)]
        return [min(1 / (len(self.pool.templates) * float(p)), _HEAVIEST) for p in own]

    def probabilities(self, draw: Draw) -> np.ndarray:
        """Return the probability of each template in a draw, (N,) float64."""
        block = self._block(draw)
        if self._cached is None or self._cached[0] != block:
            self._cached = (block, self._probabilities(block))
        return self._cached[1]

    def effective_pool(self, draw: tuple[int, int]) -> float:
        """Return how many templates a draw is from: all if they are drawn alike, else fewer (1 / sum of squares).

        Args:
            draw: its epoch and its number.
        """
        return float(1 / np.square(self.probabilities(Draw(*draw))).sum())

    def record(self, update: int, templates: Sequence[int], losses: Sequence[float]) -> None:
        """Take the losses of an update; updates come in their order.

        Args:
            update: its number in the run, from 0.
            templates: the template of each of its examples.
            losses: the mean cross-entropy of each one's answer tokens.
        """
        for template in dict.fromkeys(templates):
            own = [loss for of, loss in zip(templates, losses, strict=True) if of == template]
            self._visits.append(Visit(update, template, float(f"{statistics.fmean(own):.{_DIGITS}g}")))

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, in plain types."""
        scores = [(block, *of) for block, of in self._scores.items()]
        return {"scores": scores, "visits": [tuple(visit) for visit in self._visits]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        self._scores = {block: Scores(*of) for block, *of in state["scores"]}
        self._visits = [Visit(*visit) for visit in state["visits"]]
        self._cached = None

    def _block(self, draw: Draw) -> int:
        return (draw.epoch * self.updates_per_epoch + draw.number * self.k) // self.settings.lag

    def _probabilities(self, block: int) -> np.ndarray:
        n, settings = len(self.pool.templates), self.settings
        first, last = settings.temperature
        temperature = first + (last - first) * min(1.0, block * settings.lag / self.total_updates)
        weights = np.exp(temperature * self._standardised(self._scores_of(block)))
        return _capped((1 - settings.uniform_share) * weights / weights.sum() + settings.uniform_share / n)

    def _standardised(self, scores: Scores) -> np.ndarray:
        """Return the score of each template in standard deviations, (N,), less whatever share of the spread is noise."""
        own = sum(np.array(of)[members] for of, members in zip(scores.of_families, self._members, strict=True))
        # The variance of a moving mean of n numbers, each of variance 1, that began at zero.
        settled = [_RATE / (2 - _RATE) * (1 - (1 - _RATE) ** (2 * np.array(of))) for of in scores.visits]
        noise = scores.noise * sum(of[members].mean() for of, members in zip(settled, self._members, strict=True))
        assert isinstance(own, np.ndarray)
        spread, luck = own.var(), _LUCK * noise
        if spread <= luck:
            return np.zeros_like(own)
        return (1 - luck / spread) * (own - own.mean()) / math.sqrt(spread)

    def _scores_of(self, block: int) -> Scores:
        lag = self.settings.lag
        while (newest := max(self._scores)) < block:
            known = [visit for visit in self._visits if visit.update // lag == newest - 1]
            if len({visit.update for visit in known}) < lag:
                raise RuntimeError(f"The losses of updates {(newest - 1) * lag} to {newest * lag - 1} are not recorded yet.")
            self._scores[newest + 1] = self._moved(self._scores[newest], known)
            self._visits = [visit for visit in self._visits if visit.update // lag >= newest]
            # A resumed run repeats updates that were read ahead, under draws that began up to k updates before.
            self._scores = {b: of for b, of in self._scores.items() if b >= newest - 1 - -(-self.k // lag)}
        return self._scores[block]

    def _moved(self, before: Scores, visits: Sequence[Visit]) -> Scores:
        """Return what is known after the visits of a block."""
        scores, counts, noise = [list(of) for of in before.of_families], [list(of) for of in before.visits], before.noise
        ranks = _ranked([visit.loss for visit in visits])
        if not any(map(any, counts)):  # the first block: nothing is known of families, so that all is noise
            noise = statistics.pvariance(ranks)
        for visit, rank in zip(visits, ranks, strict=True):
            families = [of[visit.template] for of in self._members]
            expected = sum(of[family] for of, family in zip(scores, families, strict=True))
            noise += _RATE * ((rank - expected) ** 2 - noise)
            for of, count, family in zip(scores, counts, families, strict=True):
                of[family] += _RATE * (rank - of[family])
                count[family] += 1
        return Scores(scores, counts, noise)


def _ranked(losses: Sequence[float]) -> list[float]:
    """Return the ranks of losses, less their mean and divided by their std without ties; equal ones share a rank."""
    n = len(losses)
    scale = math.sqrt((n**2 - 1) / 12) or 1.0
    return [float((rank - (n + 1) / 2) / scale) for rank in rankdata(losses)]


def _capped(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities of which none is more than 4 times that of uniform draws; the others share what is cut off."""
    most = min(1.0, _MOST_OFTEN / len(probabilities))
    capped = np.zeros(len(probabilities), dtype=bool)
    while (found := (probabilities > most * (1 + 1e-9)) & ~capped).any():
        capped |= found
        rest = 1 - most * capped.sum()
        free = probabilities * ~capped
        probabilities = np.where(capped, most, free * (rest / free.sum()))
    return probabilities
