"""The families of generated templates: layouts are read off the text, wordings are clustered.

People name the families of the prompts that they write; generated prompts get these instead.
"""

import re
from collections.abc import Sequence

from paft.prompts.similarity import wording
from paft.prompts.template import PromptTemplate

_LEAST_SIMILARITY = 0.45  # mean cosine similarity of n-grams within a cluster; about that of two paraphrases


def layout(template: PromptTemplate, choice_fields: frozenset[str]) -> str:
    """Return the name of a template's layout: the order of its parts, the mark of its options, and their separation.

    For example `instruct goal options | A. | lines`: an instruction, the field goal, then the options, marked `A.` and each on
    a line of its own.
    """
    pieces = re.split(r"\{(\w+)\}", template.text)  # literal, field, literal, field, ..., literal
    order: list[str] = ["instruct"] if len(wording(pieces[0]).split()) > 3 else []
    marks: list[str] = []
    separations: set[str] = set()
    for before, field, after in zip(pieces[0::2], pieces[1::2], pieces[2::2], strict=False):
        if field not in choice_fields:
            order.append(field)
        else:
            order += [] if order[-1:] == ["options"] else ["options"]
            marks.append(_mark(before))
            separations |= {"lines" if "\n" in after else "inline"}
        if len(wording(after).split()) > 8:
            order.append("instruct")
    style = [max(marks, key=marks.count), "lines" if separations == {"lines"} else "inline"] if marks else []
    return " | ".join([" ".join(order), *style])


def _mark(before: str) -> str:
    """Return the mark of an option, its letter or number replaced by A or 1: `A.`, `(A)`, `Option A:`, `-`.

    Args:
        before: the text before the option's field.
    """
    line = before.rsplit("\n", 1)[-1]
    label = re.search(r"(?:(option|choice|ending|solution)\s+)?([(\[*]*)\b([A-Z0-9])\b([)\].:*=-]*)\s*[\"'`]?$", line, re.I)
    if label:
        symbol = "1" if label[3].isdigit() else "A"
        return f"{(label[1] or '').capitalize()} {label[2]}{symbol}{label[4]}".strip()
    signs = re.search(r"([^\w\s]+)\s*$", line)
    return signs[1] if signs else "-" if not line.strip() else "words"


def wordings(templates: Sequence[PromptTemplate]) -> list[str]:
    """Return the wording family of each template: its cluster by n-grams (scikit-learn, average linkage).

    Families are numbered in the order in which they first occur: `wording-01`, `wording-02`, ...
    """
    if len(templates) < 2:
        return ["wording-01"] * len(templates)
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.feature_extraction.text import TfidfVectorizer

    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    vectors = grams.fit_transform([wording(t.text) or "empty" for t in templates]).toarray()
    clustering = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - _LEAST_SIMILARITY)
    numbers = clustering.fit_predict(vectors)
    rank = {number: i for i, number in enumerate(dict.fromkeys(numbers), 1)}
    return [f"wording-{rank[number]:02}" for number in numbers]
