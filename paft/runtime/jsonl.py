"""Strict parsing of one line of JSONL, which anyone may have written."""

import json
import math
from typing import Any, NoReturn

from paft.runtime.errors import InputError


def parse_object(line: str, where: str, what: str) -> dict[str, Any]:
    """Parse a line of JSONL as a JSON object.

    Args:
        where: the file and the line, for error messages.
        what: what a line should hold, as a clause for error messages.

    Raises InputError if the line is anything but an object, a key occurs twice, a number is not finite or has too many digits,
    or the nesting is too deep.
    """
    try:
        parsed = json.loads(line, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: this is not valid JSON ({error.msg}).") from None
    except KeyError as error:
        raise InputError(f"{where}: the key {error.args[0]!r} occurs twice; give it once.") from None
    except RecursionError:
        raise InputError(f"{where}: this is nested too deeply; {what}.") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise InputError(f"{where}: a number has too many digits.") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: {what}.")
    return parsed


def _finite(text: str) -> float:
    return _no_number(text) if math.isinf(number := float(text)) else number


def _no_number(text: str) -> NoReturn:
    raise json.JSONDecodeError(f"{text} is no number", "", 0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from (key, value) pairs; raises KeyError with the first key that occurs twice."""
    unique = dict(pairs)
    if len(unique) != len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return unique
