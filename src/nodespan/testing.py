"""For tests of programs that use nodespan: the whole span tree as plain data, to compare with a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

Tree = dict[str, Any]


def span_tree(exporter: InMemorySpanExporter, *attributes: str) -> list[Tree]:
    """The finished spans as nested dicts: name, status, chosen attributes, names of events, children by start.

    Ids and times are left out, and so is what is not there: a span that is ok, has no events and none of the chosen
    attributes is ``{"name": ...}``. A span whose parent is not among them stands at the top.

    Args:
        exporter: Holds the spans.
        attributes: Names of the attributes to show; those that end in ``*`` show all that begin so.
    """
    spans: Sequence[ReadableSpan] = exporter.get_finished_spans()
    known = {_id(span) for span in spans}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent is not None else None
        children.setdefault(parent if parent in known else None, []).append(span)
    return [_node(span, children, attributes) for span in children.get(None, [])]


def _node(span: ReadableSpan, children: Mapping[int | None, list[ReadableSpan]], wanted: Iterable[str]) -> Tree:
    node: Tree = {"name": span.name}
    if span.status.status_code.name == "ERROR":
        node["status"] = "ERROR"
    if shown := {key: value for key, value in (span.attributes or {}).items() if _is_wanted(key, wanted)}:
        node["attributes"] = shown
    if events := [event.name for event in span.events]:
        node["events"] = events
    if span.links:
        node["links"] = len(span.links)
    if below := [_node(child, children, wanted) for child in children.get(_id(span), [])]:
        node["children"] = below
    return node


def _is_wanted(key: str, wanted: Iterable[str]) -> bool:
    return any(key.startswith(name[:-1]) if name.endswith("*") else key == name for name in wanted)


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context is not None else 0
