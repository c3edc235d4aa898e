"""A bad input, and the answer to it."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Needs = Literal["nothing", "libraries", "weights"]
Says = Literal["a sentence", "usage", "a list"]


class Case(NamedTuple):
    """A bad input, and the answer to it.

    %MODEL in arguments, files and sentence stands for the folder of a tiny Llama.
    """

    name: str
    command: str  # what is typed behind `python`
    arguments: str  # separated by " ; "
    files: Mapping[str, str | bytes]  # to be written first
    sentence: str  # a piece of it
    needs: Needs = "nothing"  # what must be loaded to see the mistake: libraries (torch's, the hub's), or a model's weights
    says: Says = "a sentence"  # usage: argparse's; a list: a sweep's, of its jobs


Files = Mapping[str, str | bytes]
Table = list[tuple[str, str, Files, str]]  # name, arguments, files, sentence


def cases(command: str, table: Table, needs: Needs = "nothing") -> list[Case]:
    """Return the bad inputs of a table, which are all of one command."""
    return [Case(name, command, arguments, files, sentence, needs) for name, arguments, files, sentence in table]
