"""What a user is meant to see: InputError, its kind for memory that ran out, and a result below the bound that was set."""

from typing import Any


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of what a library says, without its full stop, 200 characters at most."""
    return " ".join(str(error).split()).split(". ")[0][:200].rstrip(".")


class InputError(Exception):
    """Something that the user gave cannot be used.

    The message is one sentence that names the file, line or key, says what is wrong and what would
    be right. The entry points print it without a traceback and exit with code 2. Control characters that came
    from a file are escaped, so that they neither break the sentence nor reach a terminal.
    """

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().__str__())


class NotEnoughMemoryError(InputError):
    """Memory ran out; the message says what to lower."""


class BelowBoundError(Exception):
    """A result is below a bound that the command sets (fail_under); nothing is wrong, and the exit code is 1.

    The message is one sentence that names the value, its bound and the worst prompt.

    Args:
        results: those of the run, which is finished.
    """

    def __init__(self, message: str, results: Any) -> None:
        super().__init__(message)
        self.results = results
