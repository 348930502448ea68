"""The identity of a run: the attributes that its span and every span below it have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nodespan import semconv
from nodespan.spans.attributes import to_attributes

if TYPE_CHECKING:
    from collections.abc import Mapping


class Identity:
    """User, conversation and agent of a run. Immutable.

    Attributes:
        user_id: The user; ``None`` if unknown.
        conversation_id: As given: a text or an integer.
        agent_name: Of an agent; ``None`` for any other graph.
        attributes: The same as span attributes, as far as they are known.
    """

    __slots__ = ("agent_name", "attributes", "conversation_id", "user_id")

    def __init__(
        self,
        user_id: str | None = None,
        conversation_id: str | int | None = None,
        agent_name: str | None = None,
    ) -> None:
        self.user_id = user_id
        self.conversation_id = conversation_id
        self.agent_name = agent_name
        known = (
            (semconv.USER_ID, user_id),
            (semconv.CONVERSATION_ID, conversation_id),
            (semconv.AGENT_NAME, agent_name),
        )
        self.attributes: Mapping[str, Any] = to_attributes(
            {name: str(value) for name, value in known if value is not None}
        )


NO_IDENTITY: Final = Identity()
