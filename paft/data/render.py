"""Putting an example into a template: the rendering as a text, with other examples and their answers before it (few-shot)."""

import unicodedata
from collections.abc import Sequence

from paft.data.tasks.base import LETTERS, Example
from paft.prompts.options import with_options
from paft.prompts.pool import Answer
from paft.prompts.template import PromptTemplate

# Scripts that put no space between words, by the first word of their characters' Unicode names.
_WITHOUT_SPACES = (
    "CJK", "IDEOGRAPHIC", "FULLWIDTH", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "THAI", "LAO", "KHMER",
    "MYANMAR", "TIBETAN", "JAVANESE", "YI",
)  # fmt: skip


def render(template: PromptTemplate, example: Example) -> str:
    """Return an example under a template, with as many options as the example has."""
    return fitted(template, example).render(example.fields)


def fitted(template: PromptTemplate, example: Example) -> PromptTemplate:
    """Return the template with as many options as the example has."""
    return with_options(template, len(example.choices)) if example.choices_vary else template


def offered(example: Example, answer: Answer) -> list[str]:
    """Return the answers that an example offers: the letters or the texts of its choices (none for free-form answers)."""
    return list(LETTERS[: len(example.choices)]) if answer == "letter" else list(example.choices)


def answers_under(template: PromptTemplate, example: Example, answer: Answer) -> list[str]:
    """Return the answers that an example offers under a template, which may show the options in another order."""
    return list(fitted(template, example).letters) or offered(example, answer)


def right_answer(template: PromptTemplate, example: Example, answer: Answer) -> str:
    """Return the right answer of an example under a template."""
    return answers_under(template, example, answer)[example.gold] if example.choices else example.answer


def render_with_shots(
    template: PromptTemplate, example: Example, shots: Sequence[Example], answer: Answer, space: bool | None
) -> str:
    """Return an example under a template, behind the shots in the same template with their answers, each with a blank line.

    Args:
        space: whether a space comes before an answer where the prompt ends without white space; None: unless the script has
            none.
    """
    return "".join(f"{_answered(template, shot, answer, space)}\n\n" for shot in shots) + render(template, example)


def _answered(template: PromptTemplate, shot: Example, answer: Answer, space: bool | None) -> str:
    rendered, right = render(template, shot), right_answer(template, shot, answer)
    context, white_space = split_white_space(rendered)
    return context + (space_before(right, context, space) if white_space is None else white_space) + right


def split_white_space(prompt: str) -> tuple[str, str | None]:
    """Return a prompt without the white space at its end, and that white space, which belongs to the answer (None: none)."""
    context = prompt.rstrip()
    return context, prompt[len(context) :] or None


def space_before(answer: str, context: str, space: bool | None) -> str:
    """Return what separates a prompt without white space at its end from its answer.

    Args:
        space: as in render_with_shots.
    """
    if space is not None:
        return " " if space else ""
    return "" if any(_has_no_spaces(character) for character in context[-1:] + answer[:1]) else " "


def _has_no_spaces(character: str) -> bool:
    return unicodedata.name(character, "").split(" ")[0] in _WITHOUT_SPACES
