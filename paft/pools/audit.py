"""Auditing prompt pools: leaks between splits, defects of prompts, and their diversity."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from paft.pools.screening import Verdict, judge, last_words
from paft.prompts.families import layout
from paft.prompts.pool import Form, choices_among
from paft.prompts.readers import KEYS, read_prompts
from paft.prompts.similarity import NEAR_COPY, copies, count_wordings, similarities, wording
from paft.prompts.template import PromptTemplate, TemplateError
from paft.runtime.errors import InputError

_MOST_WORDS = 400


@dataclass(frozen=True)
class Entry:
    """A prompt of a file, usable or not: its place in the file, its families, and the verdict on it alone.

    template is None if the text cannot be one. Families that the file does not name are "".
    """

    where: str
    id: str
    text: str
    wording_family: str
    layout_family: str
    template: PromptTemplate | None
    verdict: Verdict


@dataclass(frozen=True)
class Audited:
    """The prompts of one file, without blank rows and repeated texts, which are counted."""

    path: Path
    entries: tuple[Entry, ...]
    blank: int
    repeated: tuple[str, ...]  # places in the file
    literal_newlines: int
    form: Form

    @property
    def wordings(self) -> list[str]:
        """The wording of each prompt: its text without fields, digits, punctuation and case."""
        return [wording(entry.text) for entry in self.entries]


@dataclass(frozen=True)
class Leak:
    """Something that two splits share: a prompt, a wording, or a family."""

    kind: str  # copy, same wording, near-copy, wording family, layout family
    first: str
    second: str
    similarity: float | None = None


@dataclass(frozen=True)
class Audit:
    """The result of an audit: facts about each file, facts about each pair of files, and the leaks."""

    files: Mapping[str, dict[str, Any]]  # by the name of the split
    between: Mapping[str, dict[str, Any]]  # by "SPLIT to SPLIT"
    leaks: Sequence[Leak] = field(default_factory=list)
    unnamed: Sequence[str] = ()  # splits of which not every prompt names its families: these were not compared

    def as_json(self) -> dict[str, Any]:
        """Return the content of audit.json, in plain types."""
        leaks = [asdict(leak) for leak in self.leaks]
        return {
            "files": dict(self.files),
            "between": dict(self.between),
            "leaks": leaks,
            "families_unnamed": list(self.unnamed),
        }


def read_for_audit(path: Path, form: Form | None = None, aliases: Mapping[str, str] | None = None) -> Audited:
    """Read a file of prompts, including those that a run would refuse.

    Args:
        form: the fields that templates should hold; None: those that most templates of the file hold.
        aliases: our field name for each name that the file uses instead.

    Raises InputError only if the file cannot be read at all, or holds no prompt.
    """
    file = read_prompts(path)
    prompts: list[tuple[str, str, Mapping[str, Any]]] = []  # place in the file, text, row
    repeated: list[str] = []
    blank = len(file.blank)
    seen: set[str] = set()
    for where, row in file.rows:
        text = str(row.get("text") or "")
        for theirs, ours in (aliases or {}).items():
            text = text.replace(f"{{{theirs}}}", f"{{{ours}}}")
        if not text.strip():
            blank += 1
        elif text in seen:
            repeated.append(where)
        else:
            seen.add(text)
            prompts.append((where, text, row))
    if not prompts:
        raise InputError(f"{path}: the pool is empty; it needs at least one prompt.")
    form = form or _form([text for _, text, _ in prompts], file.header)
    ids = Counter(str(row.get("id")) for _, _, row in prompts if row.get("id") is not None)
    entries = tuple(_entry(where, text, row, form, ids) for where, text, row in prompts)
    return Audited(path, entries, blank, tuple(repeated), file.unescaped, form)


def _form(texts: Sequence[str], header: Mapping[str, Any]) -> Form:
    """Return the form of the templates, taking the fields that most of them hold as those of the task."""
    sets = Counter(frozenset(re.findall(r"\{(\w+)\}", text)) for text in texts)
    fields = sets.most_common(1)[0][0]
    choices = choices_among(fields)
    answer = header.get("answer", "letter" if choices else "text")
    return Form(fields - choices, choices, answer, header.get("options", "shown"))


def _entry(where: str, text: str, row: Mapping[str, Any], form: Form, ids: Mapping[str, int]) -> Entry:
    try:
        template = PromptTemplate(text, id=str(row.get("id") or where))
    except TemplateError:
        template = None
    families = str(row.get("wording") or ""), str(row.get("layout") or "")
    verdict = judge(text, form, _MOST_WORDS)
    if unknown := sorted(map(str, row.keys() - KEYS)):  # a run would refuse the file for it
        verdict = Verdict("malformed", f"unknown key {unknown[0]!r}")
    elif not isinstance(row.get("text"), str):
        verdict = Verdict("malformed", "text must be a text; put it in quotation marks")
    elif ids.get(str(row.get("id")), 0) > 1:
        verdict = Verdict("malformed", f"the id {row['id']!r} is there more than once")
    return Entry(where, str(row.get("id") or where), text, *families, template, verdict)


def audit(pools: Mapping[str, Audited]) -> Audit:
    """Audit each pool alone, and each pair of pools.

    Args:
        pools: by the name of their split.
    """
    between: dict[str, dict[str, Any]] = {}
    leaks: list[Leak] = []
    for (first, a), (second, b) in combinations(pools.items(), 2):
        alike = similarities(b.wordings, a.wordings)
        between[f"{second} to {first}"] = {
            "nearest": float(1 - alike.max(axis=1).mean()),
            "mean_distance": float(1 - alike.mean()),
            "near_copies": int((alike.max(axis=1) >= NEAR_COPY).sum()),
            "same_wording": len({*b.wordings} & {*a.wordings}),
            "arrangements_of_options_unseen": _unseen_arrangements(a, b),
        }
        leaks += _copies(first, a, second, b, alike) + _families(first, a, second, b)
    unnamed = [name for name, pool in pools.items() if not all(e.wording_family for e in pool.entries)]
    return Audit({name: _facts(pool) for name, pool in pools.items()}, between, leaks, unnamed)


def _facts(pool: Audited) -> dict[str, Any]:
    """Return what is counted and measured of one pool, by the keys of audit.json."""
    words = pool.wordings
    alike = similarities(words, words)
    pairs = np.triu_indices(len(words), 1)
    defects = [e for e in pool.entries if e.verdict.reason not in (None, "review")]
    templates = [e.template for e in pool.entries if e.template is not None]
    return {
        "path": str(pool.path),
        "prompts": len(pool.entries),
        "wordings": count_wordings(e.text for e in pool.entries),
        "blank_rows": pool.blank,
        "repeated": list(pool.repeated),
        "literal_newlines": pool.literal_newlines,
        "near_copies_within": int((alike[pairs] >= NEAR_COPY).sum()),
        "defects": [{"where": e.where, "id": e.id, "reason": e.verdict.reason, "detail": e.verdict.detail} for e in defects],
        "review": [
            {"where": e.where, "id": e.id, "detail": e.verdict.detail} for e in pool.entries if e.verdict.reason == "review"
        ],
        "mean_distance": float(1 - alike[pairs].mean()) if len(words) > 1 else None,
        "words": {"median": float(np.median([len(w.split()) for w in words])), "most": max(len(w.split()) for w in words)},
        "families": {
            "wording": len({e.wording_family for e in pool.entries if e.wording_family}),
            "layout": len({e.layout_family for e in pool.entries if e.layout_family}),
        },
        "field_order": dict(Counter(" ".join(t.field_order) for t in templates).most_common()),
        "layouts": dict(Counter(layout(t, pool.form.choice_fields) for t in templates).most_common()),
        "cues": dict(Counter(_cue(e.text) for e in pool.entries).most_common()),
    }


def _cue(text: str) -> str:
    """Return the last line after the last field, its last 60 characters at most."""
    return " ".join(last_words(text).strip().rsplit("\n", 1)[-1].split())[-60:]


def _copies(first: str, a: Audited, second: str, b: Audited, alike: np.ndarray) -> list[Leak]:
    """Return the copies and near-copies between two pools; alike (prompts of b, prompts of a) are their similarities."""
    found = copies([entry.text for entry in b.entries], [entry.text for entry in a.entries], alike)
    return [
        Leak(
            copy.kind, f"{first} {a.entries[copy.of].id}", f"{second} {b.entries[copy.template].id}", round(copy.similarity, 3)
        )
        for copy in found
    ]


def _families(first: str, a: Audited, second: str, b: Audited) -> list[Leak]:
    leaks = []
    for kind in ("wording", "layout"):
        names = [{getattr(e, f"{kind}_family") for e in pool.entries} - {""} for pool in (a, b)]
        leaks += [Leak(f"{kind} family", f"{first} {name}", f"{second} {name}") for name in sorted(names[0] & names[1])]
    return leaks


def _unseen_arrangements(a: Audited, b: Audited) -> int | None:
    """Count the prompts of b that arrange the options (mark, lines or inline) as no prompt of a does."""
    if not a.form.choice_fields or a.form.options == "hidden":
        return None

    def arrangements(pool: Audited) -> list[str]:
        templates = [e.template for e in pool.entries if e.template is not None]
        return [layout(t, pool.form.choice_fields).split(" | ", 1)[-1] for t in templates]

    seen = {*arrangements(a)}
    return sum(arrangement not in seen for arrangement in arrangements(b))
