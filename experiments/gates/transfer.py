"""The second gate: is training on the hardest templates nearer to what the worst prompts of other families need?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from experiments.gates.probe import Probe, gradient
from paft.evaluation.statistics import Array
from paft.model.base import Model

_SHARE = 0.1  # of the templates, the hardest
DRAWS = 200  # sets of templates at random
BETTER = 0.9  # of the sets: from here on the hardest templates count as better than those at random


@dataclass(frozen=True)
class Transfer:
    """The cosine of the gradient on the hardest training templates with that on the worst validation prompts."""

    hardest: float
    at_random: Array  # of as many templates, taken at random (200,)

    @property
    def advantage(self) -> float:
        """By how much the hardest templates are better than those at random."""
        return self.hardest - float(self.at_random.mean())

    @property
    def rank(self) -> float:
        """The share of the random sets that the hardest templates are better than."""
        return float((self.at_random < self.hardest).mean())


def transfer(model: Model, probe: Probe, of_train: Array, of_validation: Array, device: torch.device, seed: int) -> Transfer:
    """Measure the second gate at one state.

    Args:
        of_train: the loss of each training template (P,).
        of_validation: that of each validation prompt.
        seed: of which templates are taken at random.
    """
    rng = np.random.default_rng(seed)
    n = max(1, round(_SHARE * len(of_train)))
    hardest = np.argsort(-of_train)[:n].tolist()
    others = rng.permutation(len(of_train))[: 4 * n].tolist()
    worst = np.argsort(-of_validation)[: max(1, round(_SHARE * len(of_validation)))].tolist()
    by_template = {i: gradient(model, probe, probe.train[i], device) for i in {*hardest, *others}}
    target = torch.stack([gradient(model, probe, probe.validation[i], device) for i in worst]).mean(0)

    def cosine(chosen: Sequence[int]) -> float:
        mean = torch.stack([by_template[i] for i in chosen]).mean(0)
        return float(torch.nn.functional.cosine_similarity(mean, target, dim=0))

    drawn = [cosine(rng.choice(others, size=n, replace=False).tolist()) for _ in range(DRAWS)]
    return Transfer(cosine(hardest), np.array(drawn))
