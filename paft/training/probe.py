"""Adversarial choice: of several candidate templates an update is trained on the one that the model answers worst.

The candidates of a draw are tried by forward passes on the examples of its first update, and the choice holds for the draw's K
updates. It depends on nothing but the weights and the draw, so that a resumed run repeats it. As MaxUp
(https://arxiv.org/abs/2002.09024), with templates for perturbations.
"""

from collections.abc import Sequence
from typing import Any

import torch

from paft.data.batch import Update
from paft.model.base import Model
from paft.runtime import ranks
from paft.training.losses import answer_loss

_DIGITS = 4  # of a loss; ranks sum in another order than one process does, and nearly equal losses must not decide differently


class Probe:
    """Chooses the candidate that each update is trained on: of several the worst, for all updates of their draw."""

    def __init__(self) -> None:
        self._draw: tuple[int, int] | None = None
        self._chosen = 0
        self.margin = 0.0  # of the last choice: its loss minus the mean of all candidates
        self.tokens = 0  # of all forward passes, real ones, of all ranks

    def chosen(self, model: Model, update: Update) -> Update:
        """Return the update as it is under the candidate that its draw takes.

        Args:
            update: with all candidates.
        """
        candidates = [update, *update.others]
        if update.draw != self._draw:
            chosen, margin = 0, 0.0
            if update.others:
                losses = losses_of(model, candidates)
                chosen = worst(losses)
                margin = losses[chosen] - sum(losses) / len(losses)
                self.tokens += sum(candidate.n_tokens for candidate in candidates)
            self._draw, self._chosen, self.margin = update.draw, chosen, margin  # once it is decided: a failed try is repeated
        return candidates[self._chosen]

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, in plain types."""
        return {"draw": self._draw, "chosen": self._chosen, "margin": self.margin, "tokens": self.tokens}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        self._draw = None if state["draw"] is None else (state["draw"][0], state["draw"][1])
        self._chosen, self.margin, self.tokens = state["chosen"], state["margin"], state["tokens"]


def losses_of(model: Model, candidates: Sequence[Update]) -> list[float]:
    """Return the mean cross-entropy of each candidate's answer tokens, over all ranks, without dropout, rounded."""
    training, device = model.training, model.device
    model.eval()
    try:
        with torch.no_grad():
            sums = [
                sum((answer_loss(model, batch) for batch in update.micro_batches), torch.zeros((), device=device))
                for update in candidates
            ]
    finally:
        model.train(training)
    found = torch.stack(sums)
    if ranks.n_ranks() > 1:
        torch.distributed.all_reduce(found)
    return [round(loss / update.n_targets, _DIGITS) for loss, update in zip(found.tolist(), candidates, strict=True)]


def worst(losses: Sequence[float]) -> int:
    """Return the candidate with the highest loss, of equal ones the first."""
    return max(range(len(losses)), key=lambda i: (losses[i], -i))
