"""How long a run takes, from its first updates and renderings."""

from collections.abc import Sequence
from dataclasses import dataclass

# To score a rendering, or to try a candidate on it, is a forward pass; to train on it is that and, as frozen weights need no
# gradients, as much again for the gradients of activations. For scoring it is used until a validation has been timed.
SCORED_TO_TRAINED = 0.5
_UNITS = (("hours", 3600.0, 3 * 3600.0), ("minutes", 60.0, 120.0), ("seconds", 1.0, 0.0))  # name, seconds, used from so many on


@dataclass(frozen=True)
class ScoringWork:
    """The renderings that a run scores besides its updates: at each validation, and after training.

    generated says whether answers are generated, of which only a validation can tell the time. searched_s is the time in
    seconds that the search for a prompt took before training.
    """

    validation_renderings: int
    test_renderings: int
    generated: bool = False
    searched_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """The work of a run: its updates, the examples of each, the updates between two validations, and what is scored.

    later says from which updates on an update takes longer than the first ones, and by what share of their time: it is computed
    twice, or candidates are tried.
    """

    updates: int
    examples_per_update: int
    updates_per_validation: int
    scoring: ScoringWork
    later: Sequence[tuple[int, float]] = ()

    def first_update_s(self, since: int, done: int, update_s: float) -> float:
        """Return the seconds of one of the first updates, where the updates from `since` to `done` took update_s on average."""
        return update_s * (done - since) / (self._in_first_updates(done) - self._in_first_updates(since))

    def left(self, done: int, first_s: float, rendering_s: float | None) -> tuple[float, float]:
        """Return the seconds of training (validation included) and of scoring that are left after `done` updates.

        Where answers are generated and no validation was timed, scoring counts as 0.

        Args:
            first_s: seconds of one of the first updates.
            rendering_s: seconds of a rendering in validation; None: none was timed yet.
        """
        if rendering_s is None:
            rendering_s = 0.0 if self.scoring.generated else SCORED_TO_TRAINED * first_s / self.examples_per_update
        validations = self.updates // self.updates_per_validation - done // self.updates_per_validation
        validating_s = validations * self.scoring.validation_renderings * rendering_s
        training_s = (self._in_first_updates(self.updates) - self._in_first_updates(done)) * first_s
        return training_s + validating_s, self.scoring.test_renderings * rendering_s

    def _in_first_updates(self, done: int) -> float:
        """Return how many updates of the first kind take as long as the `done` updates, of which later ones may take longer."""
        return done + sum(share * max(0, done - first) for first, share in self.later)

    def line(self, first_s: float, update_s: float, loop_s: float, rendering_s: float | None) -> str:
        """Return the line of the plan about the time of the whole run, search included.

        Args:
            first_s: seconds of one of the first updates.
            update_s: seconds of those that were measured.
            loop_s: the part of update_s around the model; it is named where it is more than a third.
        """
        training_s, scoring_s = self.left(0, first_s, rendering_s)
        total = self.scoring.searched_s + training_s + scoring_s
        unit, seconds = next((name, seconds) for name, seconds, least in _UNITS if total >= least)
        parts = [f"{_short(self.scoring.searched_s / seconds)} of search"] if self.scoring.searched_s else []
        parts.append(f"{_short(training_s / seconds)} of training")
        renderings = f"{self.scoring.test_renderings:,} renderings"
        parts.append(
            f"{_short(scoring_s / seconds)} of scoring {renderings}"
            if scoring_s
            else f"then answers to {renderings} are generated"
        )
        text = f"  time      about {_short(total / seconds)} {unit}: {', '.join(parts)}"
        if 3 * loop_s <= update_s:
            return text
        return f"{text}; of the {1000 * update_s:.0f} ms of an update the loop around the model takes {1000 * loop_s:.1f}"


def _short(number: float) -> str:
    """Return a number rounded to whole ones, or to tenths below ten."""
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
