"""Starting a process for each of several devices, passing signals on to them, and ending them together."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from paft.runtime.errors import InputError
from paft.runtime.ranks import barrier

# Ctrl-C, the end of a job, and what SLURM and submitit send before they take a node away.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE_S = 60  # for the other ranks when one has ended badly: W&B's limits are less, or they wait for it in vain
_LONGEST = 8000  # characters of a traceback: nobody reads before the process has ended
_FOR_EVER = timedelta(days=30)  # a rank that dies ends the others, so waiting for one that is slow needs no limit


def run_on(devices: int, accelerator: str, work: Callable[..., object], *arguments: Any) -> None:
    """Call `work` with the arguments, where there are several devices in a process of its own on each.

    A signal is passed on to all of them. Where a handler that was there before (submitit's) then lets the work go on, they are
    started again, and go on from what they have kept. Should one die, the others are ended.

    Args:
        accelerator: auto, cpu or cuda.
        work: a function of a module, and arguments that can be pickled.

    Raises what `work` raises, as if it had run here: InputError and KeyboardInterrupt as they are, anything else, of which a
    rank has shown the traceback, as ChildProcessError.
    """
    if devices == 1:
        work(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    while True:
        failures = context.SimpleQueue()
        with tempfile.TemporaryDirectory() as scratch:
            meeting = Path(scratch) / "meeting"
            processes = [
                context.Process(target=_rank, args=(number, devices, accelerator, meeting, failures, work, arguments))
                for number in range(devices)
            ]
            with _signals_passed_on(processes) as told:
                _run(processes)
        codes = [process.exitcode for process in processes]
        if not any(codes):
            return
        for number in told:
            stop(number, signal.getsignal(number))
        if not told:
            break
    if failures.empty():  # killed from outside
        raise ChildProcessError(f"one of {devices} processes was killed (exit codes {codes}).")
    number, error, text = failures.get()  # of the first: the others fail because it is gone
    if error == InputError.__name__:
        raise InputError(text)
    print(text, file=sys.stderr)
    raise ChildProcessError(f"process {number} of {devices} failed ({error}); its traceback stands above.")


def stop(number: int, handler: Any) -> None:
    """Do what a signal asks for that was kept waiting: call its handler (submitit's), or end as by Ctrl-C."""
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
    else:
        raise KeyboardInterrupt(number)


def _run(processes: Sequence[SpawnProcess]) -> None:
    """Start all and wait until all have ended; end the others soon after one has failed."""
    try:
        # A signal waits until there is somebody to pass it on to; a process that starts, until it can be told.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for process in processes:
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        going = list(processes)
        while going:
            failed = any(process.exitcode for process in processes)
            ended = wait([process.sentinel for process in going], timeout=_PATIENCE_S if failed else None)
            if failed and not ended:
                break
            going = [process for process in going if process.is_alive()]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _signals_passed_on(processes: Sequence[SpawnProcess]) -> Iterator[list[int]]:
    """Pass signals on to processes; yields those that came, each once."""
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number not in told:
            told.append(number)
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield told
        return
    passed = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in passed}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rank(
    number: int, devices: int, accelerator: str, meeting: Path, failures: Any, work: Callable[..., object], arguments: Any
) -> None:
    """What each of several processes does."""
    os.setpgid(0, 0)  # Ctrl-C reaches the process that started this one, which passes it on, and not all of them at once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {"PAFT_RANK": str(number), "PAFT_RANKS": str(devices), "LOCAL_RANK": str(number)}
    if number > 0:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    multiprocessing.set_start_method("fork", force=True)  # for loader workers, as in a process that nobody spawned
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _meet(number, devices, accelerator, meeting)
        work(*arguments)
        barrier()  # none leaves while another may still have something to say to it
    except KeyboardInterrupt:
        sys.exit(1)
    except Exception as error:
        text = str(error) if isinstance(error, InputError) else traceback.format_exc()[-_LONGEST:]
        failures.put((number, type(error).__name__, text))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _meet(number: int, devices: int, accelerator: str, meeting: Path) -> None:
    """Take a device and join the other ranks; raises InputError if there are not so many devices."""
    import torch
    from torch import distributed

    if accelerator != "cpu" and torch.cuda.is_available():
        there = torch.cuda.device_count()
        if devices > there:
            raise InputError(f"devices={devices}: this machine has {there} CUDA devices; ask for as many, or for fewer.")
        torch.cuda.set_device(number)
        backend = "cpu:gloo,cuda:nccl"
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
        backend = "gloo"
    store = torch.distributed.FileStore(str(meeting), devices)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=number, world_size=devices, timeout=_FOR_EVER)
