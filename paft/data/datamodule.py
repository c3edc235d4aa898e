"""The LightningDataModule: renders each update with the templates that the schedule draws for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from paft.config.schema import WORKERS_OF_A_GPU, TrainConfig, updates_ahead
from paft.data.batch import IGNORED, MicroBatch, Shown, Update, pack_answers, split_into_micro_batches, without_targets
from paft.data.encode import Encoded, Encoder
from paft.data.render import answers_under
from paft.data.shots import Shots
from paft.data.spans import of_template
from paft.data.tasks.base import Example, Task
from paft.data.updates import Tagged, Updates, updates_of
from paft.prompts import PromptPool
from paft.prompts.by_loss import ByLossSampler
from paft.prompts.sampling import Sampler as PromptSampler
from paft.prompts.schedule import Draw
from paft.runtime import ranks


class PaftDataModule(pl.LightningDataModule):
    """Feeds the trainer one optimiser update at a time, rendered with the templates that the schedule draws for it.

    Updates (main process) tags each example with its template; workers render and tokenise. Every
    update is a function of (seed, epoch, update), so a run resumed in the middle of an epoch sees
    what it would have seen without the interruption.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        pool: PromptPool,
        encoder: Encoder,
        config: TrainConfig,
        task: Task,
        ragged: bool = False,
        unlabelled: Sequence[Example] = (),
    ) -> None:
        """
        Args:
            pool: what templates are drawn from.
            task: of the examples.
            ragged: as in paft.packing.pack; what the model's attention takes.
            unlabelled: further examples, whose answers are not read.
        """
        super().__init__()
        self.updates = updates_of(config, len(examples), pool, task, len(unlabelled))
        self.renderings = Renderings(
            [*examples, *unlabelled],
            self.updates.sampler,
            encoder,
            config.trainer.micro_batch_tokens,
            ragged=ragged,
            in_step=config.trainer.strategy == "fsdp",
            n_shots=config.dataset.shots,
            n_labelled=len(examples),
            needs=needs_of(config, self.updates),
        )
        self.workers = config.trainer.workers

    def train_dataloader(self) -> DataLoader[Update]:
        """Return a loader of the remaining updates of the current epoch; the trainer calls it for each epoch."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        done = self.trainer.global_step - epoch * self.updates.per_epoch
        sampler = EpochSampler(self.updates, epoch, done)
        workers = self.workers
        if workers is None:
            workers = WORKERS_OF_A_GPU if self.trainer.strategy.root_device.type == "cuda" else 0
            if isinstance(self.updates.sampler, ByLossSampler):
                workers = min(workers, (self.updates.sampler.settings.lag - updates_ahead(0)) // 2)
        return DataLoader(self.renderings, batch_size=None, sampler=sampler, num_workers=workers)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move an update to a device; Lightning's default cannot move frozen dataclasses."""
        return batch.to(device) if isinstance(batch, Update) else batch

    def val_dataloader(self) -> DataLoader[int]:
        """Return one empty batch: validation scores a whole matrix at once (see PaftModule.validate)."""
        return DataLoader(range(1))  # type: ignore[arg-type]


class EpochSampler(Sampler[list[Tagged]]):
    """The updates of one epoch, minus those done before an interruption."""

    def __init__(self, updates: Updates, epoch: int, done: int) -> None:
        self.updates, self.epoch, self.done = updates, epoch, done

    def __len__(self) -> int:
        return self.updates.per_epoch  # all of them: Lightning itself counts those already done

    def __iter__(self) -> Iterator[list[Tagged]]:
        return self.updates.of_epoch(self.epoch, first_update=self.done)


@dataclass(frozen=True)
class Needs:
    """What a run's loss and sampler need to know of the renderings of an update; by default nothing."""

    paired: bool = False  # which of them are one example, shown under all templates of the update
    weighed: bool = False  # which are of one template, or, if paired, of one example: these stay in one micro-batch
    aligned: bool = False  # which tokens are the same token of an example's answer, where templates offer the same answers
    own: bool = False  # which tokens are the template's own
    losses_of: int | None = None  # which tokens are of which rendering, of so many at most; None: losses are not told apart
    candidates: bool = False  # how they would be under the other candidates of the draw
    layouts: bool = False  # whether these are other layouts of one template, not other templates


def needs_of(config: TrainConfig, updates: Updates) -> Needs:
    """Return what the loss and the sampler of a run need."""
    return Needs(
        paired=updates.paired,
        weighed=config.loss.compares,
        aligned=config.loss.name == "consistent",
        own=config.loss.name == "perturbed",
        losses_of=updates.most_renderings if isinstance(updates.sampler, ByLossSampler) else None,
        candidates=updates.candidates is not None,
        layouts=config.sampler.candidates_are == "layouts",
    )


