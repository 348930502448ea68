"""Arguments and answers of the openai package as attributes, measurements and messages: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from nodespan.engine.contract import Server
from nodespan.engine.openai_compatible.json_values import Object, as_object, as_text
from nodespan.engine.openai_compatible.readers import read_timings, read_usage
from nodespan.engine.tool_calls import ToolCallPieces
from nodespan.spans.message_parts import content_parts, message, text_part, tool_call_part, tool_response_part
from nodespan.spans.model_call import request_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodespan.engine.contract import GenerationResult
    from nodespan.spans.content import ModelContent
    from nodespan.spans.message_parts import Message, Part


def server_of(resource: object) -> Server | None:
    """Host and port of the client that a resource belongs to."""
    url = getattr(getattr(resource, "_client", None), "base_url", None)
    host = getattr(url, "host", None)
    if not isinstance(host, str) or not host:
        return None
    port = getattr(url, "port", None)
    default = 80 if getattr(url, "scheme", "") == "http" else 443
    return Server(host, port if isinstance(port, int) else default)


def model_of(given: Mapping[str, Any]) -> str | None:
    """The requested model."""
    model = given.get("model")
    return model if isinstance(model, str) else None


def request(given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a request. Values that are ``NOT_GIVEN`` or ``omit`` are left out."""
    limits = [given.get(name) for name in ("max_completion_tokens", "max_tokens")]
    limit = next((value for value in limits if isinstance(value, int)), None)
    return request_attributes({**given, "max_tokens": limit}, streams=given.get("stream") is True)


def measurements(result: GenerationResult, answer: object) -> None:
    """Copies ``usage`` and llama-server's ``timings`` of a whole answer, or of a chunk, into a result."""
    extra = as_object(getattr(answer, "model_extra", None))
    if "timings" in extra:
        read_timings(result, as_object(extra["timings"]))
        result.provider = "LLAMA_CPP"
    usage = getattr(answer, "usage", None)
    if usage is not None:
        read_usage(result, as_object(usage.model_dump()))


def first_choice(answer: object) -> Any:
    """The first choice of an answer or a chunk; ``None`` if it has none."""
    choices = getattr(answer, "choices", None)
    return choices[0] if isinstance(choices, list) and choices else None  # pyright: ignore[reportUnknownVariableType] a foreign object


def set_input(content: ModelContent, given: Mapping[str, Any]) -> None:
    """Keeps the conversation with its tools; an iterator is left to the package, which can read it only once."""
    messages = given.get("messages")
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        content.set_input(cast("Sequence[object]", messages), _to_message)
    content.set_tools(given.get("tools") or given.get("functions"))


def answer_parts(text: str, pieces: ToolCallPieces) -> list[Part]:
    """Parts of an answer."""
    calls = [tool_call_part(call.id, call.name, call.arguments) for call in pieces.calls()]
    return [text_part(text), *calls] if text else calls


def _to_message(given: object) -> Message:
    if hasattr(given, "model_dump"):  # an answer of the package, which programs put into the conversation
        given = cast("Any", given).model_dump()
    one = as_object(given)
    return message(as_text(one.get("role")), list(_parts(one)))


def _parts(one: Object) -> Iterator[Part]:
    content = one.get("content")
    if one.get("tool_call_id"):
        yield tool_response_part(as_text(one["tool_call_id"]), content)
    elif content is not None:
        yield from content_parts(content)
    pieces = ToolCallPieces()
    pieces.add(one.get("tool_calls"))
    yield from (tool_call_part(call.id, call.name, call.arguments) for call in pieces.calls())
