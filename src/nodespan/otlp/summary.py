"""What a search has to know of an encoded batch, without making records of its spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    Word = tuple[str, str]
    """A kind, such as ``node``, and what the trace has of it."""

WORD_KINDS: Final = {
    semconv.WORKFLOW_NAME: "workflow",
    semconv.NODE: "node",
    semconv.MIRROR_KEYS["node_name"]: "node",
    semconv.REQUEST_MODEL: "model",
    semconv.CONVERSATION_ID: "conversation",
    semconv.USER_ID: "user",
    semconv.LANGGRAPH_GRAPH_HASH: "graph",
}
"""Attributes whose values a trace can be found by, and the kinds of these words; tags and metadata are such too."""
MAX_WORDS: Final = 64
"""Tags and metadata of one span; nodespan writes at most 32 of each."""
ERROR: Final = ("error", "")
"""The word of a trace in which a span failed."""


@dataclass(slots=True)
class TraceSlice:
    """What some batches hold of a trace. Times are Unix time in ns.

    Attributes:
        name: Of the span that began first, as is the service.
        words: What the trace can be found by.
    """

    name: str
    service: str
    start_ns: int
    end_ns: int
    is_root_first: bool
    spans: int
    errors: int
    words: set[Word]

    def add(self, other: TraceSlice) -> None:
        """Takes in more of the same trace."""
        if other.start_ns < self.start_ns or (other.start_ns == self.start_ns and other.is_root_first):
            self.name, self.service = other.name, other.service
            self.start_ns, self.is_root_first = other.start_ns, other.is_root_first
        self.end_ns = max(self.end_ns, other.end_ns)
        self.spans += other.spans
        self.errors += other.errors
        self.words |= other.words


def summarise(data: bytes) -> dict[str, TraceSlice]:
    """The traces of an encoded ``ExportTraceServiceRequest``, by id in hex.

    Raises:
        google.protobuf.message.DecodeError: The bytes are no such message.
    """
    slices: dict[str, TraceSlice] = {}
    for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        service = next((_text(a.value) for a in of_resource.resource.attributes if a.key == "service.name"), "")
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                one = _slice(span, service)
                if (found := slices.setdefault(span.trace_id.hex(), one)) is not one:
                    found.add(one)
    return slices


def _slice(span: Span, service: str) -> TraceSlice:
    words = {("service", service), *_words(span.attributes)}
    failed = span.status.code == Status.STATUS_CODE_ERROR
    if failed:
        words.add(ERROR)
    return TraceSlice(
        span.name,
        service,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        not span.parent_span_id,
        1,
        failed,
        words,
    )


def words_of(attributes: Mapping[str, object]) -> Iterator[Word]:
    """What a span with these attributes can be found by."""
    left = MAX_WORDS
    for key, value in attributes.items():
        if (kind := WORD_KINDS.get(key)) is not None:
            yield kind, str(value)
        elif key == semconv.TAGS and left:
            several = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
            tags = [tag for tag in several[:left] if isinstance(tag, str)]
            left -= len(tags)
            yield from (("tag", tag) for tag in tags)
        elif key.startswith(semconv.METADATA_PREFIX) and left:
            left -= 1
            yield "metadata", f"{key.removeprefix(semconv.METADATA_PREFIX)}={_shown(value)}"


def _shown(value: object) -> str:
    """A value as it is typed after ``key=``: booleans as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_word(key: str) -> bool:
    return key in WORD_KINDS or key == semconv.TAGS or key.startswith(semconv.METADATA_PREFIX)


def _words(attributes: Iterable[KeyValue]) -> Iterable[Word]:
    return words_of({one.key: _value(one.value) for one in attributes if _is_word(one.key)})


def _value(value: AnyValue) -> object:
    if value.HasField("array_value"):
        return [_text(one) for one in value.array_value.values]
    return value.bool_value if value.HasField("bool_value") else _text(value)


def _text(value: AnyValue) -> str:
    return value.string_value or str(getattr(value, value.WhichOneof("value") or "string_value"))
