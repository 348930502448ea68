"""Decodes OTLP bytes to plain records, for readers of the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """An event of a span; the time is Unix time in ns."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A link to another span, by hex ids."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A span as it was exported. Ids are hex, ``parent_span_id`` is empty for a root, times are Unix time in ns."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status_code: str
    status_message: str
    attributes: Attributes
    resource: Attributes
    scope: str
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = field(default=())

    @property
    def service_name(self) -> str:
        """``service.name`` of the resource."""
        return str(self.resource.get("service.name", ""))


def decode_batch(data: bytes, trace_id: str | None = None) -> Iterator[SpanRecord]:
    """The spans of an encoded ``ExportTraceServiceRequest``.

    Args:
        data: The message.
        trace_id: In hex; only the spans of this trace.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not such a message.
    """
    request = ExportTraceServiceRequest.FromString(data)
    wanted = bytes.fromhex(trace_id) if trace_id is not None else None
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                if wanted is None or span.trace_id == wanted:
                    yield _span(span, resource, of_scope.scope.name)


def _span(span: Span, resource: Attributes, scope: str) -> SpanRecord:
    return SpanRecord(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status_code=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        resource=resource,
        scope=scope,
        events=tuple(SpanEvent(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events),
        links=tuple(SpanLink(k.trace_id.hex(), k.span_id.hex(), _attributes(k.attributes)) for k in span.links),
    )


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: attribute_value(pair.value) for pair in pairs}


def attribute_value(value: AnyValue) -> Any:
    """The value as a plain object; bytes stay bytes, and a value without a kind is ``None``."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [attribute_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
