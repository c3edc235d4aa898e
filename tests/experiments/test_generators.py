"""The page over constructions of prompts by models."""

import json
import sys

import pytest

from experiments.generators import construction, main, page
from paft.runtime.errors import InputError

CONTENT = {
    "name": "story_facts", "answer": "text", "options": "shown", "calls": 24, "per_call": 1, "candidates": 43, "kept": 2,
    "rejected": {"fields": 23, "unreadable": 18}, "generators": {"small": {"candidates": 43, "kept": 2}},
    "tokens": {"prompt": 9583, "completion": 3046, "replies_that_do_not_say": 0}, "seed": 0,
}  # fmt: skip


def test_a_construction_is_a_row(tmp_path):
    (tmp_path / "construction.json").write_text(json.dumps(CONTENT))
    row = next(line for line in page([construction(tmp_path)]) if "small" in line)
    assert row == "| small | story_facts | shown | 0 | 1 | 24 | 3,046 | 43 | 2 (5%) | fields 23, unreadable 18 |"


def test_a_folder_without_a_construction_or_of_an_older_version_is_named(tmp_path):
    with pytest.raises(InputError, match=r"construction\.json cannot be read; name folders that `paft pools construct`"):
        construction(tmp_path)
    (tmp_path / "construction.json").write_text(json.dumps({"per_call": 1}))
    with pytest.raises(InputError, match=r"construction\.json lacks generators, options, seed; give its"):
        construction(tmp_path)


def test_the_page_says_at_which_commit_it_was_made(tmp_path, monkeypatch):
    (tmp_path / "construction.json").write_text(json.dumps(CONTENT))
    monkeypatch.setattr(sys, "argv", ["generators", str(tmp_path), "--report", str(tmp_path / "page")])
    main()
    assert "Made by `python -m experiments.generators FOLDER ...` at " in (tmp_path / "page" / "README.md").read_text()
    assert json.loads((tmp_path / "page" / "results.json").read_text())["constructions"][0]["seed"] == 0
