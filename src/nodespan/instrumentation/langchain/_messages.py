"""LangChain's messages in the conventions' form of role and parts: pure functions, used only where content is on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from nodespan.instrumentation.langchain import _convert
from nodespan.spans.guard import Guard
from nodespan.spans.message_parts import content_parts, message, text_part, tool_call_part, tool_response_part

if TYPE_CHECKING:
    from nodespan.spans.message_parts import Message, Part

_CONVERTING: Final = Guard("convert the definition of a LangChain tool")
_ROLES: Final = {"human": "user", "ai": "assistant", "function": "tool"}


def to_message(given: BaseMessage | str) -> Message:
    """A message of a conversation, or a prompt of an LLM."""
    if isinstance(given, str):
        return message("user", [text_part(given)])
    return message(_role(given), _parts(given))


def definitions(tools: object) -> list[Mapping[str, Any]]:
    """Tools that a model was bound to, in OpenAI's form; those that cannot be converted are left out."""
    given = cast("Iterable[Any]", tools) if isinstance(tools, (list, tuple)) else ()
    converted: list[Mapping[str, Any]] = []
    for tool in given:
        with _CONVERTING:
            converted.append(tool if isinstance(tool, Mapping) else convert_to_openai_tool(tool))  # pyright: ignore[reportUnknownArgumentType] of any type
    return converted


def answers(generations: Sequence[_convert.Generation]) -> list[Message]:
    """The answers, each with its finish reason."""
    made: list[Message] = []
    for generation in generations:
        found = _convert.message_of(generation)
        parts = [text_part(generation.text)] if found is None else _parts(found)
        reason = _convert.finish_reason_of(generation)
        made.append(message("assistant", parts, None if reason is None else str(reason)))
    return made


def _role(given: BaseMessage) -> str:
    kind = given.type.removesuffix("MessageChunk").lower()
    return given.role if isinstance(given, ChatMessage) else _ROLES.get(kind, kind)


def _parts(given: BaseMessage) -> list[Part]:
    if isinstance(given, ToolMessage):
        return [tool_response_part(given.tool_call_id, given.content)]
    parts = content_parts(given.content)
    if isinstance(given, AIMessage):
        parts += [tool_call_part(call["id"], call["name"], call["args"]) for call in given.tool_calls]
    return parts
