"""The messages for generator models: our own wording of the paper's two strategies (section 4.1 and appendix D.1)."""

from collections.abc import Mapping, Sequence
from typing import Literal

from paft.pools.generators import Message
from paft.prompts.pool import Form

Strategy = Literal["zero-shot", "few-shot"]
STRATEGIES: tuple[Strategy, ...] = ("zero-shot", "few-shot")

_SHOWN_ROWS = 2
_SHOWN_CHARACTERS = 600  # of a field of an example row; a whole article would cost too many tokens

_SYSTEM = (
    "You write prompt templates that people use to put questions to language models. You answer with JSON and nothing else."
)


def ask(
    strategy: Strategy,
    form: Form,
    about: str,
    n: int,
    number: int,
    rows: Sequence[tuple[Mapping[str, str], str]],
) -> list[Message]:
    """Return the messages that ask a model for n templates.

    Args:
        about: the task in a sentence; may be empty.
        number: of earlier calls with the same strategy. The message mentions it, because some servers give the same answer to
            the same message.
        rows: example rows (fields, answer); an answer may be empty. The few-shot strategy shows two of them, in each call the
            next two.
    """
    fields = _in_order(form)
    placeholders = ", ".join(f"{{{name}}}" for name in fields)
    parts = [
        f"Write {n} prompt templates in English for one task.",
        f"The task: {about or 'a row of data is shown to a language model, which must give the right answer'}",
        f"A template is a text with the placeholders {placeholders}. They are replaced by the values of a row; the model then "
        f"continues the text, and what it continues with is {_answered(form)}.",
    ]
    if strategy == "few-shot":
        first = number * _SHOWN_ROWS % max(1, len(rows))
        parts.append(_examples(form, rows[first : first + _SHOWN_ROWS]))
    parts.append(
        "Rules:\n"
        f"- Every template holds each of {placeholders} exactly once, no other placeholder and no bracket to fill in.\n"
        f"- {_ending(form)}\n"
        "- A template asks for the answer and nothing else; it never contains the answer itself.\n"
        "- Make them as different as different people would: a bare cue, a question, a polite request, an instruction with "
        "reasons, an exam, a conversation; from a few words to a long paragraph; plain, formal or casual; the parts in "
        "different orders; different separators, labels, headings and marks.\n"
        f"Reply with a JSON list of {n} strings, with \\n for a line break inside a string."
    )
    if number:
        parts.insert(1, f"You have written {number} such lists before. Write other templates this time.")
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def _in_order(form: Form) -> list[str]:
    """Return the fields that a template holds, sorted, choices last."""
    return [*sorted(form.fields), *(sorted(form.choice_fields) if form.options == "shown" else ())]


def _answered(form: Form) -> str:
    """Return what the model's continuation of a template is, as a phrase of the message."""
    if not form.choice_fields:
        return "the answer"
    if form.options == "hidden":
        return "the answer itself, which the template does not show"
    if form.answer == "letter":
        return "the letter of the right option. So a template puts a letter (A, B, ...) before each option"
    return "the text of the right option, word for word"


def _ending(form: Form) -> str:
    if form.options == "hidden":
        return "Every template ends in such a way that the answer follows naturally."
    return "Every template ends in a short cue after which the answer follows at once, such as a word and a colon."


def _examples(form: Form, rows: Sequence[tuple[Mapping[str, str], str]]) -> str:
    """Return the example rows and two plain templates of the task, as a part of the message."""
    shown = []
    for fields, answer in rows:
        values = [f"{name}: {_cut(fields[name])}" for name in _in_order(form) if name in fields]
        shown.append("\n".join([*values, *([f"right answer: {_cut(answer)}"] if answer else [])]))
    templates = "\n\n".join(f"<template>\n{text}\n</template>" for text in plain_templates(form))
    return "\n\n".join(["Rows of this task look like this:", *shown, "Two templates that would do:", templates])


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS].rstrip() + " ..."


def plain_templates(form: Form) -> tuple[str, str]:
    """Return two plain templates for a task: one of labelled lines, one a paragraph."""
    fields, choices = sorted(form.fields), sorted(form.choice_fields) if form.options == "shown" else []
    labels = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if form.answer == "letter" else ""
    lines = [f"{name.capitalize()}: {{{name}}}" for name in fields]
    lines += [f"{labels[i]}. {{{name}}}" if labels else f"- {{{name}}}" for i, name in enumerate(choices)]
    options = "; ".join(f"({labels[i]}) {{{name}}}" if labels else f"{{{name}}}" for i, name in enumerate(choices))
    first = " ".join(f"{{{name}}}" for name in fields)
    second = f"{first} Choose from these: {options}. The answer is" if choices else f"{first}\nThe answer is"
    return "\n".join([*lines, "Answer:"]), second
