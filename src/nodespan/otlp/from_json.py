"""OTLP's JSON as protobuf messages: what programs send, and what collectors and ``nodespan export`` write to files."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

DEPTH_MAX: Final = 32
"""Levels of lists and maps in a value. Protobuf's own limit is 100 messages, two for each level."""


def from_json(document: Any) -> ExportTraceServiceRequest:
    """The message of a parsed JSON document.

    Ids are in hex, 64-bit integers numbers or texts, enumerations numbers, names in lowerCamelCase
    (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). Unknown names are ignored.

    Raises:
        google.protobuf.message.DecodeError: A part of it has another type than in OTLP.
    """
    request = ExportTraceServiceRequest()
    try:
        for of_resource in _list(document, "resourceSpans"):
            resource_spans = request.resource_spans.add(schema_url=of_resource.get("schemaUrl") or "")
            if (resource := of_resource.get("resource")) is not None:
                resource_spans.resource.SetInParent()
                _add_attributes(resource_spans.resource.attributes, resource)
            for of_scope in _list(of_resource, "scopeSpans"):
                scope_spans = resource_spans.scope_spans.add(schema_url=of_scope.get("schemaUrl") or "")
                if (scope := of_scope.get("scope")) is not None:
                    scope_spans.scope.name = scope.get("name") or ""
                    scope_spans.scope.version = scope.get("version") or ""
                    _add_attributes(scope_spans.scope.attributes, scope)
                for span in _list(of_scope, "spans"):
                    _fill(scope_spans.spans.add(), span)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"not an OTLP JSON document: {error}") from error
    return request


def _fill(span: Span, given: dict[str, Any]) -> None:
    span.trace_id = _id(given, "traceId")
    span.span_id = _id(given, "spanId")
    span.parent_span_id = _id(given, "parentSpanId")
    span.trace_state = given.get("traceState") or ""
    span.flags = int(given.get("flags") or 0)
    span.name = given.get("name") or ""
    span.kind = cast("Any", int(given.get("kind") or 0))
    span.start_time_unix_nano = int(given.get("startTimeUnixNano") or 0)
    span.end_time_unix_nano = int(given.get("endTimeUnixNano") or 0)
    _add_attributes(span.attributes, given)
    span.dropped_attributes_count = int(given.get("droppedAttributesCount") or 0)
    for event in _list(given, "events"):
        added = span.events.add(name=event.get("name") or "", time_unix_nano=int(event.get("timeUnixNano") or 0))
        _add_attributes(added.attributes, event)
        added.dropped_attributes_count = int(event.get("droppedAttributesCount") or 0)
    for link in _list(given, "links"):
        ids = {"trace_id": _id(link, "traceId"), "span_id": _id(link, "spanId")}
        linked = span.links.add(**ids, trace_state=link.get("traceState") or "", flags=int(link.get("flags") or 0))
        _add_attributes(linked.attributes, link)
        linked.dropped_attributes_count = int(link.get("droppedAttributesCount") or 0)
    span.dropped_events_count = int(given.get("droppedEventsCount") or 0)
    span.dropped_links_count = int(given.get("droppedLinksCount") or 0)
    if (status := given.get("status")) is not None:
        span.status.message = status.get("message") or ""
        span.status.code = cast("Any", int(status.get("code") or 0))


def _list(given: dict[str, Any], key: str) -> Iterable[dict[str, Any]]:
    found = given.get(key) or ()
    if isinstance(found, dict | str):
        raise TypeError(f"{key} is not a list")
    return found


def _id(given: dict[str, Any], key: str) -> bytes:
    return bytes.fromhex(given.get(key) or "")


def _add_attributes(attributes: Any, given: dict[str, Any], depth: int = 0) -> None:
    for pair in _list(given, "attributes" if depth == 0 else "values"):
        added = attributes.add(key=pair.get("key") or "")
        _set(added.value, pair.get("value") or {}, depth)


def _set(value: AnyValue, given: dict[str, Any], depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"a value has more than {DEPTH_MAX} levels")
    if (text := given.get("stringValue")) is not None:
        value.string_value = text
    elif (number := given.get("intValue")) is not None:
        value.int_value = int(number)
    elif (flag := given.get("boolValue")) is not None:
        value.bool_value = flag
    elif (double := given.get("doubleValue")) is not None:
        value.double_value = float(double)
    elif (several := given.get("arrayValue")) is not None:
        value.array_value.SetInParent()
        for one in _list(several, "values"):
            _set(value.array_value.values.add(), one, depth + 1)
    elif (pairs := given.get("kvlistValue")) is not None:
        value.kvlist_value.SetInParent()
        _add_attributes(value.kvlist_value.values, pairs, depth + 1)
    elif (data := given.get("bytesValue")) is not None:
        value.bytes_value = b64decode(data)
