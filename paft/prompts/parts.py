"""The parts of a template: instructions, fields, the block of options and the cue, each in lines of its own.

Most people write prompts as such a sequence. Its parts can be put into another order, or written in another style, without
touching a field. Where fields stand inside a sentence, a table or a dialogue, they cannot.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from paft.prompts.template import PromptTemplate

Kind = Literal["text", "field", "options"]

FIELD = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"\w+")
_LABEL_WORDS = 4  # longer ones are sentences
# A label and what marks it: "Story:", "[Story]", "**Story**:", "### Story", "STORY =", "<Story>".
_LABEL = re.compile(r"(?P<opens>[#>*_\[(<| -]*)(?P<name>\w[\w' -]*?)(?P<closes>[\])>*_ ]*[:=|>-]*[\])>*_ ]*)(?P<line>\n?)")
# The mark of a lettered option, at the end of what stands before its field: "A.", "(A)", "Option A:", "[A]", "**A** -".
_LETTER = re.compile(
    r"(?:\b(?:[Oo]ption|[Cc]hoice|[Ee]nding|[Ss]olution|[Aa]nswer) )?[(\[*<]*\b([A-Z])\b[)\].:*>=-]*(?: [-=:>]+)? *$"
)
_HEADING = re.compile(r"#+ .*|=+ .* =+|~+ .* ~+|\[.*\]|<.*>|\*\*.*\*\*|__.*__")  # a line that belongs to what stands below it
_FENCE = re.compile(r"`{3}|\"{3}|'{3}")
_CLOSES = re.compile(r"^\s*(?:</|\[/)|\bEND\b")
_BULLET = re.compile(r"(?:^|(?<=\n))[-*•+>~]* *$")


@dataclass(frozen=True)
class Part:
    """A part of a template: lines that move together.

    kind is text for an instruction. lead is what stands before a field or the options: a label with its signs ("Story:") or a
    sentence; label is the label alone, "" where the lead is none; body is the rest of the part. marks are the letters of
    the options ("" for options without letters), in the order in which they are shown; there are none where the options are not
    all written alike.
    """

    kind: Kind
    text: str
    fields: tuple[str, ...] = ()
    lead: str = ""
    label: str = ""
    body: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """A template as a sequence of parts, and a cue that always stays at the end.

    separators[i] stands behind parts[i].
    """

    parts: tuple[Part, ...]
    separators: tuple[str, ...]
    cue: str

    @property
    def text(self) -> str:
        """The template's text."""
        return "".join(part.text + gap for part, gap in zip(self.parts, self.separators, strict=True)) + self.cue


def shown_order(template: PromptTemplate, choice_fields: Collection[str]) -> tuple[str, ...]:
    """Return the order in which a template first shows its fields, the options as one, which is called "options"."""
    return tuple(dict.fromkeys("options" if name in choice_fields else name for name in template.field_order))


def read_parts(template: PromptTemplate, choice_fields: Collection[str]) -> Parts | None:
    """Return the parts of a template; None if its fields and sentences are not in lines of their own.

    A template has parts if each line holds one field or options alone, the options are one block, no field is shown twice, and
    the last line, the cue, holds no field. Templates with literal braces are formats of their own (JSON, code) and have none.

    Args:
        choice_fields: the fields that are options.
    """
    return _read(template.text, frozenset(choice_fields))


@lru_cache(maxsize=20_000)  # training reads the templates of its pool again and again
def _read(text: str, choices: frozenset[str]) -> Parts | None:
    shown = FIELD.findall(text)
    if "{{" in text or "}}" in text or len(shown) != len(set(shown)):
        return None
    blocks = _blocks(text.split("\n"), choices)
    if blocks is None or len(blocks) < 2 or blocks[-1].fields:
        return None
    *moved, cue = blocks
    if not any(block.fields for block in moved) or sum(not choices.isdisjoint(block.fields) for block in moved) > 1:
        return None
    separators = tuple("\n".join(["", *block.above, ""]) for block in blocks[1:])
    parts = Parts(tuple(_part(block, choices) for block in moved), separators, "\n".join(cue.lines))
    return parts if parts.text == text else None  # not so where it begins with a rule


@dataclass
class _Block:
    above: list[str]  # the blank lines and rules above it
    lines: list[str]
    fields: list[str]


