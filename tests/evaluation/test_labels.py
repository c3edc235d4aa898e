"""How each label is answered: recall over prompts and under the worst, precision, and where they are not defined."""

import numpy as np
import pytest

from paft.evaluation.labels import LabelScore, by_label
from tests.reporting.test_warnings import matrix


def test_each_label_has_its_recall_and_its_precision():
    gold = np.array([0, 0, 0, 1])
    predicted = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    found = by_label(matrix(predicted, gold, 3), ["bad", "good", "mixed"])
    assert found["bad"] == LabelScore(3, pytest.approx(1 / 2), pytest.approx(1 / 3), 3 / 8, 1.0)
    assert found["good"] == LabelScore(1, 1.0, 1.0, 5 / 8, pytest.approx(2 / 5))
    assert found["mixed"] == LabelScore(0, None, None, 0.0, None)
    assert list(found) == ["bad", "good", "mixed"]


def test_rows_without_right_answers_show_what_is_answered_alone():
    found = by_label(matrix(np.array([[0, 1]]), np.array([-1, -1]), 2), ["bad", "good"])
    assert found["bad"] == LabelScore(0, None, None, 0.5, None)