class Renderings(Dataset[Update]):
    """Turns the tagged examples of an update into packed micro-batches.

    Args:
        sampler: gives the template of each draw.
        ragged: as in paft.packing.pack.
        in_step: whether all ranks must have the same number of micro-batches, as those of a sharded model; those that have
            fewer repeat a sequence of which nothing is trained on.
        n_shots: how many other examples are shown before each.
        n_labelled: how many of the examples have answers, the first ones; None: all.
        needs: of the run's loss and sampler.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        sampler: PromptSampler,
        encoder: Encoder,
        micro_batch_tokens: int,
        ragged: bool = False,
        in_step: bool = False,
        n_shots: int = 0,
        n_labelled: int | None = None,
        needs: Needs = Needs(),
    ) -> None:
        self.examples, self.sampler, self.encoder = examples, sampler, encoder
        self.micro_batch_tokens, self.ragged, self.in_step = micro_batch_tokens, ragged, in_step
        self.n_labelled = len(examples) if n_labelled is None else n_labelled
        self.shots = Shots(examples[: self.n_labelled], n_shots, sampler.seed, compared=needs.paired or needs.candidates)
        self.needs = needs

    def __getitem__(self, tagged: list[Tagged]) -> Update:
        others = self._others(tagged[0])
        under = [[replace(tag, draw=draw, template=index) for tag in tagged] for draw, index in others]
        return replace(self._rendered(tagged), others=[self._rendered(one) for one in under])

    def _others(self, first: Tagged) -> list[tuple[Draw, int]]:
        """Return the further candidates of an update, each once: a pool may give one twice, and not every layout changes."""
        found: dict[tuple[str, str], tuple[Draw, int]] = {}
        for slot in range(first.candidates):
            draw = first.draw._replace(slot=slot)
            index = first.template if slot == 0 or self.needs.layouts else self.sampler.index(draw)
            template = self.sampler.template(draw, index)
            found.setdefault((template.text, template.letters), (draw, index))
        return list(found.values())[1:]

    def _rendered(self, tagged: list[Tagged]) -> Update:
        tagged, encoded = self._comparable(tagged, [self._encoded(tag) for tag in tagged])
        lengths = [len(e.context) + len(e.continuations[0]) for e in encoded]
        units = self._units(tagged)
        of_units = [sum(lengths[i] for i in unit) for unit in units]
        split = partial(split_into_micro_batches, of_units, self.micro_batch_tokens, n_ranks=ranks.n_ranks())
        pairs = [(e.context, e.continuations[0]) for e in encoded]
        packed = partial(self._packed, tagged, pairs)
        micro_batches = [packed([units[n] for n in batch]) for batch in split(rank=ranks.rank())]
        if self.in_step:
            idle = without_targets(packed([[lengths.index(min(lengths))]]))
            most = max(len(split(rank=rank)) for rank in range(ranks.n_ranks()))
            micro_batches += [idle] * (most - len(micro_batches))
        return Update(
            micro_batches=micro_batches,
            n_tokens=sum(lengths),
            targets=[sum(token != IGNORED for token in e.continuations[0]) for e in encoded],
            templates=[t.template for t in tagged],
            n_truncated=sum(e.truncated for e in encoded),
            draw=(tagged[0].draw.epoch, tagged[0].draw.number),
        )

    def _packed(
        self, tagged: Sequence[Tagged], pairs: Sequence[tuple[list[int], list[int]]], units: Sequence[Sequence[int]]
    ) -> MicroBatch:
        """Pack some units of an update.

        Args:
            tagged, pairs: all renderings of the update, and their contexts and answers.
        """
        places = [i for unit in units for i in unit]
        weights = [tagged[i].weight for i in places]
        return pack_answers(
            [pairs[i] for i in places],
            self.ragged,
            self._places(units),
            [self._offered(tagged[i]) for i in places] if self.needs.aligned else None,
            shown=None if self.needs.losses_of is None else Shown(places, self.needs.losses_of, weights),
            own=[self._own(tagged[i], pairs[i][0]) for i in places] if self.needs.own else None,
        )

    def _units(self, tagged: Sequence[Tagged]) -> list[list[int]]:
        """Return the renderings of an update by their places, those in one list that must stay in one micro-batch."""
        if not self.needs.weighed:
            return [[i] for i in range(len(tagged))]
        units: dict[int, list[int]] = {}
        for i, tag in enumerate(tagged):
            units.setdefault(tag.row if self.needs.paired else tag.draw.slot, []).append(i)
        return list(units.values())

    def _places(self, units: Sequence[Sequence[int]]) -> list[tuple[int, int]] | None:
        """Return the block and the template of each rendering; the units are blocks if paired, else templates."""
        if not self.needs.weighed:
            return None
        if self.needs.paired:
            return [(block, template) for block, unit in enumerate(units) for template in range(len(unit))]
        return [(0, template) for template, unit in enumerate(units) for _ in unit]

    def _encoded(self, tag: Tagged) -> Encoded:
        """Return a rendering with its right answer; of an unlabelled row, with all that it may be answered with."""
        encode = self.encoder.training if tag.row < self.n_labelled else self.encoder.asking
        return encode(self.sampler.template(tag.draw, tag.template), self.examples[tag.row], self.shots.of(tag.draw, tag.row))

    def _comparable(self, tagged: Sequence[Tagged], encoded: Sequence[Encoded]) -> tuple[list[Tagged], list[Encoded]]:
        """Leave unlabelled rows out whose answers have other tokens under another template; of the rest none is trained on.

        What is predicted where their answers would begin is compared.
        """
        answers: dict[int, list[list[list[int]]]] = {}
        for tag, one in zip(tagged, encoded, strict=True):
            answers.setdefault(tag.row, []).append(one.continuations)
        kept = []
        for tag, one in zip(tagged, encoded, strict=True):
            if tag.row < self.n_labelled:
                kept.append((tag, one))
            elif all(own == answers[tag.row][0] for own in answers[tag.row]):
                kept.append((tag, replace(one, continuations=[[IGNORED]])))
        return [tag for tag, _ in kept], [one for _, one in kept]

    def _offered(self, tag: Tagged) -> list[str]:
        return answers_under(self.sampler.template(tag.draw, tag.template), self.examples[tag.row], self.encoder.answer)

    def _own(self, tag: Tagged, context: Sequence[int]) -> list[bool]:
        template = self.sampler.template(tag.draw, tag.template)
        return of_template(self.encoder, template, self.examples[tag.row], self.shots.of(tag.draw, tag.row), context)
