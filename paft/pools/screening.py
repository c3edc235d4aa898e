"""Screening candidate templates: which are kept, which are rejected and why, which a person should look at."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from paft.prompts.pool import Form, braced
from paft.prompts.similarity import Wordings, wording
from paft.prompts.template import PromptTemplate, TemplateError

# Why a candidate is not kept. `unreadable`: a whole reply in which no template was found. `review` is no verdict on its
# quality: it may ask for something else than the answer.
Reason = Literal[
    "unreadable", "cut off", "malformed", "fields", "no cue", "too long", "brackets", "gives the answer away", "near-copy",
    "review",
]  # fmt: skip

_CUE_WORDS = 40  # what follows the last field may be a sentence to complete, no paragraph
_SENTENCE_END = re.compile(r"(?:(?<!\.)\.|[!?;。！？])$")  # a row of dots is a blank to be filled: a cue
_BRACKETS = re.compile(r"\[[^\[\]\n]*\]|<\s*(?:insert|your|enter|fill|add|put)\b[^<>\n]{0,200}>|\b(?-i:TODO|XXX)\b", re.I)
_CHARACTERS = 12  # of a template for each word that it may have
_CLOSING = re.compile(r"</[^<>\n]{0,60}>")
_MARKS = " \t\r\n.)]}\"'*`_”’»"  # what may close an option, and is no cue
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
    """What became of a candidate: kept (no reason), or the reason it was not and what exactly was found."""

    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True)
class Candidate:
    """A text that may become a template, and where it comes from."""

    text: str
    id: str
    source: str
    strategy: str = ""


def screen(
    candidates: Iterable[Candidate], form: Form, max_words: int, kept: Iterable[str] = ()
) -> Iterator[tuple[Candidate, Verdict]]:
    """Judge candidates one by one, each against those kept before it.

    Args:
        max_words: of the template itself, its fields aside.
        kept: texts that are in the pool already.
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
    """Judge a text by itself.

    A text that passes renders for every row that holds the form's fields, since rendering only puts them side by side; rows
    that lack one are refused when they are read.
    """
    try:
        template = PromptTemplate(text, id="candidate")
    except TemplateError as error:
        return Verdict("malformed", str(error))
    if len(text) > (most := _CHARACTERS * max_words):  # before all that reads the text more than once
        return Verdict("too long", f"{len(text):,} characters, at most {most:,} are allowed")
    if problem := _fields(template, form):
        return Verdict("fields", problem)
    if found := next((m[0] for m in _BRACKETS.finditer(text) if m[0][0] != "[" or re.search(r"\w\w", m[0])), None):
        return Verdict("brackets", f"{found!r} is left to be filled in")
    if problem := _gives_away(text, form):
        return Verdict("gives the answer away", problem)
    if problem := _cue(text, form):
        return Verdict("no cue", problem)
    if (n := len(wording(text).split())) > max_words:
        return Verdict("too long", f"{n} words, at most {max_words} are allowed")
    if problem := _something_else(text, form):
        return Verdict("review", problem)
    return Verdict()


def _fields(template: PromptTemplate, form: Form) -> str:
    names = template.field_order
    if missing := form.required - {*names}:
        return f"lacks {braced(missing)}"
    if unknown := {*names} - form.required - form.optional_fields:
        return f"{braced(unknown)} is no field of the task"
    if repeated := {name for name in names if names.count(name) > 1}:
        return f"holds {braced(repeated)} more than once"
    return ""


def last_words(text: str) -> str:
    """Return what follows the last field: the answer cue."""
    return text[text.rfind("}") + 1 :] if not text.rstrip().endswith("}}") else text[text.rfind("{{") :]


def _cue(text: str, form: Form) -> str:
    """With the options shown, something short and unfinished stands between the last field and the answer."""
    if form.options == "hidden" or not form.choice_fields:
        # The answer may continue the text itself, or follow a whole sentence; but something must ask for it.
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
    """Say whether the template answers itself."""
    if found := _NAMED.search(text):
        return f"{found[0]!r} names one option as right" if found[1] in form.choice_fields else ""
    if form.choice_fields and (found := _WORKED.search(text)):
        return f"it holds an answer, {found[0].strip()!r}"
    if found := (_ANSWERED if form.choice_fields else _NUMBER).search(text.rstrip()):
        return f"it ends in {found[0]!r}"
    return ""


def _something_else(text: str, form: Form) -> str:
    """Say whether the template seems to ask for something else than the answer."""
    words = _TASKS if not form.choice_fields else f"{_TASKS}|{_REASONS}"  # free-form answers may come with reasons
    without = re.sub(rf"{_NOT}\b(?:{words})\b", " ", text, flags=re.I)
    found = re.search(rf"\b(?:{words})\b", without, re.I)
    return f"it may ask for something else than the answer ({found[0]!r})" if found else ""
