"""Settings that are texts of several words or lines, which may come from a file: model.system_prompt=system.txt."""

from pathlib import Path
from typing import Any

from paft.runtime.errors import InputError

_TEXTS = (("model", "system_prompt"), ("method", "prompt"))


def read_texts(content: dict[str, Any]) -> None:
    """Replace the name of a .txt file by its text, so that the text is the setting and part of what a run is.

    Line breaks at the end of the file are left out.

    Args:
        content: a composed config in plain types, changed in place.

    Raises InputError that names the file, where it is not there, is empty or no UTF-8 text.
    """
    for section, name in _TEXTS:
        given = content.get(section)
        value = given.get(name) if isinstance(given, dict) else None
        if isinstance(value, str) and value.endswith(".txt"):
            content[section][name] = _read(Path(value), f"{section}.{name}={value}")


def _read(path: Path, what: str) -> str:
    if not path.is_file():
        raise InputError(f"{what}: there is no such file; a value that ends in .txt names a file with the text.")
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\n")
    except UnicodeDecodeError:
        raise InputError(f"{what}: the file is not UTF-8 text.") from None
    if not text.strip():
        raise InputError(f"{what}: the file is empty; it should hold the text.")
    return text
