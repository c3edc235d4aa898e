"""Commands in processes of their own which need not import torch again: forks of one process that has."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.reliability.bad_input import ROOT

# Python starts this process when the first command runs, and ends it with this one.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["paft.jobs.train", "paft.jobs.evaluate", "transformers.models.llama.modeling_llama"])


def run_command(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository (train.py), or a module (paft), as `python` would from its root; return what it printed.

    What a command says before it imports anything heavy, and what the environment changes in an import, needs a fresh process.
    """
    line = [program, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _FORKS.Process(target=_run, args=(line, os.environ | {"OMP_NUM_THREADS": "1"} | environment, out, err))
        process.start()
        process.join(900)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{line} has not ended after 15 minutes.")
        return subprocess.CompletedProcess(line, process.exitcode, out.read_text(), err.read_text())


def _run(line: list[str], environment: Mapping[str, str], out: Path, err: Path) -> None:
    """Be the command: its environment, folder, arguments and streams."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    sys.argv = line
    if line[0].endswith(".py"):
        runpy.run_path(str(ROOT / line[0]), run_name="__main__")
    else:
        runpy.run_module(line[0], run_name="__main__", alter_sys=True)
