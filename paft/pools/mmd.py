"""The distance of two pools: the maximum mean discrepancy (MMD) of their embeddings (paper, section 6 and Figure 9)."""

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
    """The maximum mean discrepancy of two samples.

    squared is the unbiased estimate of the squared MMD, which may be below 0 by chance. null is the 95% quantile of this
    estimate when prompts are assigned to the two pools at random; p is the share of such assignments that give at least as
    much. biased is the root of the biased estimate, as a plot like the paper's shows it; it falls with the size of the pools
    even where there is no difference. bandwidth is that of the kernel.
    """

    squared: float
    null: float
    p: float
    biased: float
    bandwidth: float


def ngram_embeddings(texts: Sequence[str]) -> Vectors:
    """Return embeddings (texts, features) fp32 of wordings: hashed counts of character 3- to 5-grams, rows of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**14, alternate_sign=False, norm="l2")
    return np.asarray(hashing.transform([wording(t) or "empty" for t in texts]).toarray(), np.float32)


def mmd(x: Vectors, y: Vectors, width: float, seed: int = 0) -> Mmd:
    """Return the MMD of two samples under the Gaussian kernel exp(-d² / 2 width²), with a permutation test.

    The unbiased statistic is equation (3) of Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012).

    Args:
        x: (n, features), n at least 2.
        y: (m, features), m at least 2.
        width: of the kernel.
    """
    kernel = _kernel(np.concatenate([x, y]), width)
    first = np.arange(len(x) + len(y)) < len(x)
    squared = _unbiased(kernel, first)
    rng = np.random.default_rng(seed)
    null = np.array([_unbiased(kernel, rng.permutation(first)) for _ in range(_PERMUTATIONS)])
    p = float((1 + (null >= squared).sum()) / (1 + _PERMUTATIONS))
    return Mmd(squared, float(np.quantile(null, 0.95)), p, _biased(kernel, first), width)


def curve(x: Vectors, y: Vectors, width: float, sizes: Sequence[int]) -> dict[int, tuple[float, float, float]]:
    """Return, by size of random sub-pools of x, their distance to y: (unbiased squared MMD, root of the biased, null).

    The first two are means over sub-pools. The null is the 95% quantile of the unbiased estimate when the prompts of a
    sub-pool and of y are assigned to the two sides at random.
    """
    kernel = _kernel(np.concatenate([x, y]), width)
    rng = np.random.default_rng(0)
    by_size: dict[int, tuple[float, float, float]] = {}
    for size in sizes:
        values, null = [], []
        for _ in range(_DRAWS):
            rows = np.concatenate([rng.choice(len(x), size, replace=False), len(x) + np.arange(len(y))])
            some, first = kernel[np.ix_(rows, rows)], np.arange(len(rows)) < size
            values.append((_unbiased(some, first), _biased(some, first)))
            null += [_unbiased(some, rng.permutation(first)) for _ in range(_PERMUTATIONS_OF_A_DRAW)]
        unbiased, biased = np.mean(values, axis=0).tolist()
        by_size[size] = unbiased, biased, float(np.quantile(null, 0.95))
    return by_size


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
