"""One line of JSONL, as strangers may write it."""

import json
import math
from typing import Any, NoReturn

from paft.runtime.errors import InputError


def parse_object(line: str, where: str, what: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        where: the file and the line.
        what: what a line is, in a sentence.

    Raises InputError for anything else, a key that occurs twice, and numbers and nesting that no row has.
    """
    try:
        found = json.loads(line, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: this is not valid JSON ({error.msg}).") from None
    except KeyError as error:
        raise InputError(f"{where}: the key {error.args[0]!r} occurs twice; give it once.") from None
    except RecursionError:
        raise InputError(f"{where}: this is nested too deeply; {what}.") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise InputError(f"{where}: a number has too many digits.") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: {what}.")
    return found


def _finite(text: str) -> float:
    return _no_number(text) if math.isinf(number := float(text)) else number


def _no_number(text: str) -> NoReturn:
    raise json.JSONDecodeError(f"{text} is no number", "", 0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of which every key occurs once; raises KeyError with one that does not."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return found
