"""ZOPO: zeroth-order prompt optimisation (Hu et al., "Localized Zeroth-Order Prompt Optimization", arXiv 2403.02993).

The candidates are the training prompts. The score of a prompt has no gradient, but the mean of a Gaussian process that is
fitted to scores over embeddings has one. The next prompt to test is the untested one nearest to a step along this gradient
from the best so far. Two things are simpler than in the original: the kernel (radial basis functions instead of a neural
tangent kernel), and the exploration (a random start alone).
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
        seed: of the random start.
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
    trace = tuple(Trial(templates[i].id, accuracy, n) for i, accuracy in zip(tested, scores, strict=True))
    return Selection(templates[tested[int(np.argmax(scores))]], trace)


def next_prompt(embeddings: Vectors, tested: list[int], scores: Scores, width: float) -> int:
    """Return the index of the untested prompt nearest to a step along the surrogate's gradient from the best tested one.

    Args:
        embeddings: (prompts, features).
        tested: indices of the tested prompts.
        scores: (tested prompts,), in the same order.
        width: of the kernel, and length of the step.
    """
    best = embeddings[tested[int(scores.argmax())]].astype(np.float64)
    gradient = surrogate_gradient(embeddings[tested].astype(np.float64), scores, best, width)
    length = np.linalg.norm(gradient)
    target = best + (width * gradient / length if length > 0 else 0.0)
    distances = np.linalg.norm(embeddings - target, axis=1)
    distances[tested] = np.inf
    return int(distances.argmin())


def surrogate_gradient(x: NDArray[np.float64], scores: Scores, at: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return the gradient (features,), at a point, of the mean of a Gaussian process fitted to scores.

    The kernel is variance * exp(-d² / 2 width²) plus independent noise; both variances are fitted by maximum likelihood
    (scikit-learn).

    Args:
        x: (n, features), where the scores (n,) were measured.
        at: (features,), the point.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(width, "fixed") + WhiteKernel(0.1, (1e-3, 1e1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fitted variance at its bound, which is usual for few scores
        process = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, scores)
    signal = process.kernel_.k1
    weights = signal(at[None], x)[0] * process.alpha_
    return np.asarray((weights[:, None] * (x - at)).sum(axis=0) / width**2)
