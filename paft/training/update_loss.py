"""The loss of an update as a sum over its micro-batches, and what is reported of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paft.config.schema import LossConfig
from paft.data.batch import MicroBatch
from paft.model.base import Model
from paft.training.embeddings import ShiftedEmbeddings
from paft.training.losses import answer_logits, answer_loss, cross_entropies, disagreement, effective_templates, tilted

# Numbers of an update that micro-batches and ranks add up, by loss.
_SUMS = {"mean": 1, "tilted": 3, "consistent": 2, "perturbed": 2}


@dataclass(frozen=True)
class UpdatePart:
    """A micro-batch of an update, and what a CUDA graph reads besides."""

    micro_batch: MicroBatch
    n_targets: Tensor  # of the update; scalar, fp32
    strength: Tensor | None  # of what the loss has besides the mean; scalar, fp32
    n_compared: Tensor | None = None  # tokens of the update whose predictions are compared, if they are; scalar, fp32


class UpdateLoss:
    """What an update minimises: the mean over its answer tokens, or a loss that looks at templates besides.

    Args:
        loss: which.
        total_updates: of the run.
        paired: whether each example of an update is shown under all of its templates.
        renderings: the most of an update, whose losses are added up apart; 0: they are not told apart.
    """

    def __init__(self, loss: LossConfig, total_updates: int, paired: bool = False, renderings: int = 0) -> None:
        self.loss, self.total_updates, self.paired, self.renderings = loss, total_updates, paired, renderings

    @property
    def n_sums(self) -> int:
        """How many numbers `sums` returns."""
        return _SUMS[self.loss.name] + self.renderings

    def strength(self, update: int) -> float | None:
        """Return the strength of what the loss of an update has besides the mean; None: it is the mean.

        That is a temperature, zero in the warm-up; the weight of the disagreement, which grows meanwhile; or the size of the
        perturbation, of which the warm-up has none.
        """
        if self.loss.name == "mean":
            return None
        warmup = math.ceil(self.loss.warmup * self.total_updates)
        if self.loss.name == "perturbed":
            return self.loss.size if update >= warmup else None
        if self.loss.name == "tilted":
            return self.loss.temperature if update >= warmup else 0.0
        return self.loss.weight * (min(1.0, update / warmup) if warmup else 1.0)

    def repeats(self, update: int) -> bool:
        """Return whether an update is computed a second time, with perturbed embeddings."""
        return self.loss.name == "perturbed" and self.strength(update) is not None

    def add_gradients(self, model: Model, part: UpdatePart, backward: Callable[[Tensor], None]) -> Tensor:
        """Add a micro-batch's gradients to the model's; return what it adds to the update's sums, as `sums`.

        Of a perturbed loss the second number is by how much the perturbation made the loss worse.

        Args:
            backward: differentiates a scalar.
        """
        if self.loss.name == "perturbed" and part.strength is not None:
            return self._add_perturbed(model, part, part.strength, backward)
        sums = self.sums(model, part)
        backward(sums[0])
        return sums.detach()

    def _add_perturbed(self, model: Model, part: UpdatePart, size: Tensor, backward: Callable[[Tensor], None]) -> Tensor:
        """Add half of the gradients as they are, and half of those with embeddings moved to where the loss is higher."""
        mask = part.micro_batch.template
        assert mask is not None
        with ShiftedEmbeddings(model) as shifted:
            clean = self.sums(model, part)
            backward(clean[0] / 2)
            shifted.move(size, mask)
            moved = self.sums(model, part)
            backward(moved[0] / 2)
        clean, moved = clean.detach(), moved.detach()
        return torch.cat([((clean + moved) / 2)[:1], (moved - clean)[:1], clean[2:]])

    def sums(self, model: Model, part: UpdatePart) -> Tensor:
        """Return what the micro-batches of an update add up, (n_sums,) fp32; gradients flow through the first number alone.

        The loss; of a tilted one the three sums, by whose weight gradients are not divided yet; of a consistent one the
        disagreement in it. Behind them the sum of the losses of each rendering.
        """
        batch = part.micro_batch
        if self.loss.name == "mean" and batch.renderings is None:
            return (answer_loss(model, batch) / part.n_targets)[None]
        logits = answer_logits(model, batch)
        losses = cross_entropies(logits, batch)
        own = self._of_loss(logits, losses, part)
        if batch.renderings is None:
            return own
        # Not index_add, which on a GPU adds in any order.
        return torch.cat([own, (batch.renderings * losses.detach()).sum(-1)])

    def _of_loss(self, logits: Tensor, losses: Tensor, part: UpdatePart) -> Tensor:
        batch = part.micro_batch
        if self.loss.name in ("mean", "perturbed"):
            weighted = losses if batch.weights is None else losses * batch.weights
            mean = (weighted.sum() / part.n_targets)[None]
            return mean if self.loss.name == "mean" else torch.cat([mean, torch.zeros_like(mean)])
        assert batch.shares is not None and part.strength is not None
        if self.loss.name == "tilted":
            return tilted(losses, batch.shares, part.strength, self.paired)
        assert batch.aligned is not None and part.n_compared is not None
        # Both are means over tokens: one of an answer is as many of them as the example has renderings.
        apart = disagreement(logits, losses, batch, self.loss.toward == "best") * batch.aligned.shape[1] / part.n_compared
        return torch.stack((losses.sum() / part.n_targets + part.strength * apart, apart))

    def figures(self, sums: Tensor, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the figures of an update's loss by name; divides the gradients of a tilted one by the sum of its weights.

        Args:
            sums: of all micro-batches and ranks.
            parameters: those that are trained.
        """
        if self.loss.name == "mean":
            return {"loss": sums[0]}
        if self.loss.name == "perturbed":
            return {"loss": sums[0], "perturbation": sums[1]}
        if self.loss.name == "consistent":
            return {"loss": sums[0], "disagreement": sums[1]}
        assert self.loss.name == "tilted"
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], sums[1])
        return {"loss": sums[0] / sums[1], "effective_templates": effective_templates(sums[:3], self.paired)}

    def of_renderings(self, sums: Tensor) -> Tensor:
        """Return the sum of the losses of each rendering of an update, (renderings,)."""
        return sums[_SUMS[self.loss.name] :]
