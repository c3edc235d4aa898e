"""A template for rows with another number of options: some are left out, or added in the same style.

Rows of one data set may differ in how many options they have (ARC: 3 to 5). A template shows its options as one row of fields,
A, B, C ..., all written alike: "A. {A}" in lines, "(A) {A} (B) {B}", "<A>{A}</A>", "{A}, {B} or {C}". What enumerates the
letters ("Answer with A, B, C or D", "A-D") is adapted, too; a number in words ("the four options") stays.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from string import ascii_uppercase

from paft.prompts.template import PromptTemplate

_LETTERS = ascii_uppercase
_SINGLE = re.compile(r"(?<![^\W_])([A-Za-z]|\d+)(?![^\W_])")  # a letter or a number that stands alone
_WORD = re.compile(r"[^\W\d_]{2,}")
_CONJUNCTION = r"(?:(?i:or|and|oder|und|ou|et)|o|y)"  # in any case, but for single letters, which may be options
_AND = re.compile(rf"\b{_CONJUNCTION}\b")
_GAP = rf"[^\w\n{{}}]*(?:{_CONJUNCTION}\b[^\w\n{{}}]*)?"  # between two letters of an enumeration


@lru_cache(maxsize=20_000)  # a pool of templates, for each number of options
def with_options(template: PromptTemplate, n: int) -> PromptTemplate:
    """Return a template that shows n options, A, B, C ..., written as those that it shows.

    A template that shows none is returned as it is. Where the options stand in another order, those that are left keep it, and
    `letters` follow.
    """
    if sum(name in _LETTERS for name in template.fields) == n:
        return template
    options = _read(template)
    if options is None:
        return template
    before = len(options.shown)
    shown = [name for name in options.shown if name in _LETTERS[:n]] + list(_LETTERS[before:n])
    parts = template.parts
    head = "".join(_escaped(literal, before, n) + f"{{{name}}}" for literal, name in parts[: options.start])
    behind = parts[options.start + before :]
    rest = [(behind[0][0].removeprefix(options.closing(before)), behind[0][1]), *behind[1:]]
    tail = options.closing(n) + "".join(
        _escaped(literal, before, n) + ("" if name is None else f"{{{name}}}") for literal, name in rest
    )
    middle = replace(options, first=_escaped(options.first, before, n)).text(shown)
    letters = ""
    if template.letters and options.kind == "A":
        letters = "".join(_LETTERS[shown.index(name)] for name in _LETTERS[:n])
    return replace(template, text=head + middle + tail, letters=letters)


def unlike_options(template: PromptTemplate) -> str:
    """Return, as a clause, why a template's options cannot be added or left out; "" if they can, or if it shows none."""
    try:
        _read(template)
    except _UnlikeError as error:
        return str(error)
    return ""


class _UnlikeError(ValueError):
    """The options of a template are not one row of fields that are written alike; the message says why."""


@dataclass(frozen=True)
class _Options:
    """The options of a template.

    start is the index of the first one among the template's parts. shown are their fields. gap stands between two options, in
    it {} for the letter or number of the second, {-} for that of the first where a mark stands behind an option, too, and
    last_gap before the last one. kind is what marks an option: "A", "a", "1", or "" for nothing. first stands before the first
    option.
    """

    start: int
    shown: tuple[str, ...]
    first: str
    gap: str
    last_gap: str
    kind: str

    def text(self, shown: list[str]) -> str:
        """Return a row of options in which these fields are shown."""
        text = f"{self.first}{{{shown[0]}}}"
        for place, name in enumerate(shown[1:], 1):
            gap = self.last_gap if place == len(shown) - 1 else self.gap
            marked = gap.replace("{-}", _mark(self.kind, place - 1)).replace("{}", _mark(self.kind, place))
            text += f"{marked}{{{name}}}"
        return text

    def closing(self, n: int) -> str:
        """Return what ends with the mark behind the last of n options; "" where marks stand only before options."""
        before, mark, _ = self.gap.partition("{-}")
        return before + _mark(self.kind, n - 1) if mark else ""


