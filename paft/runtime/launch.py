"""Starting one process per device, forwarding signals to the processes, and stopping them together."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from paft.runtime.console import print_in_any_locale
from paft.runtime.errors import InputError, NotEnoughMemoryError
from paft.runtime.launched import FOR_EVER, leaving_together, meet, reports, silence, take_device
from paft.runtime.ranks import n_ranks

# Ctrl-C, the end of a job, and what SLURM and submitit send before they take a node away.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE_S = 60  # for the other ranks once one has failed: longer than W&B's own limits; they may be waiting for it in vain
_LONGEST = 8000  # characters of a traceback: it must fit into the pipe, which is read only after the process has ended


def run_on(devices: int, accelerator: str, work: Callable[..., object], *arguments: Any) -> None:
    """Call `work` with the arguments; with several devices, in one process per device.

    Of ranks that a launcher has started, this process is one already: it joins the others and calls `work`.
    Signals are forwarded to all processes. If the previous handler (e.g. submitit's) returns, the processes are restarted and
    resume from their checkpoints. If a process dies, the others are killed.

    Args:
        devices: number of processes; 1 calls `work` in this process.
        accelerator: auto, cpu or cuda.
        work: a function at the top level of a module; with several devices, its arguments are pickled.

    Raises what `work` raises. With several devices, InputError and KeyboardInterrupt arrive as they are, anything else as
    ChildProcessError after its traceback has been printed.
    """
    if n_ranks() > 1:
        _among_others(accelerator, work, arguments)
        return
    if devices == 1:
        work(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    while True:
        failures = context.SimpleQueue()
        with tempfile.TemporaryDirectory() as scratch:
            rendezvous = Path(scratch) / "meeting"
            processes = [
                context.Process(target=_rank, args=(number, devices, accelerator, rendezvous, failures, work, arguments))
                for number in range(devices)
            ]
            with _signals_passed_on(processes) as received:
                _run(processes)
        codes = [process.exitcode for process in processes]
        if not any(codes):
            return
        for number in received:
            stop(number, signal.getsignal(number))
        if not received:
            break
    if failures.empty():  # killed from outside, which no process can report
        raise ChildProcessError(f"one of {devices} processes was killed (exit codes {codes}).")
    number, error, text = failures.get()  # the first to fail; the others fail because it is gone
    for kind in (InputError, NotEnoughMemoryError):
        if error == kind.__name__:
            raise kind(text)
    print(text, file=sys.stderr)
    raise ChildProcessError(f"process {number} of {devices} failed ({error}); its traceback stands above.")


def _among_others(accelerator: str, work: Callable[..., object], arguments: Any) -> None:
    """Call `work` as one of the ranks that a launcher has started; a rank that fails because another has is silent."""
    try:
        meet(accelerator)
        with leaving_together():
            work(*arguments)
    except InputError:
        raise  # whoever prints its sentence asks whether to
    except Exception:
        if not reports():
            sys.exit(1)
        raise


def stop(number: int, handler: Any, where: Sequence[str] = ()) -> None:
    """Act on a signal that was deferred: call its handler (e.g. submitit's), or stop as Ctrl-C does (KeyboardInterrupt).

    Args:
        where: the work stops, and from where it resumes, as the message says it; KeyboardInterrupt carries it.
    """
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
    else:
        raise KeyboardInterrupt(number, *where)


def _run(processes: Sequence[SpawnProcess]) -> None:
    """Start the processes and wait for all; kill the rest if one has failed and no other ends within _PATIENCE_S."""
    try:
        # Signals wait until all processes exist. A new process inherits the block and lifts it once it can handle them.
        previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for process in processes:
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
        running = list(processes)
        while running:
            failed = any(process.exitcode for process in processes)
            ended = wait([process.sentinel for process in running], timeout=_PATIENCE_S if failed else None)
            if failed and not ended:
                break
            running = [process for process in running if process.is_alive()]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _signals_passed_on(processes: Sequence[SpawnProcess]) -> Iterator[list[int]]:
    """Forward signals to the processes; yields the list of those received, each once."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number not in received:
            received.append(number)
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield received
        return
    forwarded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, pass_on) for number in forwarded}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _rank(
    number: int, devices: int, accelerator: str, rendezvous: Path, failures: Any, work: Callable[..., object], arguments: Any
) -> None:
    """Join the other ranks and call `work`: what each of several processes runs."""
    os.setpgid(0, 0)  # so that Ctrl-C reaches the parent alone, which forwards it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(number))
    os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(devices))
    print_in_any_locale()
    silence()
    multiprocessing.set_start_method("fork", force=True)  # for loader workers, as in a process that was not spawned
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _meet(number, devices, accelerator, rendezvous)
        with leaving_together():
            work(*arguments)
    except KeyboardInterrupt as stopped:
        if len(stopped.args) > 1:
            print(f"Stopped {stopped.args[1]}.", flush=True)  # the parent does not know
        sys.exit(1)
    except Exception as error:
        text = str(error) if isinstance(error, InputError) else traceback.format_exc()[-_LONGEST:]
        failures.put((number, type(error).__name__, text))
        sys.exit(1)


def _end_with_parent() -> None:
    """Exit as soon as the parent process has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _meet(number: int, devices: int, accelerator: str, rendezvous: Path) -> None:
    """Take this rank's device and join the process group; raises InputError if the machine has too few devices."""
    from torch import distributed

    backend = take_device(accelerator, "devices")
    store = distributed.FileStore(str(rendezvous), devices)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=number, world_size=devices, timeout=FOR_EVER)
