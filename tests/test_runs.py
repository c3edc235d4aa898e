"""Run folders: what a kill leaves in one is no reason to refuse it."""

import pytest

from paft.errors import InputError
from paft.runs import claim


def test_a_folder_that_a_kill_left_before_it_had_its_mark_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.tmp").write_text("{")
    folder = claim(str(tmp_path), "run", {"config": 1})
    folder.create()
    assert claim(str(tmp_path), "run", {"config": 1}) == folder
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="this folder is not one of ours"):
        claim(str(tmp_path), "foreign", {"config": 1})
