"""Searches for one prompt: they choose what scores best, keep to their budget, and a gradient leads somewhere."""

from collections.abc import Sequence

import numpy as np
import pytest

from paft.prompts import PromptPool, PromptTemplate
from paft.selection.budget import START
from paft.selection.robust import KINDS, robust
from paft.selection.top_accuracy import top_accuracy
from paft.selection.zopo import next_prompt, surrogate_gradient, zopo


class Judge:
    """Scores as Scorer does, from a table of accuracies by the prompt's first word."""

    def __init__(self, accuracies: Sequence[float], budget: int, n_examples: int = 50) -> None:
        texts = [f"word{i:02} please read the question: {{question}} Answer:" for i in range(len(accuracies))]
        self.pool = PromptPool(
            "train", tuple(PromptTemplate(text, f"p{i:02}") for i, text in enumerate(texts)), "text", "shown"
        )
        self.accuracies, self.budget, self.n_examples = dict(enumerate(accuracies)), budget, n_examples
        self.spent = 0
        self.asked: list[str] = []

    def __call__(self, templates: Sequence[PromptTemplate], n_examples: int) -> np.ndarray:
        self.spent += len(templates) * n_examples
        self.asked += [t.id for t in templates]
        return np.array(
            [self.accuracies[int(t.id[1:3])] - (0.5 if "-typos" in t.id and t.id < "p05" else 0) for t in templates]
        )

    def share(self, n_templates: int) -> int:
        return min(self.budget // n_templates, self.n_examples)


def test_top_accuracy_takes_the_first_of_the_best():
    judge = Judge([0.1, 0.7, 0.4, 0.7], budget=41)
    found = top_accuracy(judge)
    assert found.chosen.id == "p01" and judge.spent == 40
    assert [(trial.prompt, trial.score, trial.renderings) for trial in found.trace][1] == ("p01", 0.7, 10)


def test_robust_prefers_what_holds_when_perturbed():
    judge = Judge([0.9] * 5 + [0.8] * 3, budget=8 * len(KINDS) * 3)
    found = robust(judge, seed=0)  # the first five lose half a point to a typo
    assert found.chosen.id == "p05" and judge.spent <= judge.budget
    assert robust(Judge([0.9] * 5 + [0.8] * 3, budget=8 * len(KINDS) * 3), seed=0) == found
    assert "{question}" in found.chosen.text


def circle(n: int) -> np.ndarray:
    angles = np.linspace(0, np.pi, n)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_zopo_climbs_to_a_peak_that_its_start_did_not_see():
    """On a smooth ridge of 60 prompts, far fewer tests find one of the best than chance would."""
    x = np.linspace(-1, 1, 60)
    reached = []
    for seed in range(20):
        judge = Judge((0.9 - (x - 0.4) ** 2).tolist(), budget=150, n_examples=10)
        found = zopo(judge, circle(60), seed)
        assert judge.spent == 150 and len(set(judge.asked)) == 15
        reached.append(max(t.score for t in found.trace) - max(t.score for t in found.trace[:START]))
        assert found.chosen.id == max(found.trace, key=lambda t: t.score).prompt
    assert np.mean([judge_gain > 0 for judge_gain in reached]) > 0.5
    assert found.trace != zopo(Judge((0.9 - (x - 0.4) ** 2).tolist(), budget=150, n_examples=10), circle(60), 1).trace


def test_zopo_tests_no_prompt_twice_and_no_more_than_there_are():
    judge = Judge([0.5] * 4, budget=10_000)
    found = zopo(judge, circle(4), seed=3)  # all alike: no gradient
    assert sorted(judge.asked) == ["p00", "p01", "p02", "p03"] and len(found.trace) == 4


def test_the_gradient_is_that_of_the_surrogate():
    """Against a finite difference of scikit-learn's own prediction."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    rng = np.random.default_rng(0)
    x, at, width = rng.normal(size=(12, 3)), rng.normal(size=3), 1.5
    scores = np.sin(x[:, 0]) + 0.1 * x[:, 1]
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(width, "fixed") + WhiteKernel(0.1, (1e-3, 1e1))
    process = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, scores)
    steps = 1e-5 * np.eye(3)
    numeric = [(process.predict([at + s])[0] - process.predict([at - s])[0]) / 2e-5 / scores.std() for s in steps]
    assert surrogate_gradient(x, scores, at, width) == pytest.approx(numeric, rel=1e-3)


def test_the_next_prompt_lies_uphill():
    line = np.linspace(0, 1, 11)[:, None].astype(np.float32)
    assert next_prompt(line, [2, 4], np.array([0.2, 0.6]), width=0.2) > 4
    assert next_prompt(line, [6, 8], np.array([0.6, 0.2]), width=0.2) < 6
