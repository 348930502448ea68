"""What a node asks its model, from whatever state it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from langchain_core.messages import BaseMessage

from nodespan.errors import ConfigurationError
from nodespan.instrumentation.langgraph import field_of
from nodespan.types import ChatMessage, GenerationRequest, Sampling

Prompt = str | Callable[[Any], str | Sequence[Any]]

_ROLES: Final = {"human": "user", "ai": "assistant"}
"""LangChain's message types in the words of chat templates; the others are the same word."""


def build_request(node_name: str, state: object, prompt: Prompt | None, sampling: Sampling) -> GenerationRequest:
    """The request: the prompt function's answer, or the state's messages, after the prompt as system message.

    Raises:
        ConfigurationError: There is nothing to ask.
    """
    if callable(prompt):
        asked = prompt(state)
        messages = [ChatMessage(role="user", content=asked)] if isinstance(asked, str) else list(_messages(asked))
    else:
        messages = list(_messages_of(state))
        if prompt and messages:
            messages.insert(0, ChatMessage(role="system", content=prompt))
    if not messages:
        raise ConfigurationError(
            f"PipelineNode {node_name!r} found no messages in its input, {_shape(state)}. "
            "Put some into state.messages, or say what to ask: PipelineNode(..., prompt=lambda state: '...')."
        )
    return GenerationRequest(messages=tuple(messages), sampling=sampling)


def _messages_of(state: object) -> Iterable[ChatMessage]:
    if isinstance(state, str):  # the input of a Send
        return [ChatMessage(role="user", content=state)]
    found = field_of(state, "messages")
    if isinstance(found, (str, BaseMessage)):
        return [_message(found)]
    return _messages(cast("Iterable[object]", found)) if isinstance(found, Iterable) else []


def _messages(found: Iterable[object]) -> Iterable[ChatMessage]:
    return (_message(message) for message in found)


def _message(message: object) -> ChatMessage:
    """One message as LangGraph takes them: a message object, ``(role, content)``, a dict or a text."""
    if isinstance(message, str):
        return ChatMessage(role="user", content=message)
    if isinstance(message, (tuple, list)):
        role, content = cast("Sequence[object]", message)
    elif isinstance(message, Mapping):
        fields = cast("Mapping[str, object]", message)
        role, content = fields.get("role") or fields.get("type"), fields.get("content")
    else:
        role = getattr(message, "role", None) or getattr(message, "type", None)
        content = getattr(message, "content", None)
    return ChatMessage(role=_ROLES.get(str(role), str(role)), content=_text(content))


def _text(content: object) -> str:
    """The text of a content that may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = cast("Iterable[object]", content) if isinstance(content, (list, tuple)) else ()
    return "".join(
        part if isinstance(part, str) else str(cast("Mapping[str, object]", part).get("text", ""))
        for part in parts
        if isinstance(part, (str, Mapping))
    )


def _shape(state: object) -> str:
    """What was given, without its values."""
    if isinstance(state, Mapping):
        return f"a dict with the keys {sorted(map(str, cast('Mapping[object, object]', state)))}"
    return f"a {type(state).__name__}"
