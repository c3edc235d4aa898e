"""The command for a GPU that is at hand for a while: it goes on after a failure, stops what takes too long, and resumes."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from experiments.gpu import Job, Target, finished, run, summary

DONE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--report") + 1])
(folder / "results.json").write_text('{"ratio": 16.0}')
(folder / "README.md").write_text("page")
"""
FAILS = "raise SystemExit('TRL is not installed')"
HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[sys.argv.index("--report") + 1], "child").write_text(str(child.pid))
time.sleep(600)
"""


SHORT = 5  # seconds
WAIT = subprocess.Popen.wait


def be_impatient(started: Path, monkeypatch) -> None:
    """From here on the short time is over as soon as a job's child has started, on a machine of any speed."""

    def wait(process, timeout=None):
        if timeout != SHORT:
            return WAIT(process, timeout)
        while not (started.is_file() and started.read_text()):
            assert process.poll() is None, "the job has ended by itself"
            time.sleep(0.02)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)


def lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_jobs_end_with_a_page_or_a_line_and_nothing_runs_on(tmp_path, monkeypatch):
    for name, code in {"done_job": DONE, "failing_job": FAILS, "hanging_job": HANGS}.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    target = [Target("times TRL", 15, lambda found: found["ratio"]), Target("of Liger", 2, lambda found: found["liger"])]
    jobs = [
        Job("done", ["done_job"], 1, target),
        Job("failing", ["failing_job"], 1, target),
        Job("hanging", ["hanging_job"], 1),
    ]
    report = tmp_path / "results"
    started = report / "hanging" / "child"
    be_impatient(started, monkeypatch)
    ended = {job.folder: run(job, report, 600 if job.folder != "hanging" else SHORT) for job in jobs}
    assert ended == {"done": "done", "failing": "failed: TRL is not installed", "hanging": "stopped after 0.1 minutes"}
    assert [finished(job, report) for job in jobs] == [True, False, False]
    child, until = int(started.read_text()), time.monotonic() + 60  # a signal takes its time to arrive
    while lives(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives(child)
    page = "\n".join(summary(jobs, report, ended))
    assert "| [done](../done) | times TRL | 15 | 16.00 | yes |" in page
    assert "| [done](../done) | of Liger | 2 | not measured | no |" in page
    assert "| failing | failed: TRL is not installed | - | - | - |" in page


def test_without_a_gpu_it_is_one_sentence(tmp_path):
    code = "import runpy, torch; torch.cuda.is_available = lambda: False; runpy.run_module('experiments.gpu', {}, '__main__')"
    process = subprocess.run([sys.executable, "-c", code, "--data", str(tmp_path)], capture_output=True, encoding="utf-8")
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr == "error: experiments.gpu needs a CUDA device, and this machine has none that torch can use.\n"
