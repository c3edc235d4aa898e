"""Perturbing prompts, to measure Con: the accuracy under adversarial prompts.

Paper, section 4.1: "paraphrases, misspellings or other modifications". Fields, option letters and doubled braces never
change. Everything is a function of the seed.
"""

import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rapidfuzz import fuzz

from paft.prompts.pool import PromptPool, choices_among
from paft.prompts.template import PromptTemplate
from paft.runtime.errors import InputError

Kind = Literal["typos", "case", "punctuation", "whitespace", "reorder", "distractor"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TYPO_RATE = 0.15  # of the words of four letters and more
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_DISTRACTORS = (
    "The office closes at half past five today.",
    "My sister's cat has learnt to open the kitchen door.",
    "By the way, it has been raining here since Tuesday.",
    "Room 14 has been moved to the second floor.",
    "I still owe you for the coffee, I have not forgotten.",
    "The last train was seven minutes late again.",
    "Somebody left a blue umbrella in the hall.",
    "There are three bicycles in the cellar and none of them works.",
    "Please water the plants on Friday.",
    "This page was printed on recycled paper.",
    "The neighbours are repainting their fence in green.",
    "My old teacher used to hum while reading.",
)
_PIECE = re.compile(r"(\{\{|\}\}|\{\w+\})")  # doubled braces and fields, which never change
_BEGINS_WITH_FIELD = re.compile(r"^[^\w{]*\{(\w+)\}")
_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True)
class Perturbed:
    """A perturbed prompt, and how it was made."""

    template: PromptTemplate
    kind: Kind  # of the perturbation
    of: str  # id of the original prompt
    strength: float  # 1 - similarity of the two texts, from 0 to 1


