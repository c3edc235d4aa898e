"""Reading candidate templates out of a model's reply: JSON, code fences, tags, numbered lists, quotations, or paragraphs."""

import json
import re
from typing import Any

import json_repair

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.S)
_NUMBER = re.compile(
    r"^[ \t]*(?:\*\*|#+[ \t]*)?(?:(?:prompt|template)[ \t]*)?#?(\d{1,3})[.):][ \t]*(?:\*\*)?[ \t]*", re.I | re.M
)
_TAGGED = re.compile(r"<template>(.*?)(?:</template>|(?=<template>)|\Z)", re.S | re.I)  # as requests show templates
_TITLE = re.compile(r"^[^{}\n]*\*\*:?[ \t]*\n|^[^{}\n]{1,60}:[ \t]*\n(?=```)")
_FAREWELL = re.compile(r"\n[ \t]*\n[^{}]*[.!?]\Z")  # a last paragraph of whole sentences, without a placeholder
_PLACEHOLDER = re.compile(r"\{\w+\}")
_JSON = re.compile(r"\[\s*[\"'{\[]|\{\s*\"[^\"\n]{1,60}\"\s*:")
_QUOTED = re.compile(r"^[ \t]*(?:[-*•][ \t]+)?[\"“](.+)[\"”],?[ \t]*$", re.M)
_TEXT_KEYS = ("text", "template", "prompt", "content")


def templates_in(reply: str) -> list[str]:
    """Return the texts that a reply offers as templates, in their order; an empty list if there are none.

    Only texts with a {placeholder} count. Texts that are no template all the same, e.g. a comment in a list, are left to
    screening. A reply in none of the known formats is taken as a single text.
    """
    readers = (_json, _tagged, _fences, _numbered, _quoted, _paragraphs, lambda text: [_bare(text)])
    return next((texts for read in readers if (texts := _with_placeholders(read(reply)))), [])


def read_whole(reply: str) -> bool:
    """Return whether all placeholders of a reply are in the templates that templates_in returns."""
    return len(_PLACEHOLDER.findall(reply)) <= sum(len(_PLACEHOLDER.findall(text)) for text in templates_in(reply))


def _with_placeholders(texts: list[str]) -> list[str]:
    return [text for text in map(_untagged, texts) if _PLACEHOLDER.search(text)]


def _untagged(text: str) -> str:
    return tagged[1].strip() if (tagged := _TAGGED.fullmatch(text.strip())) else text


def _tagged(reply: str) -> list[str]:
    return [text.strip() for text in _TAGGED.findall(reply)]


def _json(reply: str) -> list[str]:
    """Return the texts in JSON lists and objects, of which a reply may hold several, damaged or cut off (json_repair)."""
    blocks = [block for block in _FENCE.findall(reply) if block.lstrip()[:1] in ("[", "{")]
    return [text for block in blocks or [reply] for text in _all_json(block)]


def _all_json(text: str) -> list[str]:
    """Return the templates of one JSON value after the other; what follows a damaged value is read as part of it."""
    texts: list[str] = []
    decoder, at = json.JSONDecoder(strict=False), 0
    while start := _JSON.search(text, at):
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            value, at = json_repair.loads(text[start.start() :]), len(text)
        texts += _strings(value)
    return texts


def _strings(value: Any) -> list[str]:
    """Return the templates in a JSON value; of an object the one under a usual key, else all texts with placeholders."""
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _strings(item)]
        case dict():
            named = [value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)]
            return named[:1] or [text for item in value.values() for text in _with_placeholders(_strings(item))]
    return []


def _quoted(reply: str) -> list[str]:
    """Return the lines in quotation marks, with or without a bullet before them."""
    return [text.replace("\\n", "\n") for text in _QUOTED.findall(reply)]


def _fences(reply: str) -> list[str]:
    """Return each code block as a template; a single block with a numbered list is read as the list."""
    blocks = [block.strip("\n") for block in _FENCE.findall(reply)]
    return (_numbered(blocks[0]) or blocks) if len(blocks) == 1 else blocks


def _numbered(reply: str) -> list[str]:
    """Return the items of a numbered list: 1., 2., 3. ... in this order.

    A numbered line that holds nothing but a placeholder does not begin an item; it is an option of a template.
    """
    starts: list[tuple[int, int]] = []  # beginning and end of each item's number
    markers = list(_NUMBER.finditer(reply))
    first = 1 if any(marker[1] == "1" for marker in markers) or not markers else int(markers[0][1])
    for marker in markers:
        line = reply[marker.end() : marker.end() + 200].split("\n", 1)[0].strip()
        if int(marker[1]) == first + len(starts) and not re.fullmatch(r"\{\w+\}[.,;]?", line):
            starts.append((marker.start(), marker.end()))
    if not starts:
        return []
    ends = [start for start, _ in starts[1:]] + [len(reply)]
    items = [reply[begin:end] for (_, begin), end in zip(starts, ends, strict=True)]
    last = items[-1].rstrip()
    items[-1] = last[:-600] + _FAREWELL.sub("", last[-600:])
    return [_bare(item) for item in items]


def _paragraphs(reply: str) -> list[str]:
    """Return the paragraphs, split at blank lines and rules, that hold at least two placeholders."""
    parts = re.split(r"\n[ \t]*(?:[-*_=]{3,}[ \t]*)?\n", reply)
    return [_bare(part) for part in parts if part.count("{") >= 2]


def _bare(text: str) -> str:
    """Return a text without a title before it, and without a code fence or quotation marks around it."""
    text = _TITLE.sub("", text.strip()).strip()
    if fenced := _FENCE.search(text):
        text = fenced[1].strip("\n")
    for mark in ('"', "'", "`"):
        if len(text) > 1 and text[0] == text[-1] == mark and mark not in text[1:-1]:
            text = text[1:-1]
    return text
