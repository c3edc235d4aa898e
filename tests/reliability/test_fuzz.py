"""The fuzzer, for a few seconds."""

import subprocess
import sys
from pathlib import Path

from paft.config.compose import CONF


def test_no_input_crashes_hangs_or_is_taken_for_what_it_is_not(tmp_path):
    command = [sys.executable, "tests/reliability/fuzz.py", "--inputs", "1500", "--report", tmp_path]
    done = subprocess.run(command, cwd=Path(CONF).parent, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "None crashed" in (tmp_path / "README.md").read_text()
