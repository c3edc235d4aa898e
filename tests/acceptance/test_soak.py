"""The soak, with runs as short as they can be: minutes, most of them for comparing 10,000 prompts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paft.config.compose import CONF


@pytest.mark.slow
def test_a_short_soak_leaves_its_page(tmp_path):
    command = [sys.executable, "tests/reliability/soak.py", "--minutes", "0.1", "--report", tmp_path]
    settings = {"cwd": Path(CONF).parent, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    assert (tmp_path / "results.json").is_file(), done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == bool(found["wrong"]) and found["git"]
    # A run of seconds is still starting when it ends; what runs leave to one another is seen all the same.
    assert [sentence for sentence in found["wrong"] if "memory" not in sentence or "within a run" not in sentence] == []
    assert "# A long run" in (tmp_path / "README.md").read_text() and (tmp_path / "soak.png").stat().st_size > 10_000
    for sweep in found["sweeps"]:
        assert len(sweep["left"]) == 3 and len(sweep["samples"]) > 10
        assert max(sample["checkpoint_files"] for sample in sweep["samples"]) >= 3  # two states and the best
        assert max(sample["children"] for sample in sweep["samples"]) >= sweep["workers"]
