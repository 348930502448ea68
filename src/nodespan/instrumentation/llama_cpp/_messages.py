"""Messages of llama-cpp-python in the conventions' form of role and parts; used only where content is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from nodespan.spans.content import message, text_part, tool_call_part, tool_response_part

if TYPE_CHECKING:
    import llama_cpp
    from nodespan.spans.content import Message, Part

_Object = Mapping[str, Any]


def questions(llama: llama_cpp.Llama, given: _Object) -> list[Message]:
    """What goes to the model: a conversation, or a prompt, which may be given as its tokens."""
    if (conversation := given.get("messages")) is not None:
        return [message(str(one["role"]), _parts(one)) for one in cast("Sequence[_Object]", conversation)]
    prompt: str | list[int] = given.get("prompt", "")
    if not isinstance(prompt, str):
        prompt = llama.detokenize(prompt, special=True).decode("utf-8", "replace")
    return [message("user", [text_part(prompt)])]


class Answer:
    """What the model says, put together from the pieces that it comes in, or from one that is the whole."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, choice: _Object) -> None:
        """Takes a piece: a choice of llama-cpp-python's answer, or of a chunk of it."""
        said: _Object = choice.get("message") or choice.get("delta") or choice
        self._texts.append(said.get("content") or said.get("text") or "")
        for place, call in enumerate(cast("Sequence[_Object]", said.get("tool_calls") or ())):
            known = self._calls.setdefault(call.get("index", place), {"arguments": ""})
            known.update({"id": call.get("id") or known.get("id", ""), "name": _called(call) or known.get("name", "")})
            known["arguments"] += call["function"].get("arguments") or ""

    def messages(self, finish_reason: str | None) -> list[Message]:
        """The answer, as far as it came."""
        text = "".join(self._texts)
        parts = [text_part(text)] if text else []
        parts += [tool_call_part(call["id"], call["name"], call["arguments"]) for call in self._calls.values()]
        return [message("assistant", parts, finish_reason)] if parts else []


def _called(call: _Object) -> str | None:
    return cast("_Object", call["function"]).get("name")


def _parts(said: _Object) -> list[Part]:
    content = said.get("content")
    if said["role"] == "tool":
        return [tool_response_part(said.get("tool_call_id"), content)]
    blocks: Sequence[Any] = [content] if isinstance(content, str) else content or ()
    parts = [
        text_part(block)
        if isinstance(block, str)
        else text_part(block.get(block.get("type", "text")), str(block.get("type", "text")))
        for block in blocks
    ]
    calls = cast("Sequence[_Object]", said.get("tool_calls") or ())
    return parts + [
        tool_call_part(call.get("id"), _called(call) or "", call["function"]["arguments"]) for call in calls
    ]
