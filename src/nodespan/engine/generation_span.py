"""The span of one generation: ``chat {model}`` or ``text_completion {model}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.trace import SpanKind
from typing_extensions import override

from nodespan import semconv
from nodespan.engine.tool_calls import ToolCallPieces
from nodespan.spans.guard import Guard
from nodespan.spans.message_parts import content_parts, message, text_part, tool_call_part, tool_response_part
from nodespan.spans.model_call import ModelCallSpan, request_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Tracer

    from nodespan.engine.contract import Server
    from nodespan.spans.instruments import Instruments
    from nodespan.spans.message_parts import Message, Part
    from nodespan.types import ChatMessage, GenerationRequest, ModelProfile

_DESCRIBING: Final = Guard("describe a generation request")


class GenerationSpan(ModelCallSpan):
    """The span of a generation that a Runner requests and its pipeline measures.

    Args:
        server: The server of the model, known before the request; ``None`` for a model in this process.
    """

    __slots__ = ()

    def __init__(
        self,
        tracer: Tracer,
        request: GenerationRequest,
        profile: ModelProfile,
        start_time_ns: int,
        server: Server | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        super().__init__(
            tracer,
            request.operation,
            profile.provider.lower(),
            profile.model_name,
            server_attributes(server),
            kind=SpanKind.INTERNAL if server is None else SpanKind.CLIENT,
            start_time_ns=start_time_ns,
            instruments=instruments,
        )
        if self.span.is_recording():
            with _DESCRIBING:
                self.set(request_attributes(request.sampling.over(profile.sampling), streams=True))
        if self.content is not None:
            with _DESCRIBING:
                if request.prompt is not None:
                    self.content.set_input([request.prompt], _prompt)
                else:
                    self.content.set_input(request.messages, _message)
                self.content.set_tools(request.tools)

    @override
    def is_call_of(self, operation: str, model: str | None, *, may_be_alias: bool = False) -> bool:
        """Always ``False``: the pipeline measures its engine, and any other call inside is a separate call."""
        return False


def server_attributes(server: Server | None) -> dict[str, str | int]:
    """``server.address`` and ``server.port``."""
    return {} if server is None else {semconv.SERVER_ADDRESS: server.address, semconv.SERVER_PORT: server.port}


def _prompt(prompt: str) -> Message:
    return message("user", [text_part(prompt)])


def _message(one: ChatMessage) -> Message:
    return message(one.role, list(_parts(one)))


def _parts(one: ChatMessage) -> Iterator[Part]:
    if one.tool_call_id is not None:
        yield tool_response_part(one.tool_call_id, one.content)
    elif one.content or not one.tool_calls:
        yield from content_parts(one.parts or one.content) or [text_part("")]
    pieces = ToolCallPieces()
    pieces.add(one.tool_calls)
    yield from (tool_call_part(call.id, call.name, call.arguments) for call in pieces.calls())
