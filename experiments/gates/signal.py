"""The third gate: do training's own losses tell templates apart?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paft.config.compose import compose_training
from paft.data.updates import sampler_of
from paft.evaluation.statistics import Array
from paft.jobs.train import PreparedRun
from paft.prompts.by_loss import ByLossSampler

SHUFFLES = 20  # of the templates of a log
_BY_LOSS = ["dataset=story_facts", "sampler=by_loss", "trainer.workers=0"]


@dataclass(frozen=True)
class Signal:
    """From how many templates sampler=by_loss would have drawn, by a run's own losses: the fewest in a block of updates."""

    pool: int  # all of them
    fewest: float
    shuffled: Array  # where templates are shuffled (20,)


def signal(updates: Sequence[tuple[int, float]], run: PreparedRun) -> Signal:
    """Measure the third gate.

    Args:
        updates: the template and the loss of each update of a run.
    """
    own = compose_training([*_BY_LOSS, f"K={run.config.K}", f"T={run.config.T}", f"seed={run.config.seed}"])
    train = run.inputs.train
    assert train is not None
    templates, of = [template for template, _ in updates], [loss for _, loss in updates]

    def fewest(shown: Sequence[int]) -> float:
        task, per_epoch = run.inputs.examples.task, len(updates) // run.config.T
        sampler = sampler_of(own, train, task, per_epoch, per_epoch)
        assert isinstance(sampler, ByLossSampler)
        pools = []
        for update, (template, loss) in enumerate(zip(shown, of, strict=True)):
            pools.append(sampler.effective_pool((update // per_epoch, update % per_epoch // own.K)))
            sampler.record(update, [template], [loss])
        return min(pools)

    rng = np.random.default_rng(run.config.seed)
    shuffled = [fewest(rng.permutation(templates).tolist()) for _ in range(SHUFFLES)]
    return Signal(len(train.templates), fewest(templates), np.array(shuffled))
