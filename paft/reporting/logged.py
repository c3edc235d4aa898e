"""What the logs of a run hold, whichever logger keeps them: its updates, and the numbers of its results."""

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any

from paft.reporting.results import Results
from paft.runtime.mappings import flat

# What samplers and losses log of themselves, beside the loss.
ACTED = {
    "effective_pool": "templates that are drawn from",
    "weight": "what an update's examples count, where what is drawn more often counts less",
    "probe_margin": "loss of the chosen candidate less the mean of all, where several were tried",
    "effective_templates": "templates of an update that count",
    "disagreement": "disagreement of an answer's predictions; nothing where they cannot be compared",
    "perturbation": "loss with moved embeddings less that without",
}
_SECTIONS = (
    "robustness",
    "beside",
    "tail",
    "sensitivity",
    "uncertainty",
    "consensus",
    "extra_measures",
    "test_prompts_seen",
    "test_rows_left_out",
)


def earlier_updates(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the updates of a run's CSV logs as (step, metrics); of an update that was repeated only the last is returned.

    A line that a kill cut off is skipped.
    """
    rows: dict[tuple[Any, ...], tuple[int, dict[str, float]]] = {}
    for path in sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                with suppress(KeyError, TypeError, ValueError):
                    metrics = {name: float(value) for name, value in row.items() if value != ""}
                    step = int(metrics.pop("step"))
                    rows[step, *metrics] = step, metrics
    return list(rows.values())


def acted(folder: Path, total_updates: int, n_parts: int) -> dict[str, list[float | None]]:
    """Return what the sampler and the loss of a run did, by its logs: the mean of each figure in each part of the updates.

    A zero margin or perturbation is that of an update in which nothing was tried or moved, and does not count. A figure without
    a value in a part is None there.
    """
    found: dict[str, list[list[float]]] = {}
    for step, metrics in earlier_updates(folder):
        for name in ACTED.keys() & metrics.keys():
            parts = found.setdefault(name, [[] for _ in range(n_parts)])
            if metrics[name] == 0 and name in ("probe_margin", "perturbation"):
                continue
            parts[min(n_parts - 1, step * n_parts // total_updates)].append(metrics[name])
    return {name: [sum(own) / len(own) if own else None for own in found[name]] for name in ACTED if name in found}


def numbers_of(results: Results) -> dict[str, float]:
    """Return the numbers of results under names with slashes: robustness/mean, uncertainty/mean/low ..."""
    content = results.model_dump()
    values = flat({section: content[section] or {} for section in _SECTIONS}, separator="/")
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
