"""What the comparisons take: a YAML file that says what is compared, finished runs, and a place for the page."""

import argparse
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from paft.runtime.errors import InputError

_ROOT = Path(__file__).parents[2]
Content = TypeVar("Content", bound=BaseModel)


def read_yaml(path: Path, kind: type[Content], missing: str) -> Content:
    """Read a file as what it describes; raises InputError that names the file and what is wrong.

    Args:
        missing: what to say where there is no such file.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except (ValidationError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: {said}; see {kind.__name__} in {inspect.getfile(kind)}.") from None


def check_against(arms: Iterable[str], names: Iterable[str]) -> None:
    """Raise ValueError if what is compared is no arm."""
    for name in names:
        if name not in arms:
            raise ValueError(f"against names {name!r}, which is none of the arms: {', '.join(arms)}")


def typed_path(path: Path) -> str:
    """Return how to name a file in a command: by its place in the repository where it lies there, else as it was given."""
    inside = path.absolute().is_relative_to(_ROOT)
    return str(path.absolute().relative_to(_ROOT)) if inside else str(path)


def add_page_arguments(parser: argparse.ArgumentParser, out: Path, of: str = "runs") -> None:
    """Add the arguments of every command that makes a page of finished runs: where these are, where it goes, what is kept."""
    parser.add_argument("runs", type=Path, nargs="+", help=f"folders of {of}, or folders that hold them")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--keep", action="store_true", help="copy what the page is made from to OUT/runs and OUT/pools")
