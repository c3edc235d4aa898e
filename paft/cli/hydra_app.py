"""Run a command so that every mistake of its user ends as one sentence and an exit code."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from paft.cli import sweep
from paft.config.compose import CONF, check_conf, with_implied
from paft.config.hints import in_one_sentence
from paft.config.schema import TrainConfig
from paft.runtime import ranks
from paft.runtime.console import check_readable, print_in_any_locale
from paft.runtime.errors import BelowBoundError, InputError, first_sentence
from paft.runtime.launched import find_place, reports
from paft.runtime.memory import device_is_lost, in_short, is_out_of_memory

if TYPE_CHECKING:
    from paft.reporting.results import Results

T = TypeVar("T")

_BAD_PLACES = {errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


def run_hydra(main: Callable[[], Any], config: type[BaseModel]) -> None:
    """Call a Hydra main function; what the user got wrong is one message and exit code 2, without a traceback.

    Args:
        config: the type of its config, for what was probably meant.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting by itself
    sys.argv[1:] = with_implied(sys.argv[1:], paths=config is TrainConfig)
    run_plain(check_conf)
    run_plain(_check_ranks)
    sweep.started.clear()
    failed: list[int] = []
    try:
        run_plain(lambda: _main_of_sweep(main), config)
    finally:
        failed = [code for one in sweep.started if (code := sweep.sum_up(one))]
    if failed:
        sys.exit(min(failed))


def _main_of_sweep(main: Callable[[], Any]) -> None:
    """Call a Hydra main function; raises InputError for jobs that were killed and searches whose runs all failed."""
    try:
        main()
    except ValueError as error:
        if str(error).startswith("Only one of --run, --multirun"):  # Hydra's
            raise InputError(
                "-m: --cfg and --info show the config of one run; leave -m out, and give each setting one value."
            ) from None
        if "No trials are completed" not in str(error):  # Optuna's; why the runs failed is said when the sweep is summed up
            raise
    except Exception as error:
        if isinstance(error, RuntimeError) and '"srun"' in str(error):  # submitit's
            raise InputError(
                "hydra/launcher=slurm: this machine has no srun, so it is no part of a SLURM cluster; start the sweep there, "
                "or use hydra/launcher=parallel."
            ) from None
        if not sweep.started or type(error).__module__.partition(".")[0] not in ("joblib", "submitit"):
            raise
        raise InputError(
            f"A process of the sweep was killed ({first_sentence(error)}); the same command resumes its run, and `paft report "
            f"{sweep.started[-1].folder}` makes the table of those that are finished."
        ) from None


def _check_ranks() -> None:
    """Find this process's place among the ranks of a launcher; raises InputError, also for a sweep on them."""
    find_place()
    if ranks.n_ranks() > 1 and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv):
        raise InputError(
            f"-m: the launcher has started {ranks.n_ranks()} ranks, which are for a single run; leave it out, or start the "
            "sweep without the launcher, with trainer.devices= or hydra/launcher=slurm."
        )


def run_job(job: Callable[[list[str], str | None], "Results"], devices: int) -> "Results | None":
    """Return what a job returns; in a sweep, a job that fails leaves a file, returns None, and does not stop the others.

    Args:
        job: takes the overrides on the command line and the name of the sweep, if it belongs to one.
        devices: how many devices the job uses.
    """
    hydra = HydraConfig.get()
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # as they stand there, ${...} too
    if hydra.mode != RunMode.MULTIRUN:
        return run_plain(lambda: job(typed, None))  # here, since Hydra would add a line of its own
    folder = Path(hydra.sweep.dir)
    recipe, scale = (hydra.runtime.choices.get(group) for group in ("experiment", "scale"))
    group = folder.name if recipe is None else "-".join(name for name in (recipe, scale) if name is not None)
    sweep.begin(hydra.job.num, typed)
    try:
        check_launcher(hydra.launcher, devices)
        check_sweeper(hydra.sweeper)
        _take_place_of_task(hydra.launcher)
        below = None
        try:
            results = job(typed, group)
        except BelowBoundError as error:  # the run is finished, and belongs into the table of the sweep
            results, below = error.results, str(error)
    except Exception as error:  # not raised: Hydra would print it twice more, and keep it with the job's model
        if reports():
            sweep.fail(folder, hydra.job.num, typed, error, _sentence(error))
        return None
    if ranks.rank() == 0:
        sweep.finish(folder, hydra.job.num, typed, results.folder, below)
    return results


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
    except BelowBoundError as error:
        _leave(str(error), 1)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own last flush would fail, too
        sys.exit(1)
    except Exception as error:
        sentence = _sentence(error, config)
        if sentence is None:
            raise
        _leave(f"error: {sentence}", 2)
    except KeyboardInterrupt as interrupted:
        number, *where = interrupted.args or (signal.SIGINT,)
        _leave(f"\nInterrupted{_resumes(*where)}", 128 + number)


def _reader_has_gone() -> bool:
    """Say whether what reads the output has ended, as `head` does after ten lines."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def _sentence(error: Exception, config: type[BaseModel] = TrainConfig) -> str | None:
    """Return what to tell the user of an error; None for one that is no mistake of theirs."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return str(InputError(in_one_sentence(error, config, Path(CONF))))
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):  # Hydra's answer to model=null
        return "dataset, model, method, trainer and logger cannot be null; name one of the files in conf/ for each."
    if is_out_of_memory(error):  # of a command that loads a model without a run: merge, pools
        return f"Memory ran out ({in_short(error)}): end what else uses this device, or use a smaller model."
    if device_is_lost(error):
        return (
            f"The GPU cannot be used, or not any more ({in_short(error)}): see nvidia-smi and CUDA_VISIBLE_DEVICES; what is "
            "finished stays, and the same command resumes."
        )
    if isinstance(error, OSError) and error.errno in _BAD_PLACES:  # a file we may not read; Hydra's own folder of a sweep
        return f"{error.filename}: {error.strerror}; give a place that this user can read and write."
    return None


def _resumes(where: str | None = None, start: str = "from the last checkpoint, if there is one yet") -> str:
    """Say where a command was interrupted and from where it resumes.

    Args:
        where: in the run that went on, e.g. after which update.
        start: from where the run resumes.
    """
    places = [*(one.interrupted for one in sweep.started[-1:]), *([] if where is None else [where])]
    skips = "skips what is finished and " if sweep.started else ""
    return f"{' ' if places else ''}{', '.join(places)}; the same command {skips}resumes {start}."


def _leave(message: str, code: int) -> NoReturn:
    if reports():
        print(message, file=sys.stderr)
    sys.exit(code)
