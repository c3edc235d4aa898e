"""The plan of a run: what it is going to do, printed before it starts and kept in its results."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Plan(BaseModel):
    """What a run is going to do.

    wordings counts the templates that are no near-copies of another; tokens are real tokens of all epochs, estimated from
    a sample of renderings, of which longest is the longest; memory_bytes is an estimate too, of each device. search_renderings
    bounds what a search for one prompt may score before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def text(self, folder: Path) -> str:
        """Return the plan as lines for a person.

        Args:
            folder: of the run.
        """
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
