"""Declared graphs in an encoded batch."""

from __future__ import annotations

from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from nodespan import semconv

_NAME: Final = semconv.LANGGRAPH_GRAPH_TOPOLOGY.encode()


def topologies(data: bytes) -> dict[str, str]:
    """The topologies of an encoded ``ExportTraceServiceRequest``, as JSON text by hash.

    A batch without one, the usual case, costs a search for the attribute's name.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not such a message.
    """
    if _NAME not in data:
        return {}
    found: dict[str, str] = {}
    for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                texts = {attribute.key: attribute.value.string_value for attribute in span.attributes}
                graph_hash, topology = (
                    texts.get(semconv.LANGGRAPH_GRAPH_HASH),
                    texts.get(semconv.LANGGRAPH_GRAPH_TOPOLOGY),
                )
                if graph_hash and topology:
                    found[graph_hash] = topology
    return found
