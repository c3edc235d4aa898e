"""Run folders: what a kill leaves in one is no reason to refuse it."""

import subprocess
import sys

import pytest

from paft.runtime.errors import InputError
from paft.runtime.run_folder import claim


def test_a_folder_that_a_kill_left_before_it_had_its_mark_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.tmp").write_text("{")
    folder = claim(str(tmp_path), "run", {"config": 1})
    with folder.held():
        pass
    assert claim(str(tmp_path), "run", {"config": 1}) == folder
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="this folder is not one of ours"):
        claim(str(tmp_path), "foreign", {"config": 1})


def test_two_processes_never_work_on_one_run(tmp_path):
    folder = claim(str(tmp_path), "run", {"config": 1})
    hold = f"""
from paft.runtime.run_folder import claim
with claim({str(tmp_path)!r}, "run", {{"config": 1}}).held():
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process is at work on this run"), folder.held(patience_s=0.1):
        pytest.fail("held twice")
    other.kill()
    other.wait()
    with folder.held():  # a killed process leaves no lock behind
        pass


@pytest.mark.parametrize("earlier", ["0123456789abcdef", "a/b@None", None])
def test_a_run_of_a_version_that_recorded_less_of_its_model_is_refused(tmp_path, earlier):
    with claim(str(tmp_path), "run", {"config": 1, "base": earlier}).held():
        pass
    with pytest.raises(InputError, match="or by a version that did not record them; move it or set output_root"):
        claim(str(tmp_path), "run", {"config": 1, "base": "files:0123456789abcdef"})
