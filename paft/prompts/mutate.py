"""Layout mutations: a template's parts in another order and another style, with the same words and fields.

The paper draws among prompts that are there; a mutation makes another layout of one, so that training sees more layouts than
anybody has written. Fields are never touched. Where options change places, the gold answer and its letter follow. A template
that says where something stands ("the text above") keeps the order of its parts.
"""

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, get_args

from paft.prompts.parts import FIELD, Part, Parts, read_parts
from paft.prompts.pool import Answer
from paft.prompts.template import PromptTemplate

Mutation = Literal["order", "options_first", "labels", "separators", "casing", "option_style", "option_order"]
MUTATIONS: tuple[Mutation, ...] = get_args(Mutation)

_LABELS = ("{}: ", "{} - ", "{} = ", "[{}] ", "({}) ", "<{}> ", "**{}:** ", "{}:\n", "{}\n", "### {}\n", "[{}]\n")
_SEPARATORS = ("\n", "\n\n", "\n\n\n", "\n---\n", "\n***\n", "\n\n=====\n\n")
_LETTER_STYLES = ("{}. ", "{}) ", "({}) ", "[{}] ", "{}: ", "{} - ", "{} = ", "**{}** ", "{}.) ")
_BULLETS = ("- ", "* ", "• ", "+ ", "> ", "~ ", "")
_IN_ONE_LINE = (" | ", " / ", "; ", " -- ")
_CASES: tuple[Callable[[str], str], ...] = (str.upper, str.lower, str.capitalize)  # of each word
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_PLACE = re.compile(
    r"\b(above|below|following|follows|followed|preceding|preceded|just read|in between|between the|"
    r"(?:last|first|next|previous) (?:line|part|paragraph)|at the (?:top|bottom|end|beginning))\b",
    re.I,
)


@dataclass(frozen=True)
class Mutator:
    """Makes layouts of templates at random, by the kinds of mutation that it is given.

    Args:
        kinds: order puts the parts into another order, in which the options never come before the text that they are about;
            options_first lets them. labels, separators, casing and option_style write the parts in another style: what marks a
            label and whether it stands above its field, what stands between parts, upper and lower case, what marks options.
            option_order changes the places of the options, whose marks stay.
        choice_fields: the fields that are options, in the order of the choices.
        text_field: the field that the options are about; None: the first one of each template.
        answer: what prompts ask for; a letter follows its option.
        choices_vary: whether rows differ in their number of options, so that a template may show only the first.
    """

    kinds: Collection[Mutation]
    choice_fields: tuple[str, ...]
    text_field: str | None
    answer: Answer
    choices_vary: bool = False

    def can_change(self, template: PromptTemplate) -> bool:
        """Return whether a template has parts that can be changed."""
        return read_parts(template, self.choice_fields) is not None

    def keeps_order(self, template: PromptTemplate) -> bool:
        """Return whether a template says where its parts stand, so that these are not put into another order."""
        return _PLACE.search(template.text) is not None

    def mutated(self, template: PromptTemplate, rng: random.Random) -> PromptTemplate:
        """Return a template in another layout; the template itself where it has no parts, or where nothing changed."""
        parts = read_parts(template, self.choice_fields)
        if parts is None:
            return template
        letters = ""
        for kind in MUTATIONS:  # each is drawn in any case, so that one kind more changes nothing about the others
            own = random.Random(rng.getrandbits(64))
            if kind not in self.kinds or kind == "options_first":
                continue
            if kind == "order":
                parts = parts if self.keeps_order(template) else self._ordered(parts, template, own)
            elif own.random() < 0.5:
                continue
            elif kind == "option_order":
                parts, letters = self._options_moved(parts, own)
            else:
                parts = _STYLES[kind](parts, own)
        if parts.text == template.text:
            return template
        mark = sha256(parts.text.encode()).hexdigest()[:6]
        return replace(template, text=parts.text, id=f"{template.id}~{mark}", layout="mutated", letters=letters)

    def _ordered(self, parts: Parts, template: PromptTemplate, rng: random.Random) -> Parts:
        """Return the parts in an order that is drawn from all that are allowed."""
        text = self.text_field or next((name for name in template.field_order if name not in self.choice_fields), None)
        options = next((part for part in parts.parts if _has_options(part, self.choice_fields)), None)
        about = next((part for part in parts.parts if text in part.fields), None)
        order = list(parts.parts)
        while True:
            rng.shuffle(order)
            if "options_first" in self.kinds or options is None or about is None or order.index(about) < order.index(options):
                return replace(parts, parts=tuple(order))

    def _options_moved(self, parts: Parts, rng: random.Random) -> tuple[Parts, str]:
        """Return the parts with the options in other places, and the letters of the choices ("": the usual ones)."""
        options = next((part for part in parts.parts if _has_options(part, self.choice_fields)), None)
        lettered = self.answer == "letter"
        if options is None or (lettered and not (self._shows_the_first(options.fields) and "".join(options.marks))):
            return parts, ""  # which letter stands for which option is not known
        shown = list(options.fields)
        rng.shuffle(shown)
        instead = dict(zip(options.fields, shown, strict=True))

        def move(text: str) -> str:
            return FIELD.sub(lambda match: f"{{{instead[match[1]]}}}", text)

        moved = replace(options, text=move(options.text), body=move(options.body), fields=tuple(shown))
        letters = "".join(options.marks[shown.index(name)] for name in options.fields) if lettered else ""
        return _replaced(parts, options, moved), "" if letters == "".join(options.marks) else letters

    def _shows_the_first(self, fields: tuple[str, ...]) -> bool:
        """Return whether these are the choices in their order, all of them or, where rows differ in their number, the first."""
        return fields == self.choice_fields[: len(fields)] and (self.choices_vary or len(fields) == len(self.choice_fields))


