"""What a generated text answers: an option's letter, an option's text, a number, or a text as a whole."""

import re
from collections.abc import Sequence
from typing import Literal

from paft.data.tasks.base import LETTERS

Metric = Literal["choice", "last_number", "exact"]

# In the order in which they are tried, as OpenCompass's `first_option_postprocess` has them for English
# (https://opencompass.readthedocs.io): a letter that ends the text, "Answer: B", a sentence that announces the answer, a
# letter that stands alone, "1. B", a letter before a colon, any letter. {} is the class of the letters.
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
    """Return which option's letter a text gives first; -1 if none.

    >>> first_option("The answer is (B), since A is wrong.", 4)
    1
    """
    letters = LETTERS[:n_choices]
    for pattern in _OPTION:
        if found := re.search(pattern.format(f"[{letters}]"), text.strip(), re.DOTALL):
            given = [letter for letter in letters if letter in (found[1] or found[0])]
            if given:
                return letters.index(given[0])
    return -1


def first_text(text: str, choices: Sequence[str]) -> int:
    """Return which choice's text stands first in a text, the longest of those that begin there; -1 if none does.

    White space and case aside, whole words only.

    >>> first_text("In the hall, not in the hall closet.", ["the hall closet", "the hall"])
    1
    """
    text = _plain(text)
    found = []
    for index, choice in enumerate(map(_plain, choices)):
        if match := re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text):
            found.append((match.start(), -len(choice), index))
    return min(found)[2] if found else -1


def is_right(text: str, answer: str, metric: Metric) -> bool:
    """Compare a free-form text with the right answer: by its last number, or as a whole, white space and case aside."""
    if metric == "last_number":
        return last_number(text) is not None and last_number(text) == last_number(answer)
    return _plain(text) == _plain(answer)


def last_number(text: str) -> float | None:
    """Return the last number of a text, thousands separators aside; None if there is none.

    >>> last_number("so 1,200 - 150 = 1,050.")
    1050.0
    """
    numbers = re.findall(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