def _blocks(lines: Sequence[str], choices: frozenset[str]) -> list[_Block] | None:
    """Return the lines of each part; None if a line mixes fields, or nothing but a rule stands at the end."""
    blocks: list[_Block] = []
    above: list[str] = []
    for number, line in enumerate(lines, 1):
        if not _WORD.search(line):  # blank, or a rule
            if _FENCE.search(line) or (blocks and line.strip() and not above and _underlines(line, blocks[-1].lines[-1])):
                return None  # a fence has two ends; a line that is underlined is a heading, which must stay above its text
            above.append(line)
            continue
        if _CLOSES.search(line):
            return None  # what closes could not stay with what opens
        fields = FIELD.findall(line)
        if len(fields) > 1 and not choices.issuperset(fields):
            return None
        last = blocks[-1] if blocks else None
        options = bool(fields) and choices.issuperset(fields)
        below = FIELD.findall(lines[number]) if number < len(lines) else []
        label = not fields and bool(below) and choices.issuperset(below) and len(_WORD.findall(line)) <= _LABEL_WORDS
        if last is not None and (
            ((options or label) and last.fields and choices.issuperset(last.fields))  # the options go on
            or (fields and not last.fields and _leads(last.lines[-1], line, options, directly=not above))
            or (not fields and not last.fields and not above and number < len(lines))  # an instruction of several lines
        ):
            if any(gap.strip() for gap in above) and not last.fields:
                return None  # a rule between a label and its field belongs to both
            last.lines += [*above, line]
        else:
            blocks.append(_Block(above, [line], []))
        blocks[-1].fields += fields
        above = []
    return None if above else blocks


def _underlines(rule: str, line: str) -> bool:
    """Return whether a rule below a line without a field is about as long as it."""
    return not FIELD.search(line) and abs(len(line) - len(rule)) <= 2


def _leads(line: str, below: str, options: bool, directly: bool) -> bool:
    """Return whether a line without a field leads over to the field or the options below it, or is their label.

    Args:
        directly: whether nothing stands between the two.
    """
    if not options and re.match(r"[^\w{]*\{", below) is None:
        return False  # the line below has a label of its own
    heading = line.rstrip().endswith(":") or _HEADING.fullmatch(line.strip()) is not None
    return heading or (directly and len(_WORD.findall(line)) <= _LABEL_WORDS)


def _part(block: _Block, choices: frozenset[str]) -> Part:
    text, fields = "\n".join(block.lines), tuple(block.fields)
    if not fields:
        return Part("text", text)
    if choices.issuperset(fields):
        return _options(text, fields)
    before = text[: text.index("{")]
    before = before[:-1] if before[-1:] in ('"', "'", "“") else before
    encloses = _WORD.search(text[text.index("}") :].removeprefix("}")) or text.rstrip()[-1] in "])>*|"
    return Part("field", text, fields, before, "" if encloses else _label(before), text[len(before) :])


def _label(lead: str) -> str:
    """Return the label in a lead, "" if it is none: a few words, parted from the field by a sign or a line break."""
    match = _LABEL.fullmatch(lead)
    if match is None or len(_WORD.findall(match["name"])) > _LABEL_WORDS:
        return ""
    return match["name"] if match["opens"].strip() or match["closes"].strip() or match["line"] else ""


def _options(text: str, fields: tuple[str, ...]) -> Part:
    """Return the block of options; it has marks if all options are written alike."""
    pieces = FIELD.split(text)[0::2]  # what stands before the first option, between two, and behind the last
    found = [_LETTER.search(piece) for piece in pieces[:-1]]
    if all(found):
        starts = [match.start() for match in found if match]
        marks = tuple(match[1] for match in found if match)
    else:
        bullets = [_BULLET.search(piece) for piece in pieces[:-1]]
        starts = [len(piece) if match is None else match.start() for piece, match in zip(pieces, bullets, strict=False)]
        marks = ("",) * len(fields)
    lead = pieces[0][: starts[0]]
    between = [piece[:start] for piece, start in zip(pieces[1:-1], starts[1:], strict=True)]
    alike = not any(_WORD.search(gap) for gap in [*between, pieces[-1]]) and all(a == b for a, b in pairwise(between))
    leads_over = not lead.strip() or lead.endswith("\n") or lead.rstrip().endswith(":")
    if not (alike and leads_over and (marks[0] == "" or list(marks) == sorted(set(marks)))):
        return Part("options", text, fields)
    return Part("options", text, fields, lead, _label(lead.rstrip(" ")), text[len(lead) :], marks)
