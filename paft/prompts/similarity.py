"""Similarity of templates: near-copies by their letters, and distances between prompt vectors."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

Vectors = NDArray[np.float32]  # embeddings of prompts: (prompts, features), rows of length 1
NEAR_COPY = 0.9  # similarity from which two wordings count as copies of each other

_FIELD = re.compile(r"\{\w+\}")
# Letters of any script, with the marks that are written on them; Python's \w leaves those out.
_ACCENTS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)).startswith("M"))
_WORD = re.compile(rf"(?:[^\W\d_][{_ACCENTS}]*)+")


def wording(text: str) -> str:
    """Return the words of a template in lower case, separated by one space, without fields, digits and punctuation."""
    return " ".join(_WORD.findall(_FIELD.sub(" ", text).lower()))


class Wordings:
    """A growing list of wordings that new ones are compared with.

    Similarity is rapidfuzz's `ratio`, from 0 to 1: 1 - (insertions + deletions) / (sum of both lengths).
    """

    def __init__(self) -> None:
        self._wordings: list[str] = []

    def add(self, new: str) -> None:
        """Append a wording; its number is the length of the list before."""
        self._wordings.append(new)

    def __len__(self) -> int:
        return len(self._wordings)

    def nearest_copy(self, new: str) -> tuple[int, float] | None:
        """Return (number, similarity) of the most similar wording if it is a near-copy of the new one, else None."""
        match = process.extractOne(new, self._wordings, scorer=fuzz.ratio, score_cutoff=100 * NEAR_COPY)
        return None if match is None else (match[2], match[1] / 100)


def count_wordings(texts: Iterable[str]) -> int:
    """Count the templates that are not near-copies of an earlier one: 400 composed prompts are not 400 wordings."""
    different = Wordings()
    for words in map(wording, texts):
        if different.nearest_copy(words) is None:
            different.add(words)
    return len(different)


def similarities(some: Sequence[str], others: Sequence[str]) -> NDArray[np.float32]:
    """Return the similarity of each of `some` to each of `others`: (len(some), len(others)) float32, from 0 to 1."""
    return np.asarray(process.cdist(some, others, scorer=fuzz.ratio, dtype=np.float32, workers=-1) / 100, np.float32)


@dataclass(frozen=True)
class Copy:
    """A template that is too like another one to count as a prompt of its own.

    template and of are the indices of the two. similarity is that of their wordings, from 0 to 1.
    """

    template: int
    of: int
    kind: Literal["copy", "same wording", "near-copy"]
    similarity: float


def copies(texts: Sequence[str], of: Sequence[str], alike: NDArray[np.float32] | None = None) -> list[Copy]:
    """Return each pair of a template of `texts` and one of `of` that are copies or near-copies, in the order of `texts`.

    Args:
        alike: the similarities of their wordings, (len(texts), len(of)), where they are known already.
    """
    words, others = [wording(text) for text in texts], [wording(text) for text in of]
    alike = similarities(words, others) if alike is None else alike
    found = []
    for i, j in zip(*np.nonzero(alike >= NEAR_COPY), strict=True):
        same: Literal["same wording", "near-copy"] = "same wording" if words[i] == others[j] else "near-copy"
        found.append(Copy(int(i), int(j), "copy" if texts[i] == of[j] else same, float(alike[i, j])))
    return found


def bandwidth(vectors: Vectors) -> float:
    """Return the bandwidth of a Gaussian kernel: the median distance between rows (Gretton et al. 2012, section 8)."""
    distances = np.sqrt(squared_distances(vectors, vectors))
    return float(np.median(distances[np.triu_indices(len(vectors), 1)]))


def squared_distances(x: Vectors, y: Vectors) -> NDArray[np.float64]:
    """Return the squared distance of each row of x to each row of y: (len(x), len(y)) float64."""
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    products = x64 @ y64.T
    return np.maximum((x64**2).sum(1)[:, None] + (y64**2).sum(1)[None] - 2 * products, 0.0)