def _has_options(part: Part, choice_fields: Collection[str]) -> bool:
    return any(name in choice_fields for name in part.fields)


def _replaced(parts: Parts, old: Part, new: Part) -> Parts:
    return replace(parts, parts=tuple(new if part is old else part for part in parts.parts))


def _labels(parts: Parts, rng: random.Random) -> Parts:
    """Write all labels in one style."""
    style = rng.choice(_LABELS)

    def styled(part: Part) -> Part:
        if not part.label:
            return part
        lead = style.format(part.label)
        if part.kind == "options" and "\n" in part.body:
            lead = lead.rstrip() + "\n"  # the first option has a line of its own, as the others do
        return replace(part, lead=lead, text=lead + part.body)

    return replace(parts, parts=tuple(map(styled, parts.parts)))


def _separators(parts: Parts, rng: random.Random) -> Parts:
    """Put one separator between all parts."""
    separator = rng.choice(_SEPARATORS)
    return replace(parts, separators=(separator,) * len(parts.separators))


def _casing(parts: Parts, rng: random.Random) -> Parts:
    """Write all words of the template in one case; single letters may stand for options and stay."""
    case = rng.choice(_CASES)

    def cased(text: str) -> str:
        return _WORD.sub(lambda match: case(match[0]) if len(match[0]) > 1 else match[0], text)

    def of_part(part: Part) -> Part:
        if part.kind == "text":
            return replace(part, text=cased(part.text))
        lead = cased(part.lead)
        return replace(part, lead=lead, label=cased(part.label), text=lead + part.text[len(part.lead) :])

    return replace(parts, parts=tuple(map(of_part, parts.parts)), cue=cased(parts.cue))


def _option_style(parts: Parts, rng: random.Random) -> Parts:
    """Mark the options in another way, on lines of their own or in one line."""
    options = next((part for part in parts.parts if part.marks), None)
    if options is None or any(len(word) > 1 for word in re.findall(r"\w+", FIELD.sub("", options.body))):
        return parts  # marks of several letters, as "Option A:", are words, which stay
    lettered = options.marks[0] != ""
    style = rng.choice(_LETTER_STYLES if lettered else _BULLETS)
    inline = options.lead.strip() == "" or options.lead.rstrip().endswith(":")  # else a heading, which has a line of its own
    lines = rng.random() < 0.7 or not inline
    separator = "\n" if lines else rng.choice(_IN_ONE_LINE)
    marks = [style.format(mark) if lettered else style if lines else "" for mark in options.marks]
    body = separator.join(f"{mark}{{{name}}}" for mark, name in zip(marks, options.fields, strict=True))
    lead = options.lead.rstrip()
    lead += ("\n" if lines else " ") if lead else ""
    return _replaced(parts, options, replace(options, lead=lead, body=body, text=lead + body))


_STYLES: dict[str, Callable[[Parts, random.Random], Parts]] = {
    "labels": _labels,
    "separators": _separators,
    "casing": _casing,
    "option_style": _option_style,
}
