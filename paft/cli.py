"""What the commands share: one door through which every error leaves."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from paft.errors import InputError

CONFIG_PATH = str(Path(__file__).resolve().parent.parent / "conf")


def run_hydra(main: Callable[[], None]) -> None:
    """Call a Hydra main function; what the user got wrong is one message and exit code 2, without a traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting by itself
    run_plain(main)


def run_plain(main: Callable[[], None]) -> None:
    """Call a main function in the same way, without Hydra."""
    try:
        main()
    except InputError as error:
        _leave(f"error: {error}", 2)
    except (HydraException, OmegaConfBaseException) as error:
        cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
        _leave(f"error: {error}{cause}", 2)
    except (NotADirectoryError, PermissionError) as error:  # a file we may not read; Hydra's own folder of a sweep
        _leave(f"error: {error.filename}: {error.strerror}; give a place that this user can read and write.", 2)
    except KeyboardInterrupt:
        _leave("\nInterrupted; the same command goes on from the last checkpoint, if there is one yet.", 130)


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
