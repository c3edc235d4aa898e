"""Screening candidate templates: each is kept, rejected for a reason, or left for a person to look at."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from paft.prompts.pool import Form, braced
from paft.prompts.similarity import Wordings, wording
from paft.prompts.template import PromptTemplate, TemplateError

# Why a candidate is not kept. `unreadable`: a whole reply that holds no template. `review`: it may ask for something else
# than the answer, so that a person should look at it.
Reason = Literal[
    "unreadable", "cut off", "malformed", "fields", "no cue", "too long", "brackets", "gives the answer away", "near-copy",
    "review",
]  # fmt: skip

_CUE_WORDS = 40  # what follows the last field may be an unfinished sentence, but not a paragraph
_SENTENCE_END = re.compile(r"(?:(?<!\.)\.|[!?;。！？])$")  # not a row of dots, which is a blank to fill in
_BRACKETS = re.compile(r"\[[^\[\]{}\n]*\]|<\s*(?:insert|your|enter|fill|add|put)\b[^<>\n]{0,200}>|\b(?-i:TODO|XXX)\b", re.I)
_BRACKETED_LABEL = re.compile(r"\[[^\[\]\n]*\] *\n?[^\n{]{0,12}\{")  # "[Story] {story}"
_CHARACTERS = 12  # that a template may have for each word that it may have
_CLOSING = re.compile(r"</[^<>\n]{0,60}>")
_MARKS = " \t\r\n.)]}\"'*`_”’»"  # characters that may close an option, and are no cue
_NAMES = r"(?:answer|choice|option|letter|solution|response)"
_LABEL = r"(?:option\s+)?[\"'*(\[]*[A-Za-z0-9][\"'*)\].]*"
_ANSWERED = re.compile(rf"{_NAMES}\s*(?:is|:|=|->|=>)\s*{_LABEL}$", re.I)
_WORKED = re.compile(rf"{_NAMES}[ \t]*(?::|=|->|=>|is)[ \t]*(?-i:[\"'*(\[]*[A-Z][\"'*)\].]*)[ \t]*\n", re.I)
_NUMBER = re.compile(rf"{_NAMES}\s*(?:is|:|=|->|=>)\s*[$€£]?-?\d[\d.,]*\s*$", re.I)
_NAMED = re.compile(
    r"\b(?:correct|right|best|true)\s+(?:answer|option|choice|solution|ending|one)\W{0,3}(?:is|:|=)\W{0,3}\{(\w+)\}", re.I
)
_TASKS = (
    "summari[sz]\\w*|translate|paraphras\\w*|rewrit\\w*|tone|theme|genre|essay|poem|rate (?:the|each|how|both)|"
    "rank (?:the|all|both|these)|confiden\\w*|sentiment|(?:is|are) (?:wrong|incorrect|false|the worst)|"
    "in (?:French|German|Spanish|Italian|Chinese|Japanese|Russian|Arabic)"
)
_REASONS = (
    "explain|explanation|justify|justification|elaborate|rationale|step[- ]by[- ]step|pros and cons|"
    "(?:your|show|give|provide|include|with)\\s+(?:\\w+\\s+)?reasoning"
)
_NOT = r"(?:\b(?:no|not|without|never|avoid|skip)|n't)\W+(?:\w+\W+){0,3}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a candidate: kept (reason None), or the reason why not, with the detail for a person."""

    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True)
class Candidate:
    """A text that may become a template, its id, its source (the generator) and the strategy that asked for it."""

    text: str
    id: str
    source: str
    strategy: str = ""


def screen(
    candidates: Iterable[Candidate], form: Form, max_words: int, kept: Iterable[str] = ()
) -> Iterator[tuple[Candidate, Verdict]]:
    """Yield each candidate with its verdict; it is judged alone, then compared with those that were kept before it.

    Args:
        max_words: of a template, its fields aside.
        kept: texts that the pool already holds.
    """
    ids: list[str] = []
    wordings = Wordings()
    for text in kept:
        ids.append("a prompt of the pool")
        wordings.add(wording(text))
    for candidate in candidates:
        verdict = judge(candidate.text, form, max_words)
        if verdict.reason is None:
            words = wording(candidate.text)
            if (copy := wordings.nearest_copy(words)) is not None:
                verdict = Verdict("near-copy", f"{100 * copy[1]:.0f}% like {ids[copy[0]]}")
            else:
                ids.append(candidate.id)
                wordings.add(words)
        yield candidate, verdict


