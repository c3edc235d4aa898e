"""What most prompts answer, and how much prompts agree."""

import numpy as np
import pytest

from paft.evaluation.disagreement import Answers


def test_agreement_counts_pairs_of_prompts():
    codes = np.array([[0, 1, 2], [0, 1, 0], [0, 2, 1]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert Answers(codes).agreement == pytest.approx(np.mean([(codes[a] == codes[b]).mean() for a, b in pairs]))


def test_no_answer_agrees_with_nothing():
    assert Answers(np.array([[-1, 0, -1], [-1, 0, 1]])).agreement == pytest.approx(1 / 3)
    assert Answers(np.full((3, 2), -1)).agreement == 0


def test_the_majority_decides_and_the_first_of_equals():
    assert Answers(np.array([[0, 1, 2], [0, 2, 1], [1, 2, 1], [1, 2, 2]])).majority.tolist() == [0, 2, 1]


def test_no_answer_is_no_vote():
    answers = Answers(np.array([[-1, -1], [-1, -1], [1, -1]]))
    assert answers.majority.tolist() == [1, -1] and answers.votes.tolist() == [[0, 1], [0, 0]]
