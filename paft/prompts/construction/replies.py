"""Finding the candidate templates in a model's reply: JSON, numbered lists, code fences, or chatter around them."""

import re
from typing import Any

import json_repair

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.S)
_NUMBER = re.compile(
    r"^[ \t]*(?:\*\*|#+[ \t]*)?(?:(?:prompt|template)[ \t]*)?#?(\d{1,3})[.):][ \t]*(?:\*\*)?[ \t]*", re.I | re.M
)
_TITLE = re.compile(r"^[^{}\n]*\*\*:?[ \t]*\n|^[^{}\n]{1,60}:[ \t]*\n(?=```)")
_FAREWELL = re.compile(r"\n[ \t]*\n[^{}]*[.!?]\Z")  # a last paragraph of whole sentences, without a placeholder
_TEXT_KEYS = ("text", "template", "prompt", "content")


def templates_in(reply: str) -> list[str]:
    """Return the texts that the reply offers as templates, in its order; none if it holds nothing of the kind.

    What is no template, a comment in a list say, is left to screening. A text counts only if it has a {placeholder}.
    """
    found = _json(reply) or _fences(reply) or _numbered(reply) or _paragraphs(reply)
    return [text for text in found if re.search(r"\{\w+\}", text)]


def _json(reply: str) -> list[str]:
    """Read a JSON list of strings or objects, damaged or cut off ones too (json_repair)."""
    fenced = _FENCE.search(reply)
    text = fenced[1] if fenced and fenced[1].lstrip()[:1] in ("[", "{") else reply
    start = re.search(r'\[\s*(?:"|\{\s*")|\{\s*"\w+"\s*:', text)
    if start is None:
        return []
    lines = [line for line in text.splitlines() if re.match(r'\{\s*"\w+"\s*:.*\}\s*$', line)]
    if len(lines) > 1:  # an object a line
        return [found for line in lines for found in _strings(json_repair.loads(line))]
    return _strings(json_repair.loads(text[start.start() :]))


def _strings(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _strings(item)]
        case dict():
            named = [value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)]
            return named[:1] or [text for item in value.values() if isinstance(item, (list, dict)) for text in _strings(item)]
    return []


def _fences(reply: str) -> list[str]:
    """Take each code block as a template; one block with a numbered list is read as that."""
    blocks = [block.strip("\n") for block in _FENCE.findall(reply)]
    return (_numbered(blocks[0]) or blocks) if len(blocks) == 1 else blocks


def _numbered(reply: str) -> list[str]:
    """Split at 1., 2., 3. ... in their order; a line that numbers nothing but a placeholder is an option of a template."""
    starts: list[tuple[int, int]] = []  # where the marker begins and ends
    for marker in _NUMBER.finditer(reply):
        line = reply[marker.end() :].split("\n", 1)[0].strip()
        if int(marker[1]) == len(starts) + 1 and not re.fullmatch(r"\{\w+\}[.,;]?", line):
            starts.append((marker.start(), marker.end()))
    if not starts:
        return []
    ends = [start for start, _ in starts[1:]] + [len(reply)]
    items = [reply[begin:end] for (_, begin), end in zip(starts, ends, strict=True)]
    items[-1] = _FAREWELL.sub("", items[-1].rstrip())
    return [_bare(item) for item in items]


def _paragraphs(reply: str) -> list[str]:
    """Take the paragraphs that hold placeholders, split at blank lines or rules."""
    parts = re.split(r"\n[ \t]*(?:[-*_=]{3,}[ \t]*)?\n", reply)
    return [_bare(part) for part in parts if part.count("{") >= 2]


def _bare(text: str) -> str:
    """Remove a title, a code fence or quotation marks around a text."""
    text = _TITLE.sub("", text.strip()).strip()
    if fenced := _FENCE.search(text):
        text = fenced[1].strip("\n")
    for mark in ('"', "'", "`"):
        if len(text) > 1 and text[0] == text[-1] == mark and mark not in text[1:-1]:
            text = text[1:-1]
    return text
