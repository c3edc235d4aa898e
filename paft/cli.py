"""What the commands share: one door through which every error leaves."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from paft.errors import InputError

_failed: list[str] = []  # cells of the sweep that this process runs, each with its reason

CONFIG_PATH = str(Path(__file__).resolve().parent.parent / "conf")


def run_hydra(main: Callable[[], None]) -> None:
    """Call a Hydra main function; what the user got wrong is one message and exit code 2, without a traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting by itself
    try:
        run_plain(main)
    finally:
        if _failed:
            print(f"{len(_failed)} cells failed; the same command tries them again:", *_failed, sep="\n  ", file=sys.stderr)


def run_job(job: Callable[[list[str], str | None], None]) -> None:
    """Run what a Hydra main function is for: one job; of a sweep, one that does not keep the others from running.

    Args:
        job: takes the overrides on the command line and the name of the sweep, if it belongs to one.
    """
    hydra = HydraConfig.get()
    typed = list(hydra.overrides.task)
    if hydra.mode != RunMode.MULTIRUN:
        run_plain(lambda: job(typed, None))  # here, since Hydra would add a line of its own
        return
    recipe = [hydra.runtime.choices.get(group) for group in ("experiment", "scale")]
    group = "-".join(name for name in recipe if name is not None) or Path(hydra.sweep.dir).name
    try:
        job(typed, group)
    except Exception as error:  # the sweep goes on; Hydra raises the first of these again at its end
        traceback.clear_frames(error.__traceback__)  # and keeps them all, which would keep every failed cell's model
        said = " ".join(str(error).split())
        reason = said if isinstance(error, InputError) else f"{type(error).__name__}: {said[:300]}"
        print(f"error: {reason}", file=sys.stderr)
        _failed.append(f"{' '.join(typed)}: {reason}")
        raise


def run_plain(main: Callable[[], None]) -> None:
    """Call a main function in the same way, without Hydra."""
    try:
        main()
    except InputError as error:
        _leave(f"error: {error}", 2)
    except (HydraException, OmegaConfBaseException) as error:
        cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
        _leave(f"error: {error}{cause}", 2)
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's answer to model=null
            raise
        _leave("error: dataset, model, method, trainer and logger cannot be null; name one of the files in conf/ for each.", 2)
    except (NotADirectoryError, PermissionError) as error:  # a file we may not read; Hydra's own folder of a sweep
        _leave(f"error: {error.filename}: {error.strerror}; give a place that this user can read and write.", 2)
    except KeyboardInterrupt:
        _leave("\nInterrupted; the same command goes on from the last checkpoint, if there is one yet.", 130)


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
