"""Splitting a set of templates into train, validation and test."""

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from paft.prompts.template import PromptTemplate
from paft.runtime.errors import InputError

SplitWay = Literal["random", "generator", "family"]

_TEST, _VALIDATION = 1 / 9, 1 / 8  # 8:1 (paper, section 4.1); an eighth of train for validation
_TRIALS = 2000
FEWEST_LAYOUTS = 6


def split(templates: Sequence[PromptTemplate], way: SplitWay, seed: int) -> Mapping[str, list[PromptTemplate]]:
    """Split templates 8:1 into train and test, and cut validation from train in the same way.

    The families of a small set do not part it evenly: a test or validation set of less than half its share is refused.

    Args:
        way: random: any prompt may fall anywhere, as in the paper. generator: all prompts of one source fall on one side.
            family: a wording or layout family falls on one side; templates between the sides are dropped. Where there are fewer
            than six layouts, as in tasks of one field, wordings alone are held out.

    Returns train, validation, test and dropped. Raises InputError if a split would be too small.
    """
    layouts = len({t.layout for t in templates}) >= FEWEST_LAYOUTS
    rest, test, dropped = _held_out(templates, way, layouts, _TEST, random.Random(f"{seed} test"))
    train, validation, between = _held_out(rest, way, layouts, _VALIDATION, random.Random(f"{seed} validation"))
    found = {"train": train, "validation": validation, "test": test, "dropped": dropped + between}
    least = {"train": 1, "validation": len(templates) // 18, "test": len(templates) // 18}  # half of a ninth
    for name, n in least.items():
        if len(found[name]) < max(1, n):
            left = f"only {len(found[name])} are" if found[name] else "nothing is"
            raise InputError(
                f"--split {way}: {left} left for {name} of {len(templates)} prompts"
                f"{_advice(templates, way)}; use more prompts or --split random."
            )
    return found


def _advice(templates: Sequence[PromptTemplate], way: SplitWay) -> str:
    if way == "generator":
        return f" by {len({t.source for t in templates})} generators (three are needed)"
    if way == "family":
        return f" in {len({t.wording for t in templates})} wording and {len({t.layout for t in templates})} layout families"
    return ""


_Parts = tuple[list[PromptTemplate], list[PromptTemplate], list[PromptTemplate]]


def _held_out(templates: Sequence[PromptTemplate], way: SplitWay, layouts: bool, share: float, rng: random.Random) -> _Parts:
    """Return (what stays, what is held out, what falls between)."""
    wanted = max(1, round(share * len(templates)))
    if way == "random":
        held = set(rng.sample(range(len(templates)), min(wanted, len(templates))))
        return [t for i, t in enumerate(templates) if i not in held], [templates[i] for i in sorted(held)], []
    if way == "generator":
        best = min(
            (_some({t.source for t in templates}, rng) for _ in range(_TRIALS)), key=lambda s: _off(templates, s, wanted)
        )
        return [t for t in templates if t.source not in best], [t for t in templates if t.source in best], []
    trials = (_by_family(templates, layouts, rng) for _ in range(_TRIALS))
    return min(trials, key=lambda parts: _cost(parts, wanted))


def _some(names: set[str], rng: random.Random) -> set[str]:
    """Draw some of the names, but not all."""
    return set(rng.sample(sorted(names), rng.randint(1, max(1, len(names) - 1)))) if len(names) > 1 else set()


def _off(templates: Sequence[PromptTemplate], held: set[str], wanted: int) -> int:
    return abs(sum(t.source in held for t in templates) - wanted)


def _by_family(templates: Sequence[PromptTemplate], with_layouts: bool, rng: random.Random) -> _Parts:
    """Draw wording families to hold out, and the layout families that go with them."""
    wordings = _some({t.wording for t in templates}, rng)
    if not with_layouts:
        return [t for t in templates if t.wording not in wordings], [t for t in templates if t.wording in wordings], []
    # Layouts that stand mostly in held-out wordings go with them: fewer templates fall between.
    inside: dict[str, list[bool]] = {}
    for t in templates:
        inside.setdefault(t.layout, []).append(t.wording in wordings)
    bar = rng.uniform(0.2, 0.8)
    layouts = {name for name, found in inside.items() if sum(found) >= bar * len(found)}
    parts: _Parts = ([], [], [])
    for t in templates:
        sides = {t.wording in wordings, t.layout in layouts}
        parts[2 if len(sides) == 2 else int(sides.pop())].append(t)
    return parts


def _cost(parts: _Parts, wanted: int) -> float:
    """Prefer few dropped templates and as many held out as are wanted; an empty side is no split."""
    stays, held, between = parts
    if not stays or not held:
        return float("inf")
    # One too few costs as much as three that are dropped; one too many as much as one.
    return len(between) + (3 * (wanted - len(held)) if len(held) < wanted else len(held) - wanted)
