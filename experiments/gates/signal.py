"""The third gate: do training's own losses tell templates apart?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paft.config.schema import SamplerConfig
from paft.data.updates import sampler_of
from paft.evaluation.statistics import Array
from paft.jobs.one_run import PreparedRun
from paft.prompts.by_loss import ByLossSampler

SHUFFLES = 20  # of the templates of a log
HARDLY = 0.98  # as varied as from more than this share of the pool: probabilities within about a seventh of uniform ones
_BY_LOSS = SamplerConfig(temperature=1.0)  # conf/sampler/by_loss.yaml


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
    own = run.config.model_copy(update={"sampler": _BY_LOSS})
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
