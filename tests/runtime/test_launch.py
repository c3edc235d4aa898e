"""Processes that are started together end together. What they do stands here, so that they import little."""

import atexit
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from paft.runtime.launch import run_on
from paft.runtime.ranks import barrier, rank


def fails_on_one_rank() -> None:
    if rank() == 1:
        raise ZeroDivisionError("here")
    barrier()


def test_a_rank_that_dies_ends_the_others(capsys):
    with pytest.raises(ChildProcessError, match=r"process 1 of 2 failed \(ZeroDivisionError\); its traceback stands above"):
        run_on(2, "cpu", fails_on_one_rank)
    assert "ZeroDivisionError: here" in capsys.readouterr().err


def is_killed() -> None:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    barrier()


def test_a_rank_that_is_killed_ends_the_others():
    with pytest.raises(ChildProcessError):
        run_on(2, "cpu", is_killed)


def tells_at_its_end(folder: Path) -> None:
    """Write down at the end of the process whether it is still in a group; what is registered later comes first."""
    from torch import distributed

    atexit.register(lambda: (folder / f"{rank()}").write_text(str(distributed.is_initialized())))


def test_ranks_leave_their_group_before_they_end(tmp_path):
    """A thread of a group that is left to the end of the process has aborted a run that had done all its work."""
    run_on(2, "cpu", tells_at_its_end, tmp_path)
    assert [(tmp_path / str(number)).read_text() for number in range(2)] == ["False", "False"]


def waits_the_first_time(folder: Path) -> None:
    began = folder / f"began-{rank()}"
    if not began.exists():
        began.touch()
        signal.pause()  # a signal that came before this line has ended the process
    (folder / f"done-{rank()}").touch()


def test_a_handler_that_lets_the_work_go_on_starts_the_ranks_again(tmp_path):
    """As submitit's does for SIGTERM."""

    def tell() -> None:
        while len(list(tmp_path.glob("began-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    called: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: called.append(number))
    try:
        threading.Thread(target=tell, daemon=True).start()
        run_on(2, "cpu", waits_the_first_time, tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert called == [signal.SIGUSR1] and len(list(tmp_path.glob("done-*"))) == 2