def judge(text: str, form: Form, max_words: int) -> Verdict:
    """Return the verdict on a text alone, without comparing it with others.

    A text that passes renders for every row that has the form's fields, because rendering only inserts them. Rows that lack
    one are refused when they are read.
    """
    try:
        template = PromptTemplate(text, id="candidate")
    except TemplateError as error:
        return Verdict("malformed", str(error))
    if len(text) > (most := _CHARACTERS * max_words):  # first, because the later checks are slow on long texts
        return Verdict("too long", f"{len(text):,} characters, at most {most:,} are allowed")
    if problem := _fields(template, form):
        return Verdict("fields", problem)
    if blank := _left_to_fill_in(text):
        return Verdict("brackets", f"{blank!r} is left to be filled in")
    if problem := _gives_away(text, form):
        return Verdict("gives the answer away", problem)
    if problem := _cue(text, form):
        return Verdict("no cue", problem)
    if (n := len(wording(text).split())) > max_words:
        return Verdict("too long", f"{n} words, at most {max_words} are allowed")
    if problem := _something_else(text, form):
        return Verdict("review", problem)
    return Verdict()


def _left_to_fill_in(text: str) -> str | None:
    """Return a text in brackets that somebody was to fill in; where brackets mark the labels of fields, they mark labels."""
    labels = _BRACKETED_LABEL.search(text) is not None
    found = (match[0] for match in _BRACKETS.finditer(text))
    return next((mark for mark in found if mark[0] != "[" or (re.search(r"[^\W\d]{2}", mark) and not labels)), None)


def _fields(template: PromptTemplate, form: Form) -> str:
    """Return what is wrong with the fields of a template, "" if nothing is."""
    names = template.field_order
    if missing := form.required - {*names}:
        return f"lacks {braced(missing)}"
    if unknown := {*names} - form.required - form.optional_fields:
        return f"{braced(unknown)} is no field of the task"
    if repeated := {name for name in names if names.count(name) > 1}:
        return f"holds {braced(repeated)} more than once"
    return ""


def last_words(text: str) -> str:
    """Return the text after the last field of a template: the answer cue."""
    return text[text.rfind("}") + 1 :] if not text.rstrip().endswith("}}") else text[text.rfind("{{") :]


def _cue(text: str, form: Form) -> str:
    """Return what is wrong with the answer cue, "" if nothing is.

    With the options shown, something short and unfinished must stand between the last field and the answer.
    """
    if form.options == "hidden" or not form.choice_fields:
        # The answer may continue the text itself, or follow a whole sentence; but some words must ask for it.
        return "" if wording(text) or form.options == "hidden" else "it holds nothing but its fields"
    cue = _CLOSING.sub("", last_words(text))
    if not cue.strip(_MARKS):
        return "it ends in a field"
    last_line = cue.rstrip().rsplit("\n", 1)[-1].strip()
    if _SENTENCE_END.search(last_line):
        return f"it ends in {last_line[-40:]!r}, a finished sentence"
    if len(re.split(r"(?<=[.!?:])\s", last_line)[-1].split()) > _CUE_WORDS:
        return "its last sentence is too long for a cue"
    return ""


def _gives_away(text: str, form: Form) -> str:
    """Return how the template answers itself, "" if it does not."""
    if named := _NAMED.search(text):
        return f"{named[0]!r} names one option as right" if named[1] in form.choice_fields else ""
    if form.choice_fields and (worked := _WORKED.search(text)):
        return f"it holds an answer, {worked[0].strip()!r}"
    if answer := (_ANSWERED if form.choice_fields else _NUMBER).search(text.rstrip()):
        return f"it ends in {answer[0]!r}"
    return ""


def _something_else(text: str, form: Form) -> str:
    """Return the words by which a template seems to ask for something else than the answer, "" if there are none."""
    words = _TASKS if not form.choice_fields else f"{_TASKS}|{_REASONS}"  # free-form answers may come with reasons
    not_negated = re.sub(rf"{_NOT}\b(?:{words})\b", " ", text, flags=re.I)
    request = re.search(rf"\b(?:{words})\b", not_negated, re.I)
    return f"it may ask for something else than the answer ({request[0]!r})" if request else ""
