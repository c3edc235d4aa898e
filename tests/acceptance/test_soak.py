"""The soak, with runs as short as they can be: its page and its data are complete. Only an hour's soak judges."""

import json
import os
import subprocess
import sys

from tests.reliability.soak import _RUNS, _WORKERS
from tests.reliability.strike import ROOT


def test_a_short_soak_leaves_its_page(tmp_path):
    command = [sys.executable, "tests/reliability/soak.py", "--minutes", "0.1", "--prompts", "200", "--report", tmp_path]
    settings = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    assert (tmp_path / "results.json").is_file(), done.stdout + done.stderr[-3000:]
    content = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == bool(content["wrong"]) and content["git"]
    assert (tmp_path / "README.md").is_file() and (tmp_path / "soak.png").stat().st_size > 10_000
    assert [sweep["workers"] for sweep in content["sweeps"]] == list(_WORKERS)
    for sweep in content["sweeps"]:
        assert len(sweep["left"]) == _RUNS and sweep["samples"]
        assert set(sweep["figures"]) == {"within a run", "between runs"}
