"""Reading the answer off a generated text: an option's letter, an option's text, a number, or the text as a whole."""

import re
from collections.abc import Sequence
from typing import Literal

from paft.data.tasks.base import LETTERS, Example
from paft.evaluation.store import StoredCell

Metric = Literal["choice", "last_number", "exact"]

# The patterns of OpenCompass's `first_option_postprocess` for English (https://opencompass.readthedocs.io), in the order in
# which they are tried: a letter that ends the text, "Answer: B", a sentence that announces the answer, a letter that stands
# alone, "1. B", a letter before a colon, any letter. {} is the class of the letters.
_OPTION = (
    r"[\s:,]({})[,.]?$",
    r"(?i:answer)\s*:\s*({})",
    r"[Tt]he (?:correct )?answer is(?: option)?:?\s+\(?\**({})\**\)?",
    r"[Tt]he correct (?:answer|option|answer option) is:?.*?boxed{{({})}}",
    r"[Tt]he answer to the question is:?\s+\(?({})\)?",
    r"(?:\s|^)({})[\s.,:$]",
    r"1.\s?(.*?)$",
    r"({}):",
    r"({})",
)


def first_option(text: str, n_choices: int) -> int:
    """Return the index of the option whose letter a text gives first, -1 if it gives none.

    The patterns are OpenCompass's, as in the paper's evaluation.

    >>> first_option("The answer is (B), since A is wrong.", 4)
    1
    """
    letters = LETTERS[:n_choices]
    for pattern in _OPTION:
        if match := re.search(pattern.format(f"[{letters}]"), text.strip(), re.DOTALL):
            matched = [letter for letter in letters if letter in (match[1] or match[0])]
            if matched:
                return letters.index(matched[0])
    return -1


def first_text(text: str, choices: Sequence[str]) -> int:
    """Return the index of the choice whose text comes first in a text, -1 if none does.

    Of several choices that begin at the same place the longest counts. White space and case are ignored; only whole words
    match.

    >>> first_text("In the hall, not in the hall closet.", ["the hall closet", "the hall"])
    1
    """
    text = _plain(text)
    matches = []
    for index, choice in enumerate(map(_plain, choices)):
        if match := re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text):
            matches.append((match.start(), -len(choice), index))
    return min(matches)[2] if matches else -1


def answered(example: Example, text: str, n_tokens: int, letters: bool, metric: Metric) -> StoredCell:
    """Return the row of answer columns of a generated text.

    Args:
        n_tokens: that were generated.
        letters: where the example has choices, whether their letters are looked for in the text, or their texts.
        metric: how free-form answers are compared.
    """
    predicted = -1
    if example.choices:
        predicted = first_option(text, len(example.choices)) if letters else first_text(text, example.choices)
        correct = predicted == example.gold != -1
    else:
        correct = is_right(text, example.answer, metric)
    return {
        "log_probs": [],
        "predicted": predicted,
        "correct": correct,
        "tied": False,
        "output": text,
        "output_tokens": n_tokens,
    }


def is_right(text: str, answer: str, metric: Metric) -> bool:
    """Return whether a free-form text gives the right answer.

    metric last_number compares the last number of each; exact compares the whole texts, ignoring white space and case.
    """
    if metric == "last_number":
        return last_number(text) is not None and last_number(text) == last_number(answer)
    return _plain(text) == _plain(answer)


def last_number(text: str) -> float | None:
    """Return the last number of a text, None if it holds none; commas are read as thousands separators.

    >>> last_number("so 1,200 - 150 = 1,050.")
    1050.0
    """
    numbers = re.findall(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
