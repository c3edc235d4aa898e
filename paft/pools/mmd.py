"""How far apart two pools are: the maximum mean discrepancy of their embeddings (paper, section 6 and Figure 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paft.prompts.similarity import Vectors, squared_distances, wording

_PERMUTATIONS = 1000
_DRAWS = 50  # sub-pools of each size on the curve
_PERMUTATIONS_OF_A_DRAW = 10


@dataclass(frozen=True)
class Mmd:
    """The distance of two samples.

    squared is the unbiased estimate (below 0 by chance where there is no difference), null its 95% quantile when prompts are
    dealt to the two pools at random, p the share of such deals that give as much. biased is the root of the biased estimate,
    which falls with the size of the pools even where there is no difference: what a plot like the paper's shows.
    """

    squared: float
    null: float
    p: float
    biased: float
    bandwidth: float


def ngram_embeddings(texts: Sequence[str]) -> Vectors:
    """Embed wordings without a model: hashed counts of their character 3- to 5-grams, rows of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**14, alternate_sign=False, norm="l2")
    return np.asarray(hashing.transform([wording(t) or "empty" for t in texts]).toarray(), np.float32)


def mmd(x: Vectors, y: Vectors, width: float, seed: int = 0) -> Mmd:
    """Compare two samples of at least two rows with a Gaussian kernel exp(-d² / 2 width²), and with a permutation null.

    The unbiased statistic is equation (3) of Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012).
    """
    kernel = _kernel(np.concatenate([x, y]), width)
    first = np.arange(len(x) + len(y)) < len(x)
    squared = _unbiased(kernel, first)
    rng = np.random.default_rng(seed)
    null = np.array([_unbiased(kernel, rng.permutation(first)) for _ in range(_PERMUTATIONS)])
    p = float((1 + (null >= squared).sum()) / (1 + _PERMUTATIONS))
    return Mmd(squared, float(np.quantile(null, 0.95)), p, _biased(kernel, first), width)


def curve(x: Vectors, y: Vectors, width: float, sizes: Sequence[int], seed: int = 0) -> dict[int, tuple[float, float, float]]:
    """Return, for sub-pools of x of each size, (unbiased squared MMD, root of the biased one, 95% null of the former) to y.

    Means over draws; the null is that of the draws' prompts dealt to both sides at random.
    """
    kernel = _kernel(np.concatenate([x, y]), width)
    rng = np.random.default_rng(seed)
    found: dict[int, tuple[float, float, float]] = {}
    for size in sizes:
        values, null = [], []
        for _ in range(_DRAWS):
            rows = np.concatenate([rng.choice(len(x), size, replace=False), len(x) + np.arange(len(y))])
            some, first = kernel[np.ix_(rows, rows)], np.arange(len(rows)) < size
            values.append((_unbiased(some, first), _biased(some, first)))
            null += [_unbiased(some, rng.permutation(first)) for _ in range(_PERMUTATIONS_OF_A_DRAW)]
        unbiased, biased = np.mean(values, axis=0).tolist()
        found[size] = unbiased, biased, float(np.quantile(null, 0.95))
    return found


def _kernel(vectors: Vectors, width: float) -> NDArray[np.float64]:
    return np.exp(-squared_distances(vectors, vectors) / (2 * width**2))


def _unbiased(kernel: NDArray[np.float64], first: NDArray[np.bool_]) -> float:
    xx, yy, xy = kernel[np.ix_(first, first)], kernel[np.ix_(~first, ~first)], kernel[np.ix_(first, ~first)]
    n, m = len(xx), len(yy)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _biased(kernel: NDArray[np.float64], first: NDArray[np.bool_]) -> float:
    xx, yy, xy = kernel[np.ix_(first, first)], kernel[np.ix_(~first, ~first)], kernel[np.ix_(first, ~first)]
    return float(np.sqrt(max(xx.mean() + yy.mean() - 2 * xy.mean(), 0.0)))
