"""Ranks that torchrun or srun has started, on one machine or several: their place, their meeting, and who reports an error."""

import atexit
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from paft.runtime import ranks
from paft.runtime.errors import InputError, first_sentence

_OF_SEVERAL = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # besides RANK and WORLD_SIZE
_TO_MEET = timedelta(minutes=10)
FOR_EVER = timedelta(days=30)  # waiting for a slow rank needs no limit, because a rank that dies ends the others


def find_place() -> None:
    """Find this process's place among ranks that were started together; srun's variables become those of torchrun.

    Raises InputError if the variables are incomplete or make no sense.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        _translate_srun()
    given = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", *_OF_SEVERAL) if name in os.environ}
    needed = ["RANK", "WORLD_SIZE"] if "RANK" in given or "WORLD_SIZE" in given else []
    if given.get("WORLD_SIZE", "1") != "1":
        needed += _OF_SEVERAL
    for name in needed:
        if name not in given:
            others = " and ".join(f"{key}={given[key]}" for key in ("RANK", "WORLD_SIZE") if key in given)
            raise InputError(f"{name} is not set, but {others} is: start the ranks with torchrun or srun, which set all of it.")
        if name != "MASTER_ADDR" and not given[name].isdecimal():
            raise InputError(f"{name}={given[name]}: this environment variable should be a whole number.")
    for number, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if {number, count} <= set(needed) and int(given[number]) >= int(given[count]):
            raise InputError(f"{number}={given[number]}: it should be below {count}={given[count]}.")


def _translate_srun() -> None:
    """Set torchrun's variables from those of an srun with several tasks.

    Only srun sets the variables of a step, a batch script does not have them. A shell that srun opened is one process,
    whatever they say.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1 or (sys.stdin is not None and sys.stdin.isatty()):
        return
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    tasks_of_nodes = [  # 2(x3),1 stands for 2,2,2,1
        int(tasks)
        for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ["SLURM_STEP_TASKS_PER_NODE"])
        for _ in range(int(nodes or 1))
    ]
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"]))
    os.environ.setdefault("MASTER_PORT", str(15000 + int(os.environ["SLURM_JOB_ID"][-4:])))  # as Lightning does
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_of_nodes[int(os.environ["SLURM_NODEID"])]),
    }


def devices_of(asked: int) -> int:
    """Return how many devices share the run: the launcher's ranks, else as many as the config asks for.

    Raises InputError if the config asks for another number than the launcher has started.
    """
    started = ranks.n_ranks()
    if started == 1:
        return asked
    if asked not in (1, started):
        raise InputError(f"trainer.devices={asked}: the launcher has started {started} ranks; leave trainer.devices out.")
    return started


def meet(accelerator: str) -> None:
    """Join the ranks that the launcher has started; the others than rank 0 print nothing from here on.

    A rank ends when its launcher has ended. Does nothing the second time.

    Raises InputError if the ranks do not meet, or the machine has too few devices.
    """
    from torch import distributed

    if distributed.is_initialized():
        return
    backend = take_device(accelerator, "LOCAL_WORLD_SIZE")
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    store = _store()
    store.set_timeout(FOR_EVER)
    distributed.init_process_group(backend, store=store, rank=ranks.rank(), world_size=ranks.n_ranks(), timeout=FOR_EVER)
    silence()


@contextmanager
def leaving_together() -> Iterator[None]:
    """Wait for the other ranks after the work, and have this process leave their group before it ends.

    A thread of a group that is left to the end of the process can abort it, all work done
    (https://github.com/pytorch/pytorch/issues/190489). After a failure nothing is left: leaving could wait for ever.
    """
    from torch import distributed

    atexit.unregister(distributed.destroy_process_group)  # of the work before, in a multirun
    yield
    ranks.barrier()  # no rank leaves while another may still need it
    atexit.register(distributed.destroy_process_group)


def silence() -> None:
    """Have ranks other than 0 print nothing."""
    if ranks.rank() > 0:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives


def take_device(accelerator: str, asked_by: str) -> str:
    """Make this rank's device the current one, and return the backend of the process group.

    Args:
        asked_by: where the number of ranks on this machine was asked for.

    Raises InputError if the machine has too few devices.
    """
    import torch

    n = ranks.n_local_ranks()
    if accelerator != "cpu" and torch.cuda.is_available():
        available = torch.cuda.device_count()
        if n > available:
            raise InputError(f"{asked_by}={n}: this machine has {available} CUDA devices; ask for as many, or for fewer.")
        torch.cuda.set_device(ranks.local_rank())
        return "cpu:gloo,cuda:nccl"
    torch.set_num_threads(max(1, torch.get_num_threads() // n))
    return "gloo"


@functools.cache
def reports() -> bool:
    """Say whether it is for this rank to print why it ends: for the first one that does; the others end because it has."""
    try:
        if ranks.n_ranks() == 1:
            return True
        return bool(_store().add("ended", 1) == 1)
    except Exception:  # the rank, or the launcher, that holds the store has ended, or the variables are no numbers
        return os.environ.get("RANK") == "0" or not os.environ.get("RANK", "").isdecimal()


@functools.cache
def _store() -> Any:
    """Return the store through which the ranks meet: torchrun's, else that of rank 0."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=_TO_MEET)))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}: the "
            f"{ranks.n_ranks()} ranks did not meet there ({first_sentence(error)}); start all of them, with the address of "
            "the machine of rank 0 and a free port."
        ) from None
    return store


def _end_with_launcher(launcher: int) -> None:
    """Exit soon after the process that started this one has ended."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)
