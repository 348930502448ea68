"""Captured content: input and output of models, tools and retrievers, on spans and as events, if the user enables it.

``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` is ``NO_CONTENT`` (the default), ``SPAN_ONLY``, ``EVENT_ONLY`` or
``SPAN_AND_EVENT``. Messages have the form of the conventions, ``[{role, parts}]`` in JSON.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger

from nodespan import semconv
from nodespan._version import __version__
from nodespan.spans.content_json import LEAST_MESSAGE_BYTES, UserValue, encode_json, fit_json
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import exemplar_context
from nodespan.spans.log import is_first, warn
from nodespan.spans.message_parts import Message, tool_definitions

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.trace import Span

CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MAX_BYTES: Final = "NODESPAN_CONTENT_MAX_BYTES"
DEFAULT_MAX_BYTES: Final = 32 * 1024
"""Limit of one attribute with content, about a context of 8,192 tokens."""
LEAST_MAX_BYTES: Final = 512
"""Bytes reserved for the message that replaces omitted ones."""

_CUT_BY_THE_SDK: Final = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
"""With a lower limit the SDK would cut the JSON."""

_WRITING: Final = Guard("capture content")

_T = TypeVar("_T")


class Capture(NamedTuple):
    """Where captured content is written."""

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
    """The user's setting. An invalid value is logged once, and counts as ``NO_CONTENT``."""
    given = os.environ.get(CAPTURE)
    return _MODES.get(given) or _mode(given) if given else _OFF


def set_content(span: Span, values: Mapping[str, object]) -> None:
    """Sets user values on a span, redacted and cut, if content is enabled for spans; all but texts as JSON."""
    if capture().on_spans and span.is_recording():
        with _WRITING:
            for name, value in values.items():
                made = fit_json(UserValue(value), max_bytes())
                span.set_attribute(name, made if isinstance(value, str) else encode_json(made).decode())


class ModelContent:
    """Input, output and tools of one model call, until the call ends.

    Attributes:
        facts: Attributes of the span, which the event has as well.
    """

    __slots__ = ("_capture", "_input", "_instructions", "_logger_provider", "_omitted", "_output", "_tools", "facts")

    def __init__(self, where: Capture, logger_provider: LoggerProvider | None) -> None:
        self._capture = where
        self._logger_provider = logger_provider
        self._instructions: list[Message] = []
        self._input: list[Message] = []
        self._omitted = 0
        self._output: list[Message] = []
        self._tools: list[dict[str, object]] = []
        self.facts: dict[str, Any] = {}

    @staticmethod
    def begin(logger_provider: LoggerProvider | None = None) -> ModelContent | None:
        """For a call that begins now; ``None`` unless the user has enabled content."""
        where = capture()
        return None if where is _OFF else ModelContent(where, logger_provider)

    def set_input(self, messages: Sequence[_T], convert: Callable[[_T], Message]) -> None:
        """Keeps the messages that the model receives: the system messages at the beginning, and the newest.

        Only as many of them are converted as an attribute can hold.

        Args:
            messages: In the library's own form, oldest first.
            convert: Converts one of them.
        """
        at_most = max_bytes() // LEAST_MESSAGE_BYTES
        first = 0
        while first < min(len(messages), at_most) and (one := convert(messages[first]))["role"] == "system":
            self._instructions.append(one)
            first += 1
        self._omitted = max(len(messages) - first - at_most, 0)
        self._input = [convert(one) for one in messages[first + self._omitted :]]

    def set_output(self, messages: Sequence[Message]) -> None:
        """Keeps the answer, which may be incomplete."""
        self._output = list(messages)

    def set_tools(self, tools: object) -> None:
        """Keeps the definitions of the tools that the model may call, in the form of OpenAI or Anthropic."""
        self._tools = tool_definitions(tools)

    def write(self, span: Span) -> None:
        """Writes the content to the span and emits the event. Called once, just before the span ends."""
        with _WRITING:
            content = self._by_name()
            if self._capture.on_spans and span.is_recording():
                for name, value in content.items():
                    span.set_attribute(name, encode_json(value).decode())
            if self._capture.on_events:
                self._emit(span, content)

    def _by_name(self) -> dict[str, Any]:
        """Leading system messages are instructions; later ones are part of the conversation."""
        limit = max_bytes()
        parts = [part for one in self._instructions for part in cast("Sequence[object]", one["parts"])]
        content = {
            semconv.SYSTEM_INSTRUCTIONS: parts and fit_json(parts, limit),
            semconv.INPUT_MESSAGES: self._input and fit_json(self._input, limit, omitted=self._omitted),
            semconv.OUTPUT_MESSAGES: self._output and fit_json(self._output, limit),
            semconv.TOOL_DEFINITIONS: self._tools and fit_json(self._tools, limit),
        }
        return {name: value for name, value in content.items() if value}

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


def _mode(given: str) -> Capture:
    mode = _MODES.get(given.strip().upper())
    if mode is None and is_first(CAPTURE, given):
        warn(
            "configure.invalid_variable",
            "%s is %r: no content is captured. Allowed: %s.",
            CAPTURE,
            given,
            ", ".join(_MODES),
        )
    return mode or _OFF


def max_bytes() -> int:
    """The limit of one attribute with content."""
    limits = [_limit(os.environ.get(MAX_BYTES), DEFAULT_MAX_BYTES)]
    limits += [_limit(os.environ.get(name), limits[0]) for name in _CUT_BY_THE_SDK]
    return min(limits)


def _limit(given: str | None, default: int) -> int:
    if not given:
        return default
    if given.strip().isdecimal():
        return max(int(given), LEAST_MAX_BYTES)
    if is_first(MAX_BYTES, given, default):
        warn(
            "configure.invalid_variable",
            "%r is not a number of bytes: content is cut at %d bytes. Set %s to an integer.",
            given,
            default,
            MAX_BYTES,
        )
    return default
