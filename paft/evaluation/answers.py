"""Reading the answer off a generated text: an option's letter or text, a number, what a pattern finds, or the whole text."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from paft.data.tasks.base import LETTERS

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
    text = plain(text)
    matches = []
    for index, choice in enumerate(map(plain, choices)):
        if match := re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text):
            matches.append((match.start(), -len(choice), index))
    return min(matches)[2] if matches else -1


def last_number(text: str) -> float | None:
    """Return the last number of a text, None if it holds none; commas are read as thousands separators.

    >>> last_number("so 1,200 - 150 = 1,050.")
    1050.0
    """
    numbers = re.findall(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def found_by(pattern: str, text: str) -> str | None:
    """Return what a regular expression finds in a text: its first group that took part, or the whole match without groups.

    Returns None if it finds nothing.

    >>> found_by("answer is ([A-Z][a-z]+)", "I think the answer is Paris.")
    'Paris'
    """
    match = re.search(pattern, text)
    if match is None:
        return None
    return next((group for group in match.groups() if group is not None), None) if match.re.groups else match[0]


def token_f1(text: str, answer: str) -> float:
    """Return the F1 of the tokens that a text shares with the right answer, as SQuAD's official script does.

    See `squad_tokens`. Tokens that occur twice count twice; without a shared token F1 is 0. Source: evaluate-v1.1.py of https://rajpurkar.github.io/SQuAD-explorer.
    """
    written, right = squad_tokens(text), squad_tokens(answer)
    shared = (Counter(written) & Counter(right)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(written), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def squad_tokens(text: str) -> list[str]:
    """Return the tokens of a text in lower case, without punctuation (ASCII) and articles, split at white space.

    >>> squad_tokens("The Broncos' 24-10 win")
    ['broncos', '2410', 'win']
    """
    letters = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", letters).split()


def plain(text: str) -> str:
    """Return a text without what metric=exact ignores: case and the kind of white space."""
    return " ".join(text.split()).casefold()
