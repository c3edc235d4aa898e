"""A prompt template: text with `{field}` placeholders. It is data, never code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # and what no text file can hold
# A doubled brace is a literal brace, as in str.format; everything else between braces must be a field name.
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD = re.compile(r"[^\W\d]\w*")
_WORDS = re.compile(r"[^\W\d]\w*([ -]+\w+)+")  # as the columns of a table may be called


class TemplateError(ValueError):
    """A template text that cannot be used; the message says why."""


@dataclass(frozen=True)
class PromptTemplate:
    """One wording of a task.

    `wording` and `layout` name the families the template belongs to: a family is what a train and a
    test pool must not share if the test prompts are to be called unseen. `letters` are those of the choices, in their
    order, in a template that shows the options in another order; empty: A, B, C ...

    Raises TemplateError for anything but `{field}` placeholders: attribute or index access,
    conversions, format specs, lone braces, control characters and literal backslash-n.
    """

    text: str
    id: str
    source: str = ""
    wording: str = ""
    layout: str = ""
    letters: str = ""
    _parts: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", _parse(self.text))

    @property
    def parts(self) -> tuple[tuple[str, str | None], ...]:
        """The text in pairs: a literal text, and the name of the field after it, None at the end."""
        return self._parts

    @property
    def fields(self) -> frozenset[str]:
        """The names of the placeholders."""
        return frozenset(name for _, name in self._parts if name is not None)

    @property
    def field_order(self) -> tuple[str, ...]:
        """The names of the placeholders in order of appearance, repetitions included."""
        return tuple(name for _, name in self._parts if name is not None)

    def render(self, values: Mapping[str, str]) -> str:
        """Put the values into the template; braces and percent signs inside a value stay as they are."""
        return "".join(literal if name is None else literal + values[name] for literal, name in self._parts)


def _parse(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split a template into pairs: a literal text, and the name of the field after it or None at the end."""
    if not text.strip():
        raise TemplateError("the template is empty")
    if "\\n" in text:
        raise TemplateError(r"it holds a literal backslash-n; write a real line break")
    if match := _CONTROL.search(text):
        raise TemplateError(f"it holds the control character U+{ord(match[0]):04X}; remove it")
    parts: list[tuple[str, str | None]] = []
    literal, end = "", 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token[0] in ("{{", "}}"):
            literal += token[0][0]
        elif token[1] is None:
            raise TemplateError(f"it holds a lone {token[0]!r}; write {token[0] * 2!r} for a literal brace")
        elif not _FIELD.fullmatch(token[1]):
            raise TemplateError(f"{token[0]!r} is no placeholder; {_instead(token[1].strip())}")
        else:
            parts.append((literal, token[1]))
            literal = ""
    return (*parts, (literal + text[end:], None))


def _instead(name: str) -> str:
    """Say what to write instead of what stands between braces and is no name of a placeholder."""
    if _WORDS.fullmatch(name):
        renamed = re.sub(r"[ -]+", "_", name)
        return (
            f"a name is made of letters, digits and _, so rename the field in your rows, to {renamed} or the like; for literal "
            "braces write {{ and }}"
        )
    return "only {field} is allowed, without attribute, index, conversion or format"
