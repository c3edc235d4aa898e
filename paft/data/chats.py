"""Rows that are chats: the turns of a list as fields that a template may show, and the last answer as the right one."""

from collections.abc import Mapping
from typing import Any

from paft.data.tasks.base import RowError

CHATS = {"messages": ("role", "content"), "conversations": ("from", "value")}  # OpenAI's and ShareGPT's: whose, what
FIELDS = ("input", "history", "system")
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip


def is_chat(name: str, value: Any) -> bool:
    """Return whether a field of this name with this value holds the turns of a chat."""
    return name in CHATS and isinstance(value, list) and bool(value) and all(_is_turn(name, turn) for turn in value)


def _is_turn(name: str, turn: Any) -> bool:
    return isinstance(turn, Mapping) and all(key in turn for key in CHATS[name])


def read_chat(name: str, value: Any) -> tuple[dict[str, str], str]:
    """Return the fields of a chat and its answer.

    input is the last turn of the user, history the turns before it, each in a line of its own ("User: ...", "Assistant: ..."),
    system what the system says first. The answer is the last turn of the assistant; empty where the chat ends with the user's.

    Raises RowError for turns that are none, of another role, or in another order.
    """
    if not is_chat(name, value):
        raise RowError(f"{name!r} holds no turns; each is an object with {' and '.join(map(repr, CHATS[name]))}")
    turns = [_turn(name, number, turn) for number, turn in enumerate(value, 1)]
    system = [text for role, text in turns if role == "system"]
    if any(role == "system" for role, _ in turns[len(system) :]):
        raise RowError(f"a turn of the system stands behind others in {name!r}; it must come first")
    said = turns[len(system) :]
    answer = said.pop()[1] if said and said[-1][0] == "assistant" else ""
    if not said or said[-1][0] != "user":
        raise RowError(f"{name!r} holds no turn of the user before the answer")
    history = "\n".join(f"{role.capitalize()}: {text}" for role, text in said[:-1])
    return {"input": said[-1][1], "history": history, "system": "\n".join(system)}, answer


def _turn(name: str, number: int, turn: Mapping[str, Any]) -> tuple[str, str]:
    """Return the role and the text of a turn."""
    whose, what = (turn[key] for key in CHATS[name])
    if not isinstance(whose, str) or whose not in _ROLES:
        raise RowError(f"turn {number} of {name!r} is of {whose!r}; the turns of system, user and assistant can be read")
    if isinstance(what, list) and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in what):
        what = "".join(part["text"] for part in what)
    if not isinstance(what, str):
        raise RowError(f"turn {number} of {name!r} holds no text")
    return _ROLES[whose], what
