"""Run a command so that every mistake of its user ends as one sentence and an exit code."""

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from paft.config.compose import CONF, check_conf, with_implied
from paft.config.hints import in_one_sentence
from paft.config.schema import TrainConfig
from paft.runtime import ranks
from paft.runtime.console import check_readable, print_in_any_locale
from paft.runtime.errors import BelowBoundError, InputError
from paft.runtime.files import write_atomically
from paft.runtime.launched import find_place, reports
from paft.runtime.memory import in_short, is_out_of_memory
from paft.runtime.run_folder import FAILED

T = TypeVar("T")

_BAD_PLACES = {errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}

_sweeps: list[Path] = []  # folders of the sweeps that this process started


class SweepStarted(Callback):
    """Remembers the folder of each sweep, where jobs that fail leave a file; a launcher may run them in other processes."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra."""
        _sweeps.append(Path(config.hydra.sweep.dir))


def run_hydra(main: Callable[[], Any], config: type[BaseModel]) -> None:
    """Call a Hydra main function; what the user got wrong is one message and exit code 2, without a traceback.

    Args:
        config: the type of its config, for what was probably meant.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting by itself
    sys.argv[1:] = with_implied(sys.argv[1:], paths=config is TrainConfig)
    run_plain(check_conf)
    run_plain(_check_ranks)
    try:
        run_plain(main, config)
    finally:
        failed = [
            json.loads(path.read_text(encoding="utf-8"))
            for sweep in _sweeps
            for path in sorted((sweep / FAILED).glob("*.json"))
        ]
        if failed:
            lines = [f"{' '.join(run['typed'])}: {run['reason']}" for run in failed]
            print(f"{len(failed)} runs failed; the same command tries them again:", *lines, sep="\n  ", file=sys.stderr)


def _check_ranks() -> None:
    """Find this process's place among the ranks of a launcher; raises InputError, also for a sweep on them."""
    find_place()
    if ranks.n_ranks() > 1 and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv):
        raise InputError(
            f"-m: the launcher has started {ranks.n_ranks()} ranks, which are for a single run; leave it out, or start the "
            "sweep without the launcher, with trainer.devices= or hydra/launcher=slurm."
        )


def run_job(job: Callable[[list[str], str | None], T], devices: int) -> T:
    """Return what a job returns; in a sweep, a job that fails leaves a file and does not stop the others.

    Args:
        job: takes the overrides on the command line and the name of the sweep, if it belongs to one.
        devices: how many devices the job uses.
    """
    hydra = HydraConfig.get()
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # as they stand there, ${...} too
    if hydra.mode != RunMode.MULTIRUN:
        return run_plain(lambda: job(typed, None))  # here, since Hydra would add a line of its own
    recipe = [hydra.runtime.choices.get(group) for group in ("experiment", "scale")]
    group = "-".join(name for name in recipe if name is not None) or Path(hydra.sweep.dir).name
    try:
        check_launcher(hydra.launcher, devices)
        check_sweeper(hydra.sweeper)
        _take_place_of_task(hydra.launcher)
        return job(typed, group)
    except Exception as error:  # the sweep goes on; Hydra raises the first of these again at its end
        traceback.clear_frames(error.__traceback__)  # and keeps them all, which would keep every failed job's model
        if not reports():
            raise
        message = " ".join(str(error).split())
        reason = message if isinstance(error, InputError | BelowBoundError) else f"{type(error).__name__}: {message[:300]}"
        print(f"error: {reason}", file=sys.stderr)
        folder = Path(hydra.sweep.dir) / FAILED
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{hydra.job.num:05}.json", json.dumps({"typed": typed, "reason": reason}, indent=1) + "\n")
        raise


def check_launcher(launcher: Mapping[str, Any], devices: int) -> None:
    """Refuse jobs whose tasks, GPUs and devices contradict each other; raises InputError.

    The tasks of a job are the ranks of its run. A single task starts a process on each device itself.
    """
    tasks = launcher.get("tasks_per_node") or 1
    several = tasks * (launcher.get("nodes") or 1)
    if several > 1 and devices not in (1, several):
        raise InputError(
            f"trainer.devices={devices}: a job has {several} tasks, each of them a rank; leave trainer.devices out."
        )
    needed = tasks if several > 1 else devices
    gpus = launcher.get("gpus_per_node") or needed
    if gpus != needed and (several > 1 or gpus != 1):
        raise InputError(
            f"hydra.launcher.gpus_per_node={gpus}: a run uses {needed} on a node; give as many hydra.launcher.tasks_per_node=, "
            "or, with a single task, as many trainer.devices=."
        )


def _take_place_of_task(launcher: Mapping[str, Any]) -> None:
    """Make this process a rank if it is one of several tasks of submitit's."""
    if (launcher.get("tasks_per_node") or 1) * (launcher.get("nodes") or 1) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def check_sweeper(sweeper: Mapping[str, Any]) -> None:
    """Refuse a search for the lowest accuracy, which is what Optuna does unless it is told otherwise; raises InputError."""
    if "direction" in sweeper and getattr(sweeper["direction"], "name", sweeper["direction"]) != "maximize":
        raise InputError(
            "hydra.sweeper.direction: the figure to search by is an accuracy; use hydra/sweeper=search, or give "
            "hydra.sweeper.direction=maximize."
        )


def is_search() -> bool:
    """Say whether the sweeper that runs this job chooses the next one by what this one returns, as Optuna does."""
    hydra = HydraConfig.get()
    return hydra.mode == RunMode.MULTIRUN and "direction" in hydra.sweeper


def run_plain(main: Callable[[], T], config: type[BaseModel] = TrainConfig) -> T:
    """Return what a function returns; what the user got wrong is one message and exit code 2, without a traceback.

    A result below a bound of fail_under is one message and exit code 1.

    Args:
        config: the type of the config that it composes.
    """
    print_in_any_locale()
    try:
        check_readable(sys.argv[1:])
        return main()
    except InputError as error:
        _leave(f"error: {error}", 2)
    except BelowBoundError as error:
        _leave(str(error), 1)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(f"error: {InputError(in_one_sentence(error, config, Path(CONF)))}", 2)
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's answer to model=null
            raise
        _leave("error: dataset, model, method, trainer and logger cannot be null; name one of the files in conf/ for each.", 2)
    except (OSError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):  # of a command that loads a model without a run: merge, pools
            _leave(f"error: Memory ran out ({in_short(error)}): end what else uses this device, or use a smaller model.", 2)
        if not isinstance(error, OSError) or error.errno not in _BAD_PLACES:
            raise
        # a file we may not read; Hydra's own folder of a sweep
        _leave(f"error: {error.filename}: {error.strerror}; give a place that this user can read and write.", 2)
    except KeyboardInterrupt as interrupted:
        (number,) = interrupted.args or (signal.SIGINT,)
        _leave("\nInterrupted; the same command resumes from the last checkpoint, if there is one yet.", 128 + number)


def _leave(message: str, code: int) -> NoReturn:
    if reports():
        print(message, file=sys.stderr)
    sys.exit(code)
