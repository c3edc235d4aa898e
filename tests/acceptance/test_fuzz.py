"""The fuzzer, with some thousand inputs."""

import csv
import subprocess
import sys

from tests.reliability.strike import ROOT


def test_the_fuzzer_ends_with_its_page(tmp_path):
    command = [sys.executable, "tests/reliability/fuzz.py", "--inputs", "5000", "--report", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| ")]
    *_, inputs, taken, _, _ = zip(*csv.reader(rows, delimiter="|"), strict=True)
    assert sum(int(n.replace(",", "")) for n in inputs[1:]) == 5000 and all(int(n.replace(",", "")) > 0 for n in taken[1:])
