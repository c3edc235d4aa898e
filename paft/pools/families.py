"""Families of templates that nobody named: layouts read off the text, wordings by clustering.

People name the families of the prompts they write; generated ones get these.
"""

import re
from collections.abc import Sequence

from paft.prompts.similarity import wording
from paft.prompts.template import PromptTemplate

_ALIKE = 0.45  # mean cosine similarity of n-grams within a cluster; about that of two paraphrases


def layout(template: PromptTemplate, choice_fields: frozenset[str]) -> str:
    """Name the layout: the order of the parts, how options are marked and parted, where the instruction stands.

    For example `instruct goal options | A. | lines`.
    """
    pieces = re.split(r"\{(\w+)\}", template.text)  # literal, field, literal, field, ..., literal
    order: list[str] = ["instruct"] if len(wording(pieces[0]).split()) > 3 else []
    marks: list[str] = []
    parted: set[str] = set()
    for before, field, after in zip(pieces[0::2], pieces[1::2], pieces[2::2], strict=False):
        if field not in choice_fields:
            order.append(field)
        else:
            order += [] if order[-1:] == ["options"] else ["options"]
            marks.append(_mark(before))
            parted |= {"lines" if "\n" in after else "inline"}
        if len(wording(after).split()) > 8:
            order.append("instruct")
    style = [max(marks, key=marks.count), "lines" if "lines" in parted and len(parted) == 1 else "inline"] if marks else []
    return " | ".join([" ".join(order), *style])


def _mark(before: str) -> str:
    """Return how an option is marked, with its own letter or number made A or 1: `A.`, `(A)`, `Option A:`, `-`."""
    last = before.rsplit("\n", 1)[-1]
    found = re.search(r"(?:(option|choice|ending|solution)\s+)?([(\[*]*)\b([A-Z0-9])\b([)\].:*=-]*)\s*[\"'`]?$", last, re.I)
    if found:
        label = "1" if found[3].isdigit() else "A"
        return f"{(found[1] or '').capitalize()} {found[2]}{label}{found[4]}".strip()
    signs = re.search(r"([^\w\s]+)\s*$", last)
    return signs[1] if signs else "-" if not last.strip() else "words"


def wordings(templates: Sequence[PromptTemplate]) -> list[str]:
    """Name the wording family of each template: clusters of like n-grams (scikit-learn, average linkage)."""
    if len(templates) < 2:
        return ["wording-01"] * len(templates)
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.feature_extraction.text import TfidfVectorizer

    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    vectors = grams.fit_transform([wording(t.text) or "empty" for t in templates]).toarray()
    clustering = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - _ALIKE)
    numbers = clustering.fit_predict(vectors)
    order = {number: place for place, number in enumerate(dict.fromkeys(numbers), 1)}
    return [f"wording-{order[number]:02}" for number in numbers]
