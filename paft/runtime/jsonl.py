"""Strict parsing of JSON objects, which anyone may have written: one line of JSONL, or a list of them."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from paft.runtime.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")


def parse_list(text: str, name: str, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) for each object of a text that is a JSON list; the line is that on which the object begins.

    Args:
        name: of the file, for error messages.
        what: what an item should be, as a clause for error messages.

    Raises InputError that names the file and the line.
    """
    decoder, end, line, counted = json.JSONDecoder(), _skip(text, 0), 1, 0
    if text[end : end + 1] != "[":
        raise InputError(f"{name}: this is no list of rows; {what}, in a list, [...].")
    begins = _skip(text, end + 1)
    empty = text[begins : begins + 1] == "]"
    end = begins
    while not empty:
        line, counted = line + text.count("\n", counted, begins), begins
        where = f"{name}, line {line}"
        try:
            _, end = decoder.raw_decode(text, begins)
        except json.JSONDecodeError as error:
            raise InputError(f"{name}, line {error.lineno}: this is not valid JSON ({error.msg}).") from None
        except (RecursionError, ValueError):  # parse_object says why
            end = len(text)
        yield line, parse_object(text[begins:end], where, what)
        end = _skip(text, end)
        if text[end : end + 1] != ",":
            break
        begins = _skip(text, end + 1)
    if text[end : end + 1] != "]" or text[end + 1 :].strip():
        line += text.count("\n", counted, end)
        raise InputError(f"{name}, line {line}: this is not valid JSON (after an item comes neither a comma nor the end).")


def _skip(text: str, start: int) -> int:
    """Return the index of the first character from `start` on that is no white space."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


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
