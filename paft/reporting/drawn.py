"""What a training drew of its pool: how often each wording and layout was shown, early and late."""

from collections.abc import Mapping
from typing import NamedTuple

from paft.data.tasks.base import Task
from paft.prompts import PromptPool
from paft.prompts.sampling import families_of
from paft.reporting.results import DrawnRecord

_MOST_FAMILIES = 12  # rows of a table


class DrawnRow(NamedTuple):
    """The share of the renderings that a family had in each fifth of the training, in percent."""

    name: str
    shares: list[float]


def drawn_record(counts: Mapping[tuple[int, int], int], n_parts: int, pool: PromptPool, task: Task) -> DrawnRecord | None:
    """Return what was drawn; None if there was nothing to choose from.

    Args:
        counts: the renderings by part of the training and template.
    """
    if len(pool.templates) < 2 or not counts:
        return None
    of_templates = [sum(counts.get((part, i), 0) for part in range(n_parts)) for i in range(len(pool.templates))]
    by_family: list[dict[str, list[int]]] = []
    for names in families_of(pool, task.choice_fields):
        of = {name: [0] * n_parts for name in dict.fromkeys(names)}
        for (part, template), n in sorted(counts.items()):
            of[names[template]][part] += n
        by_family.append(of)
    return DrawnRecord(
        templates=sum(n > 0 for n in of_templates),
        effective_templates=round(sum(of_templates) ** 2 / sum(n * n for n in of_templates), 2),
        wordings=by_family[0],
        layouts=by_family[1],
    )


def drawn_tables(drawn: DrawnRecord) -> list[tuple[str, list[DrawnRow], int]]:
    """Return a table for wordings and one for layouts: what it is of, those shown most at the end, and how many there are.

    There is none where there is a single family.
    """
    tables = []
    for key, families in (("wording", drawn.wordings), ("layout", drawn.layouts)):
        totals = [max(1, sum(part)) for part in zip(*families.values(), strict=True)]
        rows = [
            DrawnRow(name, [100 * n / total for n, total in zip(parts, totals, strict=True)])
            for name, parts in families.items()
        ]
        rows.sort(key=lambda row: row.shares[::-1], reverse=True)
        tables += [(key, rows[:_MOST_FAMILIES], len(rows))] if len(rows) > 1 else []
    return tables
