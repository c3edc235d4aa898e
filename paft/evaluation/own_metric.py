"""A metric of one's own: a function that is loaded by its import path, as its source is now, and whose scores are checked.

    def score(output: str, answer: str, row: dict[str, str]) -> float:  # from 0 to 1

`output` is what the model wrote, `answer` a right answer and `row` the fields of the row that templates may show.
"""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from numbers import Real
from pathlib import Path
from typing import Any

from paft.data.tasks.base import Example
from paft.runtime.errors import InputError, first_sentence

_SHOWN = 60  # characters of a text in an error


@dataclass(frozen=True)
class OwnFunction:
    """A function of one's own that scores texts.

    path is as it was typed. source is SHA-256 (first 16 hex digits) of the file that it names: what that file imports from
    others is not part of it.
    """

    path: str
    file: str
    source: str
    call: Callable[[str, str, dict[str, str]], Any] = field(compare=False, repr=False)

    def __call__(self, output: str, example: Example) -> float:
        """Return the score of a text, from 0 to 1: that of the right answer for which it is highest; 0 for an unlabelled row.

        Raises InputError that names the row and the text if the function raises, or returns anything but such a number.
        """
        if not example.answer:
            return 0.0
        return max(self._score(output, answer, example) for answer in example.answers)

    def _score(self, output: str, answer: str, example: Example) -> float:
        try:
            value = self.call(output, answer, dict(example.fields))
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.file]
            place = f" in line {lines[-1]}" if lines else ""
            says = f"raised {type(error).__name__}{place} ({first_sentence(error)})"
            raise InputError(self._refused(says, output, example)) from None
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # of NumPy or torch
            value = value.item()
        is_number = isinstance(value, Real)
        if not is_number:
            raise InputError(self._refused(f"returned {_short(value)} ({type(value).__name__})", output, example))
        if not 0 <= value <= 1:  # neither is NaN
            raise InputError(self._refused(f"returned {_short(value)}", output, example))
        return float(value)

    def _refused(self, what: str, output: str, example: Example) -> str:
        return (
            f"dataset.metric={self.path} {what} for {example.where or example.id} and the text {_short(output)}; it should "
            "return a number from 0 to 1 for every text, an empty one included; the texts that were written are kept, so mend "
            "it and give the same command again."
        )


def load_function(path: str) -> OwnFunction:
    """Load the function that `my_metrics.py:score` or `my_metrics:score` names.

    A file, or a module that is not installed, is looked for in the working directory. The file is read and run anew by each
    call, so that `source` is always that of the code that scores.

    Raises InputError if there is no such file, module or function, or if the file cannot be run.
    """
    what, (where, _, name) = f"dataset.metric={path}", path.rpartition(":")
    folder = str(Path(where).resolve().parent if where.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)  # for what the file imports, too
    try:
        spec = _spec(where, what)
        file = str(spec.origin)
        source = Path(file).read_bytes()
        module = sys.modules[spec.name] = module_from_spec(spec)
        try:
            exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            says = f"{type(error).__name__} ({first_sentence(error)})"
            raise InputError(f"{what}: running {file} raised {says}; mend it.") from None
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what the function imports once it is called
    call = getattr(module, name, None)
    if not callable(call):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{what}: {file} defines no function {name!r}; it has {', '.join(defined) or 'none'}.")
    return OwnFunction(path, file, hashlib.sha256(source).hexdigest()[:16], call)


def _spec(where: str, what: str) -> ModuleSpec:
    """Return what to load of a file or a module, under a name of its own, which no other import finds.

    Raises InputError if it is not there, or no Python source.
    """
    package, _, stem = ("", "", Path(where).stem) if where.endswith(".py") else where.rpartition(".")
    name = f"{package}.paft_metric_{stem}" if package else f"paft_metric_{stem}"
    if where.endswith(".py"):
        file = Path(where).resolve()
        if not file.is_file():
            raise InputError(f"{what}: there is no file {file}; give the path of your Python file.")
        found = spec_from_file_location(name, file)
    else:
        importlib.invalidate_caches()  # or a file that has just been written is not found
        try:
            found = find_spec(where)
        except (Exception, SystemExit) as error:  # whatever the packages above it raise
            raise InputError(f"{what}: {where} cannot be imported ({type(error).__name__}: {first_sentence(error)}).") from None
        if found is None:
            raise InputError(
                f"{what}: there is no module {where!r}, neither installed nor in {Path.cwd()}; a file is named as "
                "my_metrics.py:score."
            )
    if found is not None and str(found.origin).endswith(".py"):
        inside = found.submodule_search_locations
        if (spec := spec_from_file_location(name, found.origin, submodule_search_locations=inside)) is not None:
            return spec
    raise InputError(f"{what}: {where} is no Python file; put the function into one, my_metrics.py:score.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
