"""The plan of a run, printed before it starts, so that nobody learns after a night that it saw 36 of 400 templates."""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from paft.config import TrainConfig
from paft.data.encode import Encoder
from paft.data.load import Inputs
from paft.data.updates import UpdatePlan
from paft.model.base import device_of
from paft.model.memory import training_memory

_SAMPLE = 64  # training renderings that are tokenised to estimate tokens


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    wordings counts the templates that are no near-copies of another; tokens are real tokens of all epochs, estimated from
    a sample of renderings, of which longest is the longest; memory_bytes is an estimate too, of each device. search_renderings
    bounds what a search for one prompt may score before.
    """

    train_examples: int
    validation_examples: int
    test_examples: int
    updates: int
    draws: int
    templates: int
    wordings: int
    templates_seen: int
    tokens: int
    longest: int
    devices: int
    memory_bytes: int
    search_renderings: int
    test_renderings: int

    def to_dict(self) -> dict[str, int]:
        """Return the plan in plain types."""
        return asdict(self)

    def text(self, folder: Path) -> str:
        """Return the plan as lines for a person."""
        lines = [f"Run {folder}"]
        if self.updates:
            looked_for = f", looked for with {self.search_renderings:,} renderings" if self.search_renderings else ""
            each = f", on each of {self.devices} devices" if self.devices > 1 else ""
            lines += [
                f"  train     {self.train_examples:,} examples, {self.updates:,} updates, about {self.tokens:,} tokens "
                f"(longest of a sample: {self.longest:,})",
                f"  prompts   {self.draws:,} draws show {self.templates_seen} of {self.templates} templates, "
                f"{self.wordings} different in wording{looked_for}",
                f"  memory    about {self.memory_bytes / 2**30:.1f} GiB for training{each}",
            ]
        lines.append(f"  test      {self.test_examples:,} examples under each prompt, {self.test_renderings:,} renderings")
        return "\n".join(lines)


def make_plan(
    config: TrainConfig, inputs: Inputs, encoder: Encoder, updates: UpdatePlan | None, without_weights: nn.Module
) -> Plan:
    """Count what a run is going to do."""
    examples = inputs.examples
    draws = seen = count = tokens = longest = memory = 0
    if updates is not None and inputs.train is not None:
        draws, seen = updates.templates_seen()
        count = updates.updates_per_epoch * config.T
        lengths = []
        for i, example in enumerate(examples.train[:_SAMPLE]):
            encoded = encoder.training(inputs.train.templates[i % len(inputs.train.templates)], example)
            lengths.append(len(encoded.context) + len(encoded.continuations[0]))
        longest = max(lengths)
        of_a_device = -(-config.examples_per_update // config.trainer.devices)
        largest = min(config.trainer.micro_batch_tokens, of_a_device * longest)
        device = device_of(config.trainer.accelerator)
        memory = training_memory(config.model, without_weights, device, max(largest, longest), longest)
        tokens = round(sum(lengths) / len(lengths) * len(examples.train) * config.T)
    return Plan(
        train_examples=len(examples.train),
        validation_examples=min(len(examples.validation), config.validation.examples),
        test_examples=len(examples.test),
        updates=count,
        draws=draws,
        templates=0 if inputs.train is None else len(inputs.train.templates),
        wordings=0 if inputs.train is None else inputs.train.n_wordings,
        templates_seen=seen,
        tokens=tokens,
        longest=longest,
        devices=config.trainer.devices,
        memory_bytes=memory,
        search_renderings=config.method.budget or 0 if config.method.searches else 0,
        test_renderings=len(inputs.test.templates) * len(examples.test),
    )
