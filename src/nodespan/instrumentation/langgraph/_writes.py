"""The channels that a node wrote, each with type, size and keyed hash of the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import BaseMessage

from nodespan.spans.attributes import to_attribute
from nodespan.spans.fingerprint import add_form, fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    Write = tuple[int, str]
    """Position among the writes of a task, and the channel as attribute text."""

MAX_WRITES: Final = 100
"""Writes recorded per execution; a node has more only if it returns hundreds of commands."""

_NOT_THE_STATE: Final = ("branch:", "join:", "__")
"""Prefixes of LangGraph's own channels."""
_ROOT: Final = "__root__"
"""The one channel of a state that is not a mapping."""
_METADATA: Final = "node_metadata"
"""nodespan's own, which the span has as attributes."""


def to_record(channels: Sequence[str]) -> Sequence[Write]:
    """The writes to channels of the state, at most ``MAX_WRITES``."""
    found = [
        (index, str(to_attribute(channel)))
        for index, channel in enumerate(channels)
        if channel == _ROOT or not (channel.startswith(_NOT_THE_STATE) or channel == _METADATA)
    ]
    return tuple(found[:MAX_WRITES])


def written(recorded: Sequence[Write], writes: Sequence[tuple[str, object]]) -> tuple[str, ...]:
    """The writes as ``langgraph.writes`` has them."""
    return tuple([f"{channel} {fingerprint(writes[index][1])}" for index, channel in recorded])


def values(recorded: Sequence[Write], writes: Sequence[tuple[str, object]]) -> list[object]:
    """The values of the writes, for where content is captured."""
    return [writes[index][1] for index, _ in recorded]


def _message(message: Any) -> object:
    """A message without its random ids and its response metadata."""
    calls = [[call["name"], call["args"]] for call in getattr(message, "tool_calls", None) or ()]
    return [message.type, message.name, message.content, calls, getattr(message, "status", None)]


add_form(BaseMessage, _message)
