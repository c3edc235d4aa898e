"""What a command prints and reads, whatever the locale of its terminal."""

import io
import sys
from collections.abc import Sequence

from paft.runtime.errors import InputError


def print_in_any_locale() -> None:
    """Have stdout and stderr write what their encoding lacks as an escape (\\u63d0) instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's and a test's take every character
            stream.reconfigure(errors="backslashreplace")


def check_readable(arguments: Sequence[str]) -> None:
    """Raise InputError for an argument that this locale could not read: its characters would be others in every file."""
    if sys.getfilesystemencoding() == "utf-8":
        return
    for argument in arguments:
        if not argument.isascii() and any("\udc80" <= character <= "\udcff" for character in argument):
            raise InputError(f"{argument}: the locale of this terminal cannot read this; give the command with PYTHONUTF8=1.")
