"""ZOPO: zeroth-order prompt optimisation (Hu et al., "Localized Zeroth-Order Prompt Optimization", arXiv 2403.02993).

The candidates are the training prompts. A Gaussian process over their embeddings stands in for the score, which has no
gradient; its mean does, and the next prompt is the untested one nearest to a step along it from the best so far. Simpler than
the original in its kernel (radial basis functions instead of a neural tangent kernel) and in exploring by a random start
alone.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from paft.prompts.similarity import Vectors, bandwidth
from paft.selection.budget import START
from paft.selection.scorer import Scorer, Scores, Selection, Trial

_TESTED = 4  # one prompt in four is tested, each on four times as many examples as when all are


def zopo(score: Scorer, embeddings: Vectors, seed: int) -> Selection:
    """Test a quarter of the prompts, one by one, and choose the best; of equals the first tested.

    Args:
        embeddings: (prompts of the pool, features), rows of length 1.
    """
    templates = score.pool.templates
    n_tests = min(max(START, len(templates) // _TESTED), len(templates), score.budget)
    n = score.share(n_tests)
    order = np.random.default_rng(seed).permutation(len(templates)).tolist()
    tested: list[int] = []
    scores: list[float] = []
    width = bandwidth(embeddings) if len(templates) > 1 else 1.0
    while len(tested) < n_tests:
        new = order[len(tested)] if len(tested) < START else next_prompt(embeddings, tested, np.array(scores), width)
        tested.append(new)
        scores.append(float(score([templates[new]], n)[0]))
    trace = tuple(Trial(templates[i].id, found, n) for i, found in zip(tested, scores, strict=True))
    return Selection(templates[tested[int(np.argmax(scores))]], trace)


def next_prompt(embeddings: Vectors, tested: list[int], scores: Scores, width: float) -> int:
    """Return the untested prompt nearest to a step of `width` along the surrogate's gradient, from the best tested one."""
    best = embeddings[tested[int(scores.argmax())]].astype(np.float64)
    gradient = surrogate_gradient(embeddings[tested].astype(np.float64), scores, best, width)
    length = np.linalg.norm(gradient)
    target = best + (width * gradient / length if length > 0 else 0.0)
    distances = np.linalg.norm(embeddings - target, axis=1)
    distances[tested] = np.inf
    return int(distances.argmin())


def surrogate_gradient(x: NDArray[np.float64], scores: Scores, at: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return the gradient (features,) of the mean of a Gaussian process that was fitted to scores (n,) at x (n, features).

    The kernel is variance * exp(-d² / 2 width²) and independent noise; both variances are the likeliest (scikit-learn).
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(width, "fixed") + WhiteKernel(0.1, (1e-3, 1e1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at its bound: with few scores that is usual
        process = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, scores)
    signal = process.kernel_.k1
    weights = signal(at[None], x)[0] * process.alpha_
    return np.asarray((weights[:, None] * (x - at)).sum(axis=0) / width**2)
