"""Splitting a set of templates into train, validation and test."""

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from paft.prompts.template import PromptTemplate
from paft.runtime.errors import InputError

SplitWay = Literal["random", "generator", "family"]

_TEST, _VALIDATION = 1 / 9, 1 / 8  # train and test 8:1 (paper, section 4.1); validation is an eighth of train
_TRIALS = 2000
FEWEST_LAYOUTS = 6


def split(templates: Sequence[PromptTemplate], way: SplitWay, seed: int) -> Mapping[str, list[PromptTemplate]]:
    """Split templates 8:1 into train and test, then take an eighth of train as validation.

    The families of a small set cannot always be divided evenly. A test or validation set of less than half its share is
    refused.

    Args:
        way: random, as in the paper: a prompt may fall on any side. generator: all prompts of a source fall on one side.
            family: all prompts of a wording family fall on one side, and all of a layout family; prompts whose two families
            fall on different sides are dropped. Where there are fewer than six layouts, as in tasks of one field, only
            wording families are kept together.

    Returns train, validation, test and dropped, by name. Raises InputError if a split is too small.
    """
    layouts = len({t.layout for t in templates}) >= FEWEST_LAYOUTS
    rest, test, dropped = _held_out(templates, way, layouts, _TEST, random.Random(f"{seed} test"))
    train, validation, between = _held_out(rest, way, layouts, _VALIDATION, random.Random(f"{seed} validation"))
    splits = {"train": train, "validation": validation, "test": test, "dropped": dropped + between}
    least = {"train": 1, "validation": len(templates) // 18, "test": len(templates) // 18}  # half of a ninth
    for name, n in least.items():
        if len(splits[name]) < max(1, n):
            how_many = f"only {len(splits[name])} are" if splits[name] else "nothing is"
            raise InputError(
                f"--split {way}: {how_many} left for {name} of {len(templates)} prompts"
                f"{_advice(templates, way)}; use more prompts or --split random."
            )
    return splits


def _advice(templates: Sequence[PromptTemplate], way: SplitWay) -> str:
    """Return a phrase for an error: the number of generators or families that there were to split by."""
    if way == "generator":
        return f" by {len({t.source for t in templates})} generators (three are needed)"
    if way == "family":
        return f" in {len({t.wording for t in templates})} wording and {len({t.layout for t in templates})} layout families"
    return ""


_Parts = tuple[list[PromptTemplate], list[PromptTemplate], list[PromptTemplate]]


def _held_out(templates: Sequence[PromptTemplate], way: SplitWay, layouts: bool, share: float, rng: random.Random) -> _Parts:
    """Return (what stays, what is held out, what is dropped because its families fall on different sides)."""
    n_held = max(1, round(share * len(templates)))
    if way == "random":
        held = set(rng.sample(range(len(templates)), min(n_held, len(templates))))
        return [t for i, t in enumerate(templates) if i not in held], [templates[i] for i in sorted(held)], []
    if way == "generator":
        trials = (_draw({t.source for t in templates}, rng) for _ in range(_TRIALS))
        best = min(trials, key=lambda sources: abs(sum(t.source in sources for t in templates) - n_held))
        return [t for t in templates if t.source not in best], [t for t in templates if t.source in best], []
    return min((_by_family(templates, layouts, rng) for _ in range(_TRIALS)), key=lambda parts: _cost(parts, n_held))


def _draw(names: set[str], rng: random.Random) -> set[str]:
    """Return some of the names at random, but not all; none of a single one."""
    return set(rng.sample(sorted(names), rng.randint(1, max(1, len(names) - 1)))) if len(names) > 1 else set()


def _by_family(templates: Sequence[PromptTemplate], with_layouts: bool, rng: random.Random) -> _Parts:
    """Draw wording families to hold out, and with them the layout families that occur mostly in these."""
    wordings = _draw({t.wording for t in templates}, rng)
    if not with_layouts:
        return [t for t in templates if t.wording not in wordings], [t for t in templates if t.wording in wordings], []
    # A layout that occurs mostly in held-out wordings is held out too, so that fewer templates are dropped.
    held_by_layout: dict[str, list[bool]] = {}
    for t in templates:
        held_by_layout.setdefault(t.layout, []).append(t.wording in wordings)
    threshold = rng.uniform(0.2, 0.8)
    layouts = {name for name, held in held_by_layout.items() if sum(held) >= threshold * len(held)}
    parts: _Parts = ([], [], [])
    for t in templates:
        sides = {t.wording in wordings, t.layout in layouts}
        parts[2 if len(sides) == 2 else int(sides.pop())].append(t)
    return parts


def _cost(parts: _Parts, n_held: int) -> float:
    """Return the cost of a split: low for few dropped templates and about n_held held out, infinite for an empty side."""
    stays, held, dropped = parts
    if not stays or not held:
        return float("inf")
    # One held out too few costs as much as three dropped templates, one too many as much as one.
    return len(dropped) + (3 * (n_held - len(held)) if len(held) < n_held else len(held) - n_held)
