"""What was asked and answered, on spans and as events: only where the user has switched it on.

``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says where: ``NO_CONTENT`` (the default), ``SPAN_ONLY``,
``EVENT_ONLY`` or ``SPAN_AND_EVENT``. Messages are written as the conventions have them, ``[{role, parts}]`` in JSON.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger

from nodespan import semconv
from nodespan._version import __version__
from nodespan.spans.content_json import UserValue, encode_json, fit_json
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import exemplar_context

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.trace import Span

CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MAX_BYTES: Final = "NODESPAN_CONTENT_MAX_BYTES"
DEFAULT_MAX_BYTES: Final = 32 * 1024
"""Cap of one attribute with content: about what a context of 8,192 tokens holds."""
LEAST_MAX_BYTES: Final = 512
"""Room for a message that says what is missing."""

_CUT_BY_THE_SDK: Final = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
"""Where these are lower, the SDK would cut the JSON in its midst."""

_WRITING: Final = Guard("capture content")
_logger: Final = logging.getLogger("nodespan")

Part = Mapping[str, object]
Message = Mapping[str, object]


class Capture(NamedTuple):
    """Where content goes."""

    on_spans: bool
    on_events: bool


_MODES: Final = {
    "NO_CONTENT": Capture(on_spans=False, on_events=False),
    "SPAN_ONLY": Capture(on_spans=True, on_events=False),
    "EVENT_ONLY": Capture(on_spans=False, on_events=True),
    "SPAN_AND_EVENT": Capture(on_spans=True, on_events=True),
}
_OFF: Final = _MODES["NO_CONTENT"]


def capture() -> Capture:
    """What the user has switched on. Any other value is said once, and is ``NO_CONTENT``."""
    given = os.environ.get(CAPTURE)
    return _mode(given) if given else _OFF


def text_part(text: object, kind: str = "text") -> Part:
    """A piece of a message: text, or another kind with a content."""
    return {"type": kind, "content": UserValue(text)}


def tool_call_part(call_id: str | None, name: str, arguments: object) -> Part:
    """A model's wish to have a tool called."""
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": UserValue(arguments)}


def tool_response_part(call_id: str | None, response: object) -> Part:
    """What the tool gave back."""
    return {"type": "tool_call_response", "id": call_id, "response": UserValue(response)}


def message(role: str, parts: Sequence[Part], finish_reason: str | None = None) -> Message:
    """One message; an answer also says why it ended."""
    made: dict[str, object] = {"role": role, "parts": list(parts)}
    return made if finish_reason is None else {**made, "finish_reason": finish_reason}


def set_content(span: Span, values: Mapping[str, object]) -> None:
    """Writes values of the user's on a span, redacted and cut, if content goes there. What is no text becomes JSON."""
    if capture().on_spans and span.is_recording():
        with _WRITING:
            for name, value in values.items():
                made = fit_json(UserValue(value), _max_bytes())
                span.set_attribute(name, made if isinstance(value, str) else encode_json(made).decode())


class ModelContent:
    """What one model call was asked and answered, until the call ends.

    Attributes:
        facts: What the span says of the call; the event says the same.
    """

    __slots__ = ("_capture", "_input", "_logger_provider", "_output", "facts")

    def __init__(self, where: Capture, logger_provider: LoggerProvider | None) -> None:
        self._capture = where
        self._logger_provider = logger_provider
        self._input: list[Message] = []
        self._output: list[Message] = []
        self.facts: dict[str, Any] = {}

    @staticmethod
    def begin(logger_provider: LoggerProvider | None = None) -> ModelContent | None:
        """For a call that begins now; ``None`` unless the user has switched content on."""
        where = capture()
        return None if where is _OFF else ModelContent(where, logger_provider)

    def set_input(self, messages: Sequence[Message]) -> None:
        """Keeps the messages that the model receives."""
        self._input = list(messages)

    def set_output(self, messages: Sequence[Message]) -> None:
        """Keeps the answer, which may be incomplete."""
        self._output = list(messages)

    def write(self, span: Span) -> None:
        """Puts it where it goes. Called once, just before the span ends."""
        with _WRITING:
            content = {name: fit_json(value, _max_bytes()) for name, value in self._by_name().items() if value}
            if self._capture.on_spans and span.is_recording():
                for name, value in content.items():
                    span.set_attribute(name, encode_json(value).decode())
            if self._capture.on_events:
                self._emit(span, content)

    def _by_name(self) -> dict[str, list[Any]]:
        """System messages at the beginning are instructions; in the midst of a conversation they are part of it."""
        first = next((i for i, one in enumerate(self._input) if one["role"] != "system"), len(self._input))
        instructions: list[Any] = [one["parts"] for one in self._input[:first]]
        return {
            semconv.SYSTEM_INSTRUCTIONS: [part for parts in instructions for part in parts],
            semconv.INPUT_MESSAGES: self._input[first:],
            semconv.OUTPUT_MESSAGES: self._output,
        }

    def _emit(self, span: Span, content: Mapping[str, Any]) -> None:
        logger = get_logger(semconv.SCOPE, __version__, self._logger_provider, semconv.SCHEMA_URL)
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                context=exemplar_context(span),
                severity_number=SeverityNumber.DEBUG,
                event_name=semconv.INFERENCE_DETAILS_EVENT,
                attributes={**self.facts, **content},
            )
        )


@lru_cache(maxsize=8)
def _mode(given: str) -> Capture:
    mode = _MODES.get(given.strip().upper())
    if mode is None:
        _logger.warning("%s is %r: no content is captured. It can be %s.", CAPTURE, given, ", ".join(_MODES))
    return mode or _OFF


def _max_bytes() -> int:
    limits = [_limit(os.environ.get(MAX_BYTES), DEFAULT_MAX_BYTES)]
    limits += [_limit(os.environ.get(name), limits[0]) for name in _CUT_BY_THE_SDK]
    return min(limits)


@lru_cache(maxsize=32)
def _limit(given: str | None, default: int) -> int:
    if not given:
        return default
    if given.strip().isdecimal():
        return max(int(given), LEAST_MAX_BYTES)
    _logger.warning("%r is no number of bytes: content is cut at %d. Give a whole number.", given, default)
    return default