def perturb(pool: PromptPool, kinds: Sequence[Kind], n: int, seed: int) -> list[Perturbed]:
    """Return n different perturbed prompts of a pool: kinds take turns, and no prompt is drawn again before all have been.

    Raises InputError if n different prompts cannot be made.
    """
    rng = random.Random(f"perturb {seed}")
    deck: list[PromptTemplate] = []
    seen = {t.text for t in pool.templates}
    perturbed: list[Perturbed] = []
    for attempt in range(20 * n):
        if len(perturbed) == n:
            break
        deck = deck or rng.sample(pool.templates, len(pool.templates))
        # Kinds take turns. Every 4 * n attempts the turn shifts by one, because not every kind can change every prompt.
        template, kind = deck.pop(), kinds[(len(perturbed) + attempt // (4 * n)) % len(kinds)]
        text = _CHANGES[kind](template.text, rng)
        if text in seen:
            continue  # this kind has nothing to change in this prompt, or repeats an earlier result
        seen.add(text)
        strength = round(1 - fuzz.ratio(template.text, text) / 100, 3)
        new = PromptTemplate(text, f"{template.id}-{kind}-{seed}", f"{template.source} perturbed", kind, kind)
        perturbed.append(Perturbed(new, kind, template.id, strength))
    if len(perturbed) < n:
        raise InputError(
            f"Only {len(perturbed)} of {n} different perturbed prompts could be made; give a larger pool or more kinds."
        )
    return perturbed


def changed(text: str, kind: Kind, rng: random.Random) -> str:
    """Return a text perturbed by one kind; the text itself if that kind has nothing to change in it."""
    for _ in range(20):  # changes are drawn at random, and sometimes none is
        if (new := _CHANGES[kind](text, rng)) != text:
            return new
    return text


def _outside_fields(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to the text between the fields."""
    return "".join(piece if i % 2 else change(piece) for i, piece in enumerate(_PIECE.split(text)))


def _neighbours(letter: str) -> str:
    """Return the keys beside a letter; a letter that has none is its own neighbour."""
    row = next((row for row in _KEYBOARD if letter in row), letter)
    column = row.index(letter)
    return row[max(column - 1, 0) : column] + row[column + 1 : column + 2] or letter


def _typos(text: str, rng: random.Random) -> str:
    """Misspell words: swap two letters, or drop, double or replace one by a neighbour on the keyboard."""

    def misspell(match: re.Match[str]) -> str:
        word = match[0]
        if rng.random() >= _TYPO_RATE:
            return word
        i = rng.randrange(1, len(word) - 1)
        near = rng.choice(_neighbours(word[i].lower()))
        variants = (word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:])
        return rng.choice((*variants, word[:i] + near + word[i + 1 :]))

    return _outside_fields(text, lambda piece: _WORD.sub(misspell, piece))


def _case(text: str, rng: random.Random) -> str:
    """Change the case of words of two letters or more: upper, lower, title or random."""
    style: Callable[[str], str] = rng.choice(
        (str.upper, str.lower, str.title, lambda w: "".join(rng.choice((c.upper(), c.lower())) for c in w))
    )
    return _outside_fields(text, lambda piece: re.sub(r"[^\W\d_]{2,}", lambda m: style(m[0]), piece))


def _punctuation(text: str, rng: random.Random) -> str:
    """Drop, double or exchange punctuation marks."""

    def replacement(match: re.Match[str]) -> str:
        return rng.choice(("", match[0] * 2, rng.choice((";", ":", ",", "!", " -"))))

    return _outside_fields(text, lambda piece: re.sub(r"[.,;:!?](?=\s|$)", replacement, piece))


def _whitespace(text: str, rng: random.Random) -> str:
    """Widen white space, or break or indent lines; the white space before the answer stays."""

    def replacement(match: re.Match[str]) -> str:
        if "\n" in match[0]:
            return rng.choice(("\n", "\n\n", "\n\n\n", "\n  ", "\n\t"))
        return rng.choice((" ", " ", "  ", "   ", "\t"))

    end = len(text.rstrip())
    return _outside_fields(text[:end], lambda piece: re.sub(r"\s+", replacement, piece)) + text[end:]


def _parts(text: str) -> tuple[list[str], str]:
    """Split a template into its movable parts and its cue, the last part.

    Parts are lines, or the sentences of a single paragraph. The options with their labels, from the first to the last, are one
    part. A field stays with a short label that stands alone on the line above it.
    """
    glue = _glue(text)
    pieces = text.split("\n") if glue == "\n" else re.split(r"(?<=[.!?])[ ](?=[A-Z{\"'])", text)
    choices = choices_among(re.findall(r"\{(\w+)\}", text))
    parts: list[str] = []
    for piece in pieces:
        if parts and _belongs_to(piece, parts[-1].rsplit("\n", 1)[-1], glue, choices):
            parts[-1] += glue + piece
        else:
            parts.append(piece)
    shown = [i for i, part in enumerate(parts) if any(f"{{{name}}}" in part for name in choices)]
    if shown:
        first, last = shown[0], shown[-1]
        parts[first : last + 1] = [glue.join(parts[first : last + 1])]
    return parts[:-1], parts[-1]


def _belongs_to(piece: str, above: str, glue: str, choices: Collection[str]) -> bool:
    """Return whether a piece belongs to the one before it: a blank line or rule, or a field below its label."""
    if not re.search(r"\w", piece):
        return True
    field = _BEGINS_WITH_FIELD.match(piece)
    if field is None or glue == " ":
        return field is not None
    return not re.search(r"\{\w+\}", above) and (field[1] in choices or len(above.split()) <= 4)


def _reorder(text: str, rng: random.Random) -> str:
    """Bring the parts before the cue into a different order."""
    parts, cue = _parts(text)
    if len(parts) < 2:
        return text
    order = list(range(len(parts)))
    while order == sorted(order):
        rng.shuffle(order)
    return _glue(text).join([*(parts[i].rstrip("\n") for i in order), cue])


def _distractor(text: str, rng: random.Random) -> str:
    """Insert a sentence that has nothing to do with the task before the cue or before one of the parts."""
    parts, cue = _parts(text)
    parts.insert(rng.randint(0, len(parts)), rng.choice(_DISTRACTORS))
    return _glue(text).join([*(part.rstrip("\n") for part in parts), cue])


def _glue(text: str) -> str:
    """Return what joins the parts of a template: a line break, or a space within a single paragraph."""
    return "\n" if text.count("\n") > 1 else " "


_CHANGES: dict[Kind, Callable[[str, random.Random], str]] = {
    "typos": _typos,
    "case": _case,
    "punctuation": _punctuation,
    "whitespace": _whitespace,
    "reorder": _reorder,
    "distractor": _distractor,
}
