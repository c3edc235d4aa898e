"""Nested mappings, such as configs."""

from collections.abc import Mapping
from typing import Any


def flat(content: Mapping[str, Any], above: str = "", separator: str = ".") -> dict[str, Any]:
    """Return nested mappings as one, its keys joined by dots, or by another separator."""
    joined: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{above}{key}"
        joined |= flat(value, f"{name}{separator}", separator) if isinstance(value, Mapping) else {name: value}
    return joined
