"""The plan of a run, which is printed before it starts and saved in its results."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Plan(BaseModel):
    """The size of a run, before it starts: its examples, updates, prompts, tokens, renderings and memory.

    draws is the number of templates drawn in training, templates_seen the number of different ones among them, and
    layouts_seen how many different layouts of these it shows where layouts are mutated, else 0. wordings counts
    the templates that are not near-copies of another. tokens are the real tokens of all epochs (no padding), estimated from a
    sample of renderings; longest is the number of tokens of the longest in the sample. memory_bytes is estimated too, for each
    device. compared is the share of the answers of the first updates that stand for the same option, in the same tokens, under
    all of their templates, which alone loss=consistent compares; None with another loss. search_renderings is how many a search
    for one prompt before training scores at most, 0 where there is none.
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
    layouts_seen: int = 0
    tokens: int
    longest: int
    compared: float | None = None
    devices: int
    memory_bytes: int
    search_renderings: int
    test_renderings: int

    def text(self, folder: Path, advice: Sequence[str] = ()) -> str:
        """Return the plan as lines of text for the terminal.

        Args:
            folder: the run's.
            advice: what to type where settings do not fit the run.
        """
        lines = [f"Run {folder}"]
        if self.updates:
            search = f", looked for with at most {self.search_renderings:,} renderings" if self.search_renderings else ""
            layouts = f", in {self.layouts_seen:,} layouts" if self.layouts_seen else ""
            per_device = f", on each of {self.devices} devices" if self.devices > 1 else ""
            lines += [
                f"  train     {self.train_examples:,} examples, {self.updates:,} updates, about {self.tokens:,} tokens "
                f"(longest of a sample: {self.longest:,})",
                f"  prompts   {self.draws:,} draws show {self.templates_seen} of {self.templates} templates, "
                f"{self.wordings} different in wording{layouts}{search}",
                f"  memory    about {self.memory_bytes / 2**30:.1f} GiB for training{per_device}",
            ]
            if self.compared is not None:
                lines.append(
                    f"  loss      {100 * self.compared:.0f}% of the answers of a sample can be compared: the same option, and "
                    "the same tokens, under all their templates"
                )
        lines += [f"  try       {each}" for each in advice]
        lines.append(f"  test      {self.test_examples:,} examples under each prompt, {self.test_renderings:,} renderings")
        return "\n".join(lines)
