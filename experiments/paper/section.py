"""A section of the paper's report: a table or figure, the runs it was made from, and the commands that make these."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from experiments.paper.commands import commands
from paft.reporting.page import Section, bullets
from paft.reporting.runs import FinishedRun, TableRow


@dataclass
class PaperSection(Section):
    """A section of the paper's report; without runs it shows the commands that would fill it."""

    recipe: str = ""  # that makes its runs; empty where it needs none of its own
    commands: list[str] = field(default_factory=list)
    runs: list[FinishedRun] = field(default_factory=list)
    curve: dict[str, TableRow] = field(default_factory=dict)  # what is drawn over the size of the pool, by size

    def add_runs(self, runs: Iterable[FinishedRun]) -> None:
        """Note what runs a row was made from."""
        self.runs.extend(runs)
        self.commands = commands(self.recipe, self.runs)

    def lines(self) -> list[str]:
        """Return the section as Markdown."""
        if not self.rows and not self.figures:
            return [f"## {self.title}", "", " ".join(["No runs.", *(f"`{command}`" for command in self.commands)]), ""]
        made_by = [f"Runs: {', '.join(f'`{command}`' for command in self.commands)}"] if self.commands and self.rows else []
        lines = super().lines()
        return lines if not made_by else [*(lines[:-1] if self.notes else lines), *bullets(made_by)]
