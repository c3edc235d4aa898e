"""The paper's tables on real data, within a time limit: what is cut off, what fails, and what is resumed."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from experiments.real_tables import cells
from paft.reporting.results import read_results
from tests.experiments.test_real_tables import call, without_root, write_piqa
from tests.reliability.bad_input import ROOT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_piqa(tmp_path / "data")
    return tmp_path / "data"


def test_the_time_is_kept_a_run_that_fails_is_said_and_what_is_left_is_resumed(data, tiny_llama, tmp_path, monkeypatch, capsys):
    typed = [*without_root(tiny_llama, tmp_path), "method=user", "eval_prompts=10"]
    what = ["table1", *typed, "--datasets", "piqa", "--data", data, "--at-a-time", "2"]
    place = ["--runs", tmp_path / "runs", "--report", tmp_path / "report"]
    call(monkeypatch, *what, *place, "--minutes", "0.01")
    said = capsys.readouterr().out
    ended = [line.split(": ", 1)[1] for line in said.splitlines() if line.startswith("piqa-")]
    assert "0 of 3 runs are finished" in said and len(ended) == 3
    assert set(ended) <= {"stopped; the same command resumes it", "not started: the time was up"}

    in_the_way = tmp_path / "runs" / cells("table1", ["piqa"], [f"data_root={data.absolute()}", *typed])[1].name
    shutil.rmtree(in_the_way, ignore_errors=True)
    in_the_way.write_text("no folder")
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, *what, *place)
    said = capsys.readouterr().out
    assert exit_.value.code == 1 and "2 of 3 runs are finished" in said and f"{in_the_way.name}: failed: " in said
    page = (tmp_path / "report" / "README.md").read_text()
    assert "Options hidden: piqa." in page and "WinoGrande is left out" in page and "as many test rows: piqa." in page

    in_the_way.unlink()
    call(monkeypatch, *what, *place, "--keep")
    said = capsys.readouterr().out
    assert "3 of 3 runs are finished" in said and said.count("finished before") == 2
    assert sorted(read_results(path.parent).config["seed"] for path in tmp_path.glob("report/runs/*/results.json")) == [0, 1, 2]


def test_an_interrupted_command_leaves_no_run_behind_and_is_resumed(data, tiny_llama, tmp_path):
    small = without_root(tiny_llama, tmp_path)
    place = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--report", str(tmp_path / "report")]
    command = [sys.executable, "-m", "experiments.real_tables", "table1", *small, "method=user", "eval_prompts=10", "T=2000"]
    process = subprocess.Popen(
        [*command, "--datasets", "piqa", "--at-a-time", "1", *place], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        for _ in range(3000):  # until a run trains
            if list(tmp_path.glob("runs/*/log/*/metrics.csv")) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and said.count("stopped; the same command resumes it") >= 1
    assert not list(tmp_path.glob("runs/*/results.json"))
    for folder in tmp_path.glob("runs/*-user-*"):
        with FileLock(folder / ".lock", timeout=0):  # nobody is at work there
            pass
