"""LangChain's messages in the conventions' form of role and parts: pure functions, used only where content is on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

from nodespan.instrumentation.langchain import _convert
from nodespan.spans.content import message, text_part, tool_call_part, tool_response_part

if TYPE_CHECKING:
    from nodespan.spans.content import Message, Part

_ROLES: Final = {"human": "user", "ai": "assistant", "function": "tool"}
_THOUGHTS: Final = ("reasoning", "thinking")


def questions(asked: Iterable[BaseMessage | str]) -> list[Message]:
    """What goes to a model: a conversation, or an LLM's prompts."""
    return [
        message("user", [text_part(one)]) if isinstance(one, str) else message(_role(one), _parts(one)) for one in asked
    ]


def answers(generations: Sequence[_convert.Generation]) -> list[Message]:
    """What came back, each answer with why it ended."""
    made: list[Message] = []
    for generation in generations:
        said = _convert.message_of(generation)
        parts = [text_part(generation.text)] if said is None else _parts(said)
        reason = _convert.finish_reason_of(generation)
        made.append(message("assistant", parts, None if reason is None else str(reason)))
    return made


def _role(said: BaseMessage) -> str:
    kind = said.type.removesuffix("MessageChunk").lower()
    return said.role if isinstance(said, ChatMessage) else _ROLES.get(kind, kind)


def _parts(said: BaseMessage) -> list[Part]:
    if isinstance(said, ToolMessage):
        return [tool_response_part(said.tool_call_id, said.content)]
    parts: list[Part] = [
        part for block in ([said.content] if isinstance(said.content, str) else said.content) for part in _block(block)
    ]
    if isinstance(said, AIMessage):
        parts += [tool_call_part(call["id"], call["name"], call["args"]) for call in said.tool_calls]
    return parts


def _block(block: str | Mapping[str, Any]) -> Iterable[Part]:
    """A block of a message's content. A tool call is left out: it stands among the message's tool calls as well."""
    if isinstance(block, str):
        return [text_part(block)] if block else []
    kind = str(block.get("type", "text"))
    if kind == "text":
        return [text_part(block.get("text", ""))]
    if kind in _THOUGHTS:
        return [text_part(block.get(kind, ""), "reasoning")]
    if "tool" in kind:
        return []
    rest = {key: value for key, value in block.items() if key not in {"type", "index"}}
    return [text_part(rest, kind)]
