"""Run a command of paft in a process that gets a signal at a named point: a kill whose moment no clock decides.

The signal comes before a call of a function, counted from 1. Of several ranks the first counts the calls; its launcher, the
process that was started, gets the signal, and the rank waits until the launcher has passed it on. Of ranks that torchrun has
started the second counts, and gets the signal itself, or its launcher.
"""

import functools
import importlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.runtime.ranks import rank

ROOT = Path(__file__).parents[2]
_POINT = "PAFT_TEST_POINT"  # an environment variable, which ranks inherit
_PACE_S = 0.6  # ranks ask one another for signals every half second: so they do after each update, on a fast machine, too
_GONE_S = 60.0
Struck = Literal["rank", "launcher"]


def start(number: signal.Signals, where: str, call: int, command: str, *overrides: str) -> subprocess.Popen[str]:
    """Start a command that gets a signal.

    Args:
        where: a function, as module:name or module:class.name.
        call: which call of it the signal comes before, from 1.
        command: train or evaluate.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", _POINT: f"{number.name} {where} {call}"}
    line = [sys.executable, __file__, command, *overrides]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def start_nodes(
    overrides: Sequence[str], strike: tuple[signal.Signals, str, int, Struck] | None = None
) -> list[subprocess.Popen[str]]:
    """Start a training run by torchrun, as on two machines of one rank each, and return their launchers.

    Args:
        strike: the signal, the function and its call, as for `start`, and who gets the signal. None: nobody.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = [str(ROOT / "train.py")]
    if strike is not None:
        number, where, call, struck = strike
        environment[_POINT] = f"{number.name} {where} {call} {struck}"
        script = [__file__, "train"]
    place = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *place, f"--node-rank={node}", *script, *overrides],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for node in range(2)
    ]  # fmt: skip


def kill(where: str, call: int, command: str, *overrides: str) -> None:
    """Start a command, and return once it was killed at the point."""
    process = start(signal.SIGKILL, where, call, command, *overrides)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said


def _set_up() -> None:
    """Replace the function by one that counts its calls and sends the signal."""
    name, where, call, *struck = os.environ[_POINT].split()
    module, path = where.split(":")
    *parents, last = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    original, calls = getattr(owner, last), itertools.count(1)

    @functools.wraps(original)  # by its name it is pickled for the ranks
    def counted(*args: Any, **kwargs: Any) -> Any:
        if "RANK" in os.environ and not struck:
            time.sleep(_PACE_S)
        if rank() == len(struck) and next(calls) == int(call):
            if struck:
                os.kill(os.getpid() if struck == ["rank"] else os.getppid(), signal.Signals[name])
                if struck == ["launcher"]:
                    time.sleep(_GONE_S)  # until this rank has seen that its launcher is gone, and ends
            else:
                _send(signal.Signals[name])
        return original(*args, **kwargs)

    setattr(owner, last, counted)


def _send(number: signal.Signals) -> None:
    if "RANK" not in os.environ:
        os.kill(os.getpid(), number)
        return
    here, handler = socket.socketpair()
    handler.setblocking(False)
    signal.set_wakeup_fd(handler.fileno())
    os.kill(os.getppid(), number)
    here.recv(1)
    signal.set_wakeup_fd(-1)


if __name__ in ("__main__", "__mp_main__"):  # a rank imports this file under the second name
    _set_up()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    module = importlib.import_module(f"paft.cli.{sys.argv.pop(1)}")
    module.main()
