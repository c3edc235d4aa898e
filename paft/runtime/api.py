"""What every client of an OpenAI-compatible API needs: its key, and why a server gives no answer, as a clause."""

import os
import re
from typing import Any

from paft.runtime.errors import InputError

NO_KEY = "none"  # what is sent where a server needs no key, because the client insists on one
RETRIES = 8  # the client waits 0.5, 1, 2, 4, 8, 8 ... seconds between them, or as long as the server asks (Retry-After)


class UnavailableError(Exception):
    """A server that does not answer, refuses the key or answers nonsense; the message is a clause that says so."""


def read_key(where: str, variable: str | None) -> str:
    """Return the key that an environment variable holds, or NO_KEY without a variable.

    Args:
        where: the setting that names the variable, for the error message.

    Raises InputError, which never shows the key.
    """
    if variable is None:
        return NO_KEY
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise InputError(f"{where}: this names the environment variable that holds the key; never write the key itself.")
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"{where}: the environment variable {variable} is not set; set it to the key of this endpoint.")
    if key != "".join(key.split()) or not key.isascii():
        raise InputError(
            f"{where}: the environment variable {variable} holds white space, a line break or a character that no key has; set "
            "the key alone."
        )
    return key


def why_not(error: Exception, url: str, timeout_s: float, key: str) -> str:
    """Return why a request to a server failed, as a clause; the key, which some servers repeat, is never in it.

    Args:
        error: what the openai package raised.
        timeout_s: how long an answer was waited for.
    """
    import openai

    if isinstance(error, openai.APIConnectionError):
        if error.__cause__ is None or type(error.__cause__).__name__.startswith("Connect"):  # ConnectError, ConnectTimeout
            return f"{url} cannot be reached"
        slow = isinstance(error, openai.APITimeoutError)
        return f"{url} did not answer within {timeout_s:g} s" if slow else f"{url} breaks off its answer"
    if isinstance(error, openai.APIStatusError):
        return f"{url} answers {error.status_code} ({shortened(message_of(error), key)})"
    return f"{url} answers nonsense ({type(error).__name__})"


def message_of(error: Any) -> str:
    """Return what a server says about an error, whose status is not 2xx, without the JSON around it."""
    body = error.body
    said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else None
    return said if isinstance(said, str) else str(error.message)


def shortened(message: str, key: str) -> str:
    """Return the first 160 characters of what a server says, in one line, as a clause and without the key."""
    line = " ".join((message if key == NO_KEY else message.replace(key, "***")).split())
    return re.sub(r"\. (?=[A-Z])", "; ", line)[:160].rstrip(".")
