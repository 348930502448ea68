"""The request of a PipelineNode, from its state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_openai_messages

from nodespan.errors import ConfigurationError
from nodespan.instrumentation.langgraph import field_of
from nodespan.types import ChatMessage, GenerationRequest, Sampling

Prompt = str | Callable[[Any], str | Sequence[Any]]

_NOT_SENT: Final = frozenset({"thinking", "reasoning", "redacted_thinking", "tool_use", "tool_call", "function_call"})
"""Blocks of an answer that are not part of the conversation, or are repeated among its tool calls."""
_ROLES: Final = {"human": "user", "ai": "assistant"}
"""Roles of chat templates by LangChain's message types; the others have the same name."""


def build_request(node_name: str, state: object, prompt: Prompt | None, sampling: Sampling) -> GenerationRequest:
    """The request: the prompt function's answer, or the state's messages, after the prompt as system message.

    Raises:
        ConfigurationError: There are no messages.
    """
    if callable(prompt):
        given = prompt(state)
        messages = [ChatMessage(role="user", content=given)] if isinstance(given, str) else list(_messages(given))
    else:
        messages = list(_messages_of(state))
        if prompt and messages:
            messages.insert(0, ChatMessage(role="system", content=prompt))
    if not messages:
        raise ConfigurationError(
            f"The input of PipelineNode {node_name!r} has no messages: {_shape(state)}. "
            "Add messages to the state, or give a prompt: PipelineNode(..., prompt=lambda state: '...')."
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
    """One message of a form that LangGraph accepts: a message object, ``(role, content)``, a dict or a text."""
    if isinstance(message, str):
        return ChatMessage(role="user", content=message)
    if isinstance(message, (tuple, list)):
        role, content = cast("Sequence[object]", message)
        message = {"role": role, "content": content}
    field = cast("Mapping[str, object]", message).get if isinstance(message, Mapping) else partial(_attribute, message)
    role, content = field("role") or field("type"), field("content")
    blocks = [block for block in _blocks(content) if block.get("type") not in _NOT_SENT]
    is_text = all(isinstance(block.get("text"), str) for block in blocks)
    name, call_id, calls = field("name"), field("tool_call_id"), field("tool_calls")
    return ChatMessage(
        role=_ROLES.get(str(role), str(role)),
        content="".join(str(block.get("text", "")) for block in blocks),
        parts=() if is_text else _parts(blocks),
        name=name if isinstance(name, str) else None,
        tool_call_id=call_id if isinstance(call_id, str) else None,
        tool_calls=tuple(map(_tool_call, cast("Iterable[Mapping[str, Any]]", calls or ()))),
    )


def _attribute(message: object, name: str) -> object:
    return getattr(message, name, None)


def _blocks(content: object) -> list[Mapping[str, Any]]:
    """The blocks of a content, which may be a text or a list."""
    given = cast("Iterable[object]", content if isinstance(content, (list, tuple)) else (content,))
    texts = ({"type": "text", "text": block} if isinstance(block, str) else block for block in given)
    return [cast("Mapping[str, Any]", block) for block in texts if isinstance(block, Mapping)]


def _parts(blocks: list[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Blocks in the form of LangChain or a provider, as parts of the OpenAI protocol."""
    try:
        [converted] = convert_to_openai_messages([HumanMessage([*map(dict, blocks)])])
    except ValueError as error:
        kinds = ", ".join(sorted({str(block.get("type")) for block in blocks}))
        raise ConfigurationError(
            f"A message has content that cannot be sent to a model (types: {kinds}): {error}. "
            "Give text, or images, audio and files in LangChain's or OpenAI's form."
        ) from None
    return tuple(converted["content"])


def _tool_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call of LangChain as an object of the OpenAI protocol."""
    if "function" in call:
        return call
    function = {"name": call.get("name"), "arguments": json.dumps(call.get("args", {}), default=str)}
    return {"id": call.get("id"), "type": "function", "function": function}


def _shape(state: object) -> str:
    """The form of the input, without its values."""
    if isinstance(state, Mapping):
        return f"a dict with the keys {sorted(map(str, cast('Mapping[object, object]', state)))}"
    return f"a {type(state).__name__}"
