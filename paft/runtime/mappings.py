"""Nested mappings, such as configs."""

from collections.abc import Mapping
from typing import Any


def flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, its keys joined by dots."""
    joined: dict[str, Any] = {}
    for key, value in content.items():
        joined |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return joined
