"""Prompt pools: ordered, fingerprinted sets of templates for one task, loaded from YAML, JSONL, CSV or xlsx."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paft.prompts.readers import KEYS, read_prompts
from paft.prompts.similarity import count_wordings
from paft.prompts.template import PromptTemplate, TemplateError
from paft.runtime.errors import InputError

Answer = Literal["letter", "text"]
Options = Literal["shown", "hidden"]

_CHOICE = re.compile(r"[A-Z]|\w*(?:sol|solution|option|choice|ending)_?(?:\d+|[a-zA-Z])")


@dataclass(frozen=True)
class Form:
    """What the templates of a task hold, and what they are answered with.

    fields are those that every template holds, choice_fields those of the options: all of them, or none where options are
    hidden. A template may hold optional_fields; where there are any, it must show some field.
    """

    fields: frozenset[str]
    choice_fields: frozenset[str]
    answer: Answer
    options: Options = "shown"
    optional_fields: frozenset[str] = frozenset()

    @property
    def required(self) -> frozenset[str]:
        """The fields that every template holds."""
        return self.fields | self.choice_fields if self.options == "shown" else self.fields


@dataclass(frozen=True)
class PromptPool:
    """The templates of one split.

    answer says what the prompts ask for: the letter of an option or a text. options says whether
    the templates show the options (a pool that hides them is answered with an option's text).
    notes says what was dropped or changed while loading.
    """

    name: str
    templates: tuple[PromptTemplate, ...]
    answer: Answer
    options: Options
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) over what it is answered with and the texts in their order; ids and families aside."""
        content = [self.answer, self.options, *(t.text for t in self.templates)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property  # of 10,000 prompts it takes seconds
    def n_wordings(self) -> int:
        """How many of the templates are no near-copy of an earlier one."""
        return count_wordings(t.text for t in self.templates)

    def head(self, n: int | None) -> "PromptPool":
        """Return the pool with its first n templates, or all of them (n None)."""
        return replace(self, templates=self.templates[:n])

    def drawn(self, n: int, seed: int) -> "PromptPool":
        """Return a pool of n templates drawn with the seed, in their order here; that of fewer is part of that of more."""
        order = np.random.default_rng(seed).permutation(len(self.templates))
        return replace(self, templates=tuple(self.templates[i] for i in sorted(order[:n])))

    def to_yaml(self) -> str:
        """Return the pool in the YAML form that load_pool reads."""
        import yaml

        class Dumper(yaml.SafeDumper):
            pass

        def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
            return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

        Dumper.add_representer(str, text)
        prompts = [{key: getattr(t, key) for key in ("id", "source", "wording", "layout", "text")} for t in self.templates]
        content = {"answer": self.answer, "options": self.options, "prompts": prompts}
        return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**9)


def shipped_pool_path(folder: str, answer: Answer, options: Options, split: str, name: str | None = None) -> Path:
    """Return the path of a shipped pool: shipped/<folder>/<letter|text|hidden>/<name>.yaml.

    The pool named composed has no file of its own: its path is that of the parts which compose.py puts together.

    Args:
        folder: the name of the task whose prompts they are.
        split: what it is for, and its name where `name` is None.

    Raises InputError where none is shipped.
    """
    name = name or split
    kind = "hidden" if options == "hidden" else answer
    file = "parts.yaml" if name == "composed" else f"{name}.yaml"
    path = Path(__file__).parent / "shipped" / folder / kind / file
    if not path.is_file():
        own = "method.prompt=TEMPLATE" if split == "user" else f"prompts.{split}=FILE"
        raise InputError(
            f"No {name} pool for dataset={folder} with dataset.answer={answer} dataset.options={options} is shipped; "
            f"give your own with {own}."
        )
    return path


def load_pool(path: Path, form: Form, aliases: Mapping[str, str] | None = None) -> PromptPool:
    """Load a pool and check every template against its form.

    Args:
        path: a .yaml, .jsonl, .csv or .xlsx file; tables have a column `text` and, if they like, the others.
        form: what the run asks for; a file that says otherwise is refused.
        aliases: other people's field names for ours (the official sheets').

    Raises InputError that names the file and the line.
    """
    file = read_prompts(path)
    for key, wanted in (("answer", form.answer), ("options", form.options)):
        if file.header.get(key, wanted) != wanted:
            raise InputError(
                f"{path}: this pool says {key}: {file.header[key]}, the run asks for dataset.{key}={wanted}; make them agree."
            )
    templates: list[PromptTemplate] = []
    notes = [f"{where} is blank: dropped" for where in file.blank]
    if file.unescaped:
        notes.append(f"literal \\n turned into a line break in {file.unescaped} prompts")
    seen: dict[str, str] = {}  # text -> where
    ids: dict[str, str] = {}  # id -> where
    for where, row in file.rows:
        template = _template(f"{path}, {where}", row, len(templates), aliases or {})
        if template.id in ids:
            raise InputError(
                f"{path}, {where}: the id {template.id!r} is that of {ids[template.id]}; ids name the rows of the results, "
                "so make them unique."
            )
        check_fields(f"{path}, {where}", template, form)
        if template.text in seen:
            notes.append(f"{where} repeats {seen[template.text]}: dropped")
            continue
        seen[template.text] = ids[template.id] = where
        templates.append(template)
    if not templates:
        raise InputError(f"{path}: the pool is empty; it needs at least one prompt.")
    return PromptPool(path.stem, tuple(templates), form.answer, form.options, tuple(notes))


def _template(where: str, row: Mapping[str, Any], index: int, aliases: Mapping[str, str]) -> PromptTemplate:
    unknown = set(row) - KEYS
    if unknown:
        raise InputError(f"{where}: unknown key {min(map(str, unknown))!r}; a prompt has {', '.join(sorted(KEYS))}.")
    for key in KEYS:
        if isinstance(row.get(key), list | dict) or (key == "text" and not isinstance(row.get(key), str | None)):
            raise InputError(f"{where}: {key} must be a text; put it in quotation marks.")
    values = {key: str(row[key]).replace("\r\n", "\n").replace("\r", "\n") for key in KEYS if row.get(key) is not None}
    for theirs, ours in aliases.items():
        values["text"] = values.get("text", "").replace(f"{{{theirs}}}", f"{{{ours}}}")
    values.setdefault("id", f"prompt-{index + 1:03d}")
    try:
        return PromptTemplate(**{"text": "", **values})
    except TemplateError as error:
        raise InputError(f"{where}: {error}.") from None


def check_fields(where: str, template: PromptTemplate, form: Form) -> None:
    """Check the placeholders of a template against its form; raises InputError that begins with `where`."""
    known = form.required | form.optional_fields
    if missing := form.required - template.fields:
        raise InputError(f"{where}: the template lacks {{{min(missing)}}}; it needs {braced(form.required)}.")
    if shown := template.fields & (form.choice_fields - form.required):
        raise InputError(
            f"{where}: the template shows {{{min(shown)}}}, but this pool hides the options; remove it or set options: shown."
        )
    if unknown := template.fields - known:
        raise InputError(f"{where}: {{{min(unknown)}}} is no field of this task; it has {braced(known)}.")
    if form.optional_fields and not template.fields & (form.fields | form.optional_fields):
        raise InputError(f"{where}: the template shows nothing of the row; it needs one of {braced(form.optional_fields)}.")


def braced(names: Iterable[str]) -> str:
    """Return field names as templates hold them, in order."""
    return " ".join(f"{{{name}}}" for name in sorted(names))


def choices_among(fields: Iterable[str]) -> frozenset[str]:
    """Return the fields that are options by their names: A and B, or option1, sol2, choice_a and the like."""
    found = frozenset(name for name in fields if _CHOICE.fullmatch(name))
    return found if len(found) > 1 else frozenset()
