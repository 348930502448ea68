"""The span of one generation: ``chat {model}`` or ``text_completion {model}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodespan.engine.measurement import request_attributes
from nodespan.spans.content import message, text_part
from nodespan.spans.guard import Guard
from nodespan.spans.model_span import ModelCallSpan

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from nodespan.spans.content import Message
    from nodespan.types import GenerationRequest, ModelProfile

_DESCRIBING: Final = Guard("describe a generation request")


class GenerationSpan(ModelCallSpan):
    """Owns the span of a generation that the Runner asks for, and that its pipeline measures."""

    __slots__ = ()

    def __init__(self, tracer: Tracer, request: GenerationRequest, profile: ModelProfile, start_time_ns: int) -> None:
        super().__init__(
            tracer, request.operation, profile.provider.lower(), profile.model_name, start_time_ns=start_time_ns
        )
        if self.span.is_recording():
            with _DESCRIBING:
                given = {
                    **profile.sampling.model_dump(exclude_defaults=True),
                    **request.sampling.model_dump(exclude_defaults=True),
                }
                self.set(request_attributes(given, streams=True))
        if self.content is not None:
            self.content.asked(_asked(request))


def _asked(request: GenerationRequest) -> list[Message]:
    if request.prompt is not None:
        return [message("user", [text_part(request.prompt)])]
    return [message(one.role, [text_part(one.content)]) for one in request.messages]
