"""Replies of generator models, in the forms in which they really come."""

import json

import pytest

from paft.pools.replies import read_whole, templates_in

ONE = "Question: {question}\nA. {A}\nB. {B}\nAnswer:"
TWO = "{question} Is it {A} (A) or {B} (B)? Letter:"
BOTH = [ONE, TWO]

REPLIES = {
    "json": json.dumps(BOTH),
    "json, indented": json.dumps(BOTH, indent=2),
    "json in a fence": f"```json\n{json.dumps(BOTH)}\n```",
    "chatter around a fence": f"Sure! Here are 2 templates:\n\n```\n{json.dumps(BOTH)}\n```\nLet me know if you need more.",
    "chatter around json": f"Here you are: {json.dumps(BOTH)} Enjoy!",
    "objects": json.dumps([{"id": 1, "template": ONE}, {"id": 2, "template": TWO}]),
    "an object with a list": json.dumps({"templates": BOTH}),
    "one object a line": "\n".join(json.dumps({"text": text}) for text in BOTH),
    "raw line breaks in strings": '["' + ONE + '", "' + TWO + '"]',
    "a trailing comma": json.dumps(BOTH)[:-1] + ",]",
    "numbered": f"1. {ONE}\n2. {TWO}",
    "numbered with chatter": f"Here are two:\n\n1) {ONE}\n\n2) {TWO}\n\nI hope these help you. Good luck!",
    "numbered with titles": f"**1. The exam**\n{ONE}\n\n**2. The chat**\n{TWO}",
    "headings": f"### Template 1:\n{ONE}\n\n### Template 2:\n{TWO}",
    "fences": f"First:\n```\n{ONE}\n```\nSecond:\n```text\n{TWO}\n```",
    "numbered fences": f"1. Exam:\n```\n{ONE}\n```\n2. Chat:\n```\n{TWO}\n```",
    "quoted": f'1. "{ONE}"\n2. "{TWO}"',
    "paragraphs": f"{ONE}\n\n{TWO}",
    "rules": f"{ONE}\n---\n{TWO}",
    "two fenced lists": f"```json\n{json.dumps([ONE])}\n```\nand\n```json\n{json.dumps([TWO])}\n```",
    "two lists": f"{json.dumps([ONE])}\n{json.dumps([TWO])}",
    "an object with keys of its own": json.dumps({"template1": ONE, "template2": TWO}),
    "nested objects": json.dumps({"prompts": {"1": ONE, "2": TWO}}),
    "objects with an unusual key": json.dumps([{"id": 1, "prompt_template": ONE}, {"id": 2, "prompt_template": TWO}]),
    "numbered from ten": f"10. {ONE}\n11. {TWO}",
    "tags": f"<template>\n{ONE}\n</template>\n\n<template>\n{TWO}\n</template>",
    "a tag left open": f"Two:\n<template>\n{ONE}\n\n<template>\n{TWO}\n</template>\nGood luck!",
    "tags in a fence": f"```\n<template>\n{ONE}\n</template>\n<template>\n{TWO}\n</template>\n```",
    "tags in json": json.dumps([f"<template>\n{text}\n</template>" for text in BOTH]),
    "quoted lines with dashes": "\n".join(f"- {json.dumps(text)}" for text in BOTH),
}


@pytest.mark.parametrize("form", REPLIES)
def test_templates_are_found(form):
    assert templates_in(REPLIES[form]) == BOTH


def test_numbered_options_are_no_items():
    options = "Question: {question}\n1. {A}\n2. {B}\nAnswer:"
    assert templates_in(f"1. {options}\n2. {TWO}\n3. {ONE}") == [options, TWO, ONE]


def test_a_template_with_blank_lines_is_not_lost():
    spaced = "Q {question}\n\nA. {A}\n\nB. {B}\n\nAnswer:"
    assert templates_in(spaced) == [spaced] and read_whole(spaced)


def test_what_is_left_over_is_known():
    assert read_whole(json.dumps(BOTH)) and not read_whole(f"{json.dumps([ONE])}\nOr else: {TWO}")


def test_a_reply_that_was_cut_off_gives_what_is_whole():
    cut = json.dumps([ONE, TWO, ONE.replace("Question", "Riddle")])[:-30]
    assert templates_in(cut)[:2] == BOTH


@pytest.mark.parametrize(
    "reply",
    ["", "I'm sorry, but I can't help with that.", "[]", "{}", "null", "1.\n2.\n3.", "```\n```", "{", "[[[[", '["', "\x00"],
)
def test_a_refusal_gives_nothing(reply):
    assert templates_in(reply) == []
