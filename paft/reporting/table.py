"""Tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = ("mean", "std", "min", "max", "spread", "top")
_HEADINGS = {"min": "worst", "max": "best", "top": "Top"}


def print_robustness(rows: Mapping[str, Mapping[str, Any]], title: str, notes: Sequence[str] = ()) -> None:
    """Print one row of robustness (the dict of results.json) per run, in percent."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(_HEADINGS.get(column, column), justify="right")
    for label, row in rows.items():
        table.add_row(label, *("-" if row[c] is None else f"{100 * row[c]:.1f}" for c in _COLUMNS))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def coverage(robustness: Mapping[str, Any], chance: float, threshold: float | None) -> str:
    """Say what the numbers were taken over."""
    top = "" if threshold is None else f" Top: prompts at or above {100 * threshold:.0f}."
    return (
        f"Percent, over {robustness['n_prompts']} test prompts x {robustness['n_examples']} test examples; "
        f"chance is {100 * chance:.1f}.{top}"
    )


def certainty(uncertainty: Mapping[str, Any] | None) -> str:
    """Say how sure the numbers are (the dict of results.json)."""
    if uncertainty is None:
        return "Fewer than ten prompts or independent examples, or all answers alike: no interval."
    mean, low, high = (100 * uncertainty["mean"][key] for key in ("value", "low", "high"))
    return (
        f"For other prompts and examples of the kind: mean {mean:.1f}, 95% interval [{low:.1f}, {high:.1f}]; std less the "
        f"examples' noise {100 * uncertainty['std']:.1f}; worst prompt, chosen on others, {100 * uncertainty['worst']:.1f}."
    )
