"""For tests of programs that use nodespan: the whole span tree as plain data, to compare with a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

Tree = dict[str, Any]


class FinishedSpan(Protocol):
    """What ``span_tree`` reads of the SDK's ``ReadableSpan``."""

    @property
    def name(self) -> str: ...
    @property
    def parent(self) -> SpanContext | None: ...
    @property
    def start_time(self) -> int | None: ...
    @property
    def attributes(self) -> Mapping[str, Any] | None: ...
    @property
    def events(self) -> Sequence[Any]: ...
    @property
    def links(self) -> Sequence[Any]: ...
    @property
    def status(self) -> Any: ...
    def get_span_context(self) -> SpanContext | None: ...


class SpanSource(Protocol):
    """An in-memory exporter: the SDK's ``InMemorySpanExporter``."""

    def get_finished_spans(self) -> Sequence[Any]: ...


def span_tree(exporter: SpanSource, *attributes: str) -> list[Tree]:
    """The finished spans as nested dicts: name, status, chosen attributes, names of events, children by start.

    Ids and times are left out, and so is what is not there: a span that is ok, has no events and none of the chosen
    attributes is ``{"name": ...}``. A span whose parent is not among them stands at the top.

    Args:
        exporter: Holds the spans.
        attributes: Names of the attributes to show; those that end in ``*`` show all that begin so.
    """
    spans: Sequence[FinishedSpan] = exporter.get_finished_spans()
    known = {_id(span) for span in spans}
    children: dict[int | None, list[FinishedSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent is not None else None
        children.setdefault(parent if parent in known else None, []).append(span)
    return [_node(span, children, attributes) for span in children.get(None, [])]


def _node(span: FinishedSpan, children: Mapping[int | None, list[FinishedSpan]], wanted: Iterable[str]) -> Tree:
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


def _id(span: FinishedSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context is not None else 0
