"""Messages of llama-cpp-python in the conventions' form of role and parts; used only where content is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from nodespan.spans.message_parts import content_parts, message, text_part, tool_call_part, tool_response_part

if TYPE_CHECKING:
    import llama_cpp
    from nodespan.spans.content import ModelContent
    from nodespan.spans.message_parts import Message, Part

_Object = Mapping[str, Any]


def set_input(content: ModelContent, llama: llama_cpp.Llama, given: _Object) -> None:
    """Keeps a conversation with its tools, or a prompt, which may be given as tokens.

    An iterator of messages is left to the library, which can read it only once.
    """
    conversation: object = given.get("messages")
    if isinstance(conversation, Sequence):
        content.set_input(cast("Sequence[_Object]", conversation), _to_message)
        content.set_tools(given.get("tools") or given.get("functions"))
    elif conversation is None:
        prompt: str | list[int] = given.get("prompt", "")
        if not isinstance(prompt, str):
            prompt = llama.detokenize(prompt, special=True).decode("utf-8", "replace")
        content.set_input([prompt], lambda text: message("user", [text_part(text)]))


class Answer:
    """The answer, assembled from its pieces."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, choice: _Object) -> None:
        """Adds a choice of an answer, or of a chunk of it."""
        reply: _Object = choice.get("message") or choice.get("delta") or choice
        self._texts.append(reply.get("content") or reply.get("text") or "")
        for place, call in enumerate(cast("Sequence[_Object]", reply.get("tool_calls") or ())):
            known = self._calls.setdefault(call.get("index", place), {"arguments": ""})
            known.update({"id": call.get("id") or known.get("id", ""), "name": _called(call) or known.get("name", "")})
            known["arguments"] += call["function"].get("arguments") or ""

    def messages(self, finish_reason: str | None) -> list[Message]:
        """The answer so far."""
        text = "".join(self._texts)
        parts = [text_part(text)] if text else []
        parts += [tool_call_part(call["id"], call["name"], call["arguments"]) for call in self._calls.values()]
        return [message("assistant", parts, finish_reason)] if parts else []


def _called(call: _Object) -> str | None:
    return cast("_Object", call["function"]).get("name")


def _to_message(given: _Object) -> Message:
    return message(str(given["role"]), _parts(given))


def _parts(given: _Object) -> list[Part]:
    content = given.get("content")
    if given["role"] == "tool":
        return [tool_response_part(given.get("tool_call_id"), content)]
    calls = cast("Sequence[_Object]", given.get("tool_calls") or ())
    return content_parts(content) + [
        tool_call_part(call.get("id"), _called(call) or "", call["function"]["arguments"]) for call in calls
    ]
