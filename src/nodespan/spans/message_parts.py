"""Messages and tool definitions in the form of OpenTelemetry's GenAI conventions: ``[{role, parts}]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from nodespan.spans.content_json import UserValue
from nodespan.spans.media import media_stub

Part = Mapping[str, object]
Message = Mapping[str, object]

_REASONING: Final = ("reasoning", "thinking")
_TEXTS: Final = ("text", "input_text", "output_text", "refusal")


def text_part(text: object, kind: str = "text") -> Part:
    """A text, or another kind of part with ``content``."""
    return {"type": kind, "content": UserValue(text)}


def tool_call_part(call_id: str | None, name: str, arguments: object) -> Part:
    """A tool call that the model requests."""
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": UserValue(arguments)}


def tool_response_part(call_id: str | None, response: object) -> Part:
    """The result of a tool."""
    return {"type": "tool_call_response", "id": call_id, "response": UserValue(response)}


def message(role: str, parts: Sequence[Part], finish_reason: str | None = None) -> Message:
    """One message; an answer also has its finish reason."""
    made: dict[str, object] = {"role": role, "parts": list(parts)}
    return made if finish_reason is None else {**made, "finish_reason": finish_reason}


def content_parts(content: object) -> list[Part]:
    """The parts of a message's content: a text, or a list of texts and content blocks in any provider's form.

    Images, audio and files become stubs. Blocks with tool calls are left out, because libraries repeat them among the
    message's tool calls.
    """
    blocks = cast("Sequence[object]", content) if isinstance(content, (list, tuple)) else (content,)
    return [part for block in blocks if (part := _part(block)) is not None]


def tool_definitions(tools: object) -> list[dict[str, object]]:
    """``gen_ai.tool.definitions`` of tools in the form of OpenAI or Anthropic. Other values are left out."""
    given = cast("Iterable[object]", tools) if isinstance(tools, (list, tuple)) else ()
    return [_definition(cast("Mapping[str, Any]", tool)) for tool in given if isinstance(tool, Mapping)]


def _part(block: object) -> Part | None:
    if not isinstance(block, Mapping):
        return text_part(block) if block else None
    fields = cast("Mapping[str, Any]", block)
    kind = str(fields.get("type", "text"))
    if kind in _TEXTS:
        return text_part(fields.get("text", fields.get(kind, "")))
    if kind in _REASONING:
        return text_part(fields.get(kind, ""), "reasoning")
    if (stub := media_stub(fields)) is not None:
        return {key: UserValue(value) if key in {"uri", "file_id"} else value for key, value in stub.items()}
    if "tool" in kind or kind == "function_call":
        return None
    return text_part({key: value for key, value in fields.items() if key not in {"type", "index"}}, kind)


def _definition(tool: Mapping[str, Any]) -> dict[str, object]:
    inner = tool.get("function")
    function = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else tool
    name, kind = str(function.get("name", "")), str(tool.get("type", "function"))
    schema = function.get("parameters", function.get("input_schema"))
    if schema is None and "name" not in function:
        return {"type": kind, "name": name or kind, "definition": UserValue(dict(tool))}
    definition = {"type": kind if kind != "custom" else "function", "name": name}
    given = {"description": function.get("description"), "parameters": schema}
    return {**definition, **{key: UserValue(value) for key, value in given.items() if value is not None}}
