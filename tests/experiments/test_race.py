"""The page of the kept RACE runs: it comes from their scores, and its intervals by family hold for other articles."""

import shutil
import sys

import numpy as np

import experiments.race as race
from paft.evaluation.statistics import of_these_prompts


def test_the_kept_page_is_what_its_scores_give(tmp_path, monkeypatch):
    kept = tmp_path / "race_qwen05"
    shutil.copytree(race.KEPT, kept)
    before = (kept / "README.md").read_text()
    (kept / "README.md").unlink()
    monkeypatch.setattr(race, "KEPT", kept)
    monkeypatch.setattr(sys, "argv", ["race"])
    race.main()
    assert (kept / "README.md").read_text() == before
    assert before.count("-letter-test-") == 50 and "| trailing-labels-over-article | 3 |" in before


def test_an_interval_for_other_articles_holds_the_truth_19_times_in_20():
    rng, held = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(50), 4)
    for _ in range(400):
        article = rng.normal(0, 0.2, 50)[groups]
        a = (rng.random((1, 2, 200)) < 0.5 + article).astype(float)
        found = of_these_prompts(a.mean(0), groups)
        held += int(found.low is not None and found.high is not None and found.low <= 0.5 <= found.high)
    assert 0.92 <= held / 400 <= 0.98