@lru_cache(maxsize=20_000)
def _read(template: PromptTemplate) -> _Options | None:
    """Return the options of a template, None if it shows none; raises _UnlikeError."""
    parts = template.parts
    if "A" not in template.fields:
        return None
    places = [i for i, (_, name) in enumerate(parts) if name is not None and name in _LETTERS]
    shown = tuple(str(parts[i][1]) for i in places)
    if len(places) < 2:
        raise _UnlikeError(f"the template shows {{{shown[0]}}} alone")
    if sorted(shown) != list(_LETTERS[: len(shown)]):
        fields = " ".join(f"{{{name}}}" for name in shown)
        raise _UnlikeError(f"the template shows {fields}, which are not the first letters, each once")
    if places != list(range(places[0], places[0] + len(places))):
        raise _UnlikeError("another field stands between the template's options")
    literals = [parts[i][0] for i in places]
    if any(brace in literal for literal in literals[1:] for brace in "{}"):
        raise _UnlikeError("braces stand between the template's options")
    kind = _kind(literals[1])
    gaps = [_gap(literal, kind, place) for place, literal in enumerate(literals[1:], 1)]
    alike = len({*gaps}) == 1 or (len({*gaps[:-1]}) == 1 and _conjunction(*gaps[-2:]))
    if not alike or not _begins(literals[0], kind, gaps[0]):
        raise _UnlikeError("the template does not write its options alike")
    gap = gaps[0]
    if len(gaps) == 1 and _AND.search(gap):  # "{A} or {B}": a third is set off by a comma
        if kind:
            raise _UnlikeError("the template writes its two options as a phrase")
        gap = ", "
    options = _Options(places[0], shown, literals[0], gap, gaps[-1], kind)
    if not parts[places[-1] + 1][0].startswith(options.closing(len(shown))):
        raise _UnlikeError("the template does not mark its options alike")
    return options


def _kind(second: str) -> str:
    """Return what marks options, read off what stands before the second one."""
    marks = [mark for mark in _SINGLE.findall(second) if mark in ("B", "b", "2")]
    return {"B": "A", "b": "a", "2": "1"}[marks[-1]] if marks else ""


def _mark(kind: str, place: int) -> str:
    """Return the mark of the option at a place, counted from 0."""
    return {"A": _LETTERS[place], "a": _LETTERS[place].lower(), "1": str(place + 1), "": ""}[kind]


def _gap(literal: str, kind: str, place: int) -> str:
    """Return what stands before an option, in it {} for its mark and {-} for that of the option before.

    Raises _UnlikeError for another mark, or for more.
    """
    found = list(_SINGLE.finditer(literal))
    if kind == "" and not any(match[1] in _LETTERS or match[1].isdigit() for match in found):
        return literal
    marks = [match[1] for match in found]
    if marks == [_mark(kind, place)]:
        return f"{literal[: found[0].start()]}{{}}{literal[found[0].end() :]}"
    if marks == [_mark(kind, place - 1), _mark(kind, place)]:
        between = literal[found[0].end() : found[1].start()]
        return f"{literal[: found[0].start()]}{{-}}{between}{{}}{literal[found[1].end() :]}"
    raise _UnlikeError("the template does not mark its options one after the other")


def _begins(first: str, kind: str, gap: str) -> bool:
    """Whether what stands before the first option ends with its mark, and with what stands behind the other marks."""
    return kind == "" or re.search(rf"(?<!\w){_mark(kind, 0)}{re.escape(gap.partition('{}')[2])}$", first) is not None


def _conjunction(gap: str, last: str) -> bool:
    """Whether the last gap is the others' with a conjunction: ", " and " or "."""
    return _AND.search(last) is not None and not _WORD.search(gap) and "\n" not in gap


def _escaped(literal: str, before: int, n: int) -> str:
    """Return a literal text as a template writes it, with the letters that it enumerates adapted from `before` to n options."""
    letters = _LETTERS[:before]
    enumeration = r"(?<!\w)A" + "".join(rf"({_GAP}){letter}" for letter in letters[1:]) + r"(?!\w)"
    text = re.sub(enumeration, lambda match: _enumerated(list(match.groups()), n), literal)
    if before > 2:
        text = re.sub(rf"(?<!\w)A(\s?(?:[-–—]|\b(?i:to|through)\b)\s?){letters[-1]}(?!\w)", rf"A\g<1>{_LETTERS[n - 1]}", text)
    return text.replace("{", "{{").replace("}", "}}")


def _enumerated(gaps: list[str], n: int) -> str:
    """Return the first n letters with gaps like these between them."""
    last = gaps[-1]
    usual = gaps[0] if len(gaps) > 1 or not _AND.search(last) else ", "
    if n == 2 and len(gaps) > 1 and _AND.search(last):
        last = re.sub(r"^,\s*", " ", last)
    return "A" + "".join(f"{last if place == n - 1 else usual}{_LETTERS[place]}" for place in range(1, n))
