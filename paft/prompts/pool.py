"""Prompt pools: ordered, fingerprinted sets of templates for one task, loaded from YAML, JSONL, CSV or xlsx."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from paft.prompts.options import unlike_options
from paft.prompts.readers import KEYS, read_prompts
from paft.prompts.similarity import count_wordings
from paft.prompts.template import PromptTemplate, TemplateError
from paft.runtime.errors import InputError

Answer = Literal["letter", "text"]
Options = Literal["shown", "hidden"]

_DOUBLED = re.compile(r"(?<!\{)\{\{\s*(\w+)\s*\}\}(?!\})")  # but not {{{A}}}, a field in braces
_CHOICE = re.compile(r"[A-Z]|\w*(?:sol|solution|option|choice|ending)_?(?:\d+|[a-zA-Z])")


@dataclass(frozen=True)
class Form:
    """The form of a task's templates: the fields that they hold, and what they are answered with."""

    fields: frozenset[str]  # in every template
    choice_fields: frozenset[str]  # the options: in every template, or in none where options are hidden
    answer: Answer
    options: Options = "shown"
    optional_fields: frozenset[str] = frozenset()  # where a task has any, a template must show one of them or of fields
    extra_fields: frozenset[str] = frozenset()  # templates may show them besides; they are the same for every row
    whole_list: str | None = None  # the extra field that shows all options, so that a template need not show each
    choices_vary: bool = False  # whether rows may have another number of options, which are A, B, C ...; two are always there
    uniform: bool = True  # whether each row at hand has as many as there are choice fields

    @property
    def required(self) -> frozenset[str]:
        """The fields that every template must hold."""
        if self.options == "hidden":
            return self.fields
        return self.fields | (self.choice_fields & {"A", "B"} if self.choices_vary else self.choice_fields)


@dataclass(frozen=True)
class PromptPool:
    """The templates of one split, in order."""

    name: str
    templates: tuple[PromptTemplate, ...]
    answer: Answer  # what the prompts ask for: the letter of an option, or a text
    options: Options  # whether the templates show the options; hidden ones are answered with an option's text
    notes: tuple[str, ...] = ()  # what was dropped or changed while loading

    @property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) over answer, options and the texts in their order, without ids and families."""
        content = [self.answer, self.options, *(t.text for t in self.templates)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property  # 10,000 prompts take seconds
    def n_wordings(self) -> int:
        """Number of templates that are not near-copies of an earlier one."""
        return count_wordings(t.text for t in self.templates)

    def head(self, n: int | None) -> "PromptPool":
        """Return the pool cut to its first n templates, None keeps all; a note says so if there are fewer."""
        there = len(self.templates)
        notes = self.notes if n is None or n <= there else (*self.notes, f"{n} were asked for, {there} are there")
        return replace(self, templates=self.templates[:n], notes=notes)

    def drawn(self, n: int, seed: int) -> "PromptPool":
        """Return a pool of n templates drawn with the seed, in their original order; a smaller draw is part of a larger one."""
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
        folder: the name of the task that the prompts are for.
        split: what the pool is used for: train, validation, test, adversarial or user.
        name: the name of the pool; None: that of the split.

    Raises InputError if no such pool is shipped.
    """
    name = name or split
    kind = "hidden" if options == "hidden" else answer
    file = "parts.yaml" if name == "composed" else f"{name}.yaml"
    path = Path(__file__).parent / "shipped" / folder / kind / file
    if not path.is_file():
        setting = "method.prompt=TEMPLATE" if split == "user" else f"prompts.{split}=FILE"
        raise InputError(
            f"No {name} pool for dataset={folder} with dataset.answer={answer} dataset.options={options} is shipped; "
            f"give your own with {setting}."
        )
    return path


def load_pool(path: Path, form: Form, aliases: Mapping[str, str] | None = None) -> PromptPool:
    """Load a prompt pool from a file and check every template against a form.

    Args:
        path: a .yaml, .jsonl, .csv or .xlsx file; tables have a column `text` and may have the other keys as columns.
        form: the form that the run asks for; a file that states another one is refused.
        aliases: field names to replace, by ours (the authors' sheets use other names).

    Raises InputError that names the file and the line.
    """
    file = read_prompts(path)
    for key, expected in (("answer", form.answer), ("options", form.options)):
        if file.header.get(key, expected) != expected:
            raise InputError(
                f"{path}: this pool says {key}: {file.header[key]}, the run asks for dataset.{key}={expected}; make them agree."
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
    """Build a template from a row of a prompt file; raises InputError that begins with `where`."""
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
    known = form.required | form.optional_fields | form.extra_fields
    known |= form.choice_fields if form.options == "shown" else frozenset()
    letters = frozenset(ascii_uppercase) if form.choices_vary and form.options == "shown" else frozenset[str]()
    if (doubled := _DOUBLED.search(template.text)) and doubled[1] in known:
        raise InputError(f"{where}: {doubled[0]} is a text in braces, no field; write it with one brace, {{{doubled[1]}}}.")
    missing = form.required - template.fields
    if missing and not (form.whole_list in template.fields and missing <= form.choice_fields):
        raise InputError(f"{where}: the template lacks {{{min(missing)}}}; it needs {braced(form.required)}.")
    if form.options == "hidden" and (shown := template.fields & (form.choice_fields - form.required)):
        raise InputError(
            f"{where}: the template shows {{{min(shown)}}}, but this pool hides the options; remove it or set options: shown."
        )
    if unknown := template.fields - known - letters:
        no_labels = "; {labels} needs dataset.labels" if unknown == {"labels"} else ""
        raise InputError(f"{where}: {{{min(unknown)}}} is no field of this task; it has {braced(known)}{no_labels}.")
    if form.optional_fields and not template.fields & (form.fields | form.optional_fields):
        raise InputError(f"{where}: the template shows nothing of the row; it needs one of {braced(form.optional_fields)}.")
    as_it_is = form.uniform and template.fields & letters == form.choice_fields
    if letters and not as_it_is and (defect := unlike_options(template)):
        raise InputError(
            f"{where}: rows have other numbers of choices than the template shows, so that options are added and left out, and "
            f"{defect}; write them in a row and all alike, e.g. each in a line, 'A. {{A}}'."
        )


def braced(names: Iterable[str]) -> str:
    """Return field names sorted and in braces, as templates write them."""
    return " ".join(f"{{{name}}}" for name in sorted(names))


def choices_among(fields: Iterable[str]) -> frozenset[str]:
    """Return the fields that are options by their names (A, B, option1, sol2, choice_a, ...); empty if there is only one."""
    choices = frozenset(name for name in fields if _CHOICE.fullmatch(name))
    return choices if len(choices) > 1 else frozenset()
