"""The lean span: fields as they are encoded; the SDK's objects are created when they are read."""

# The SDK has no public way to make a span; find_difference() compares what comes out.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import logger as sdk_logger
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from typing_extensions import override

from nodespan.spans.attributes import PlainAttributes
from nodespan.spans.scope import EndsWithAttributes

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, TraceState

    from nodespan.fastspan.processors import LeanProcessors

PLAIN: Final = frozenset({str, bool, int, float})
"""Types of values that the SDK keeps as they are while no length limit is set."""
_TEXT: Final = frozenset({str})
_SEQUENCES: Final = frozenset({tuple, list})
_UNSET: Final = Status(StatusCode.UNSET)


_T_co = TypeVar("_T_co", covariant=True)


class Dropping(Protocol[_T_co]):
    """A sequence with a limit, such as the SDK's ``BoundedList``."""

    @property
    def dropped(self) -> int:
        """Number of members dropped by the limit."""
        ...

    def __iter__(self) -> Iterator[_T_co]: ...


class WireFields(NamedTuple):
    """The fields that an encoder reads of an ended span, without creating the SDK's objects.

    Attributes:
        trace_id: 128 bits.
        span_id: 64 bits.
        parent_id: 64 bits; 0 for a root span.
        parent_is_remote: The parent is in another process.
        trace_state: ``None`` where it is empty.
        start_ns: Unix time in ns.
        end_ns: Unix time in ns.
        attributes: Values are ``str``, ``bool``, ``int``, ``float``, or what the SDK's containers hold. Not copied.
        dropped_attributes: Number of attributes dropped for a limit or an invalid key.
        events: The SDK's events with their ``dropped`` count; ``None`` where there are none.
        links: Likewise.
    """

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    parent_is_remote: bool
    trace_state: TraceState | None
    kind: SpanKind
    start_ns: int
    end_ns: int | None
    attributes: dict[str, Any]
    dropped_attributes: int
    events: Dropping[sdk.Event] | None
    links: Dropping[Link] | None
    status: Status
    resource: Resource
    scope: InstrumentationScope


@dataclass(frozen=True, slots=True, eq=False)
class SpanOrigin:
    """Data that the spans of one tracer share while its configuration is unchanged.

    Attributes:
        capacity: Number of attributes that a span can hold.
        keeps_plain: No length limit is set, so that values of ``PLAIN`` types are kept as they are.
    """

    resource: Resource
    scope: InstrumentationScope
    instrumentation_info: Any
    limits: sdk.SpanLimits
    sampler: Any
    processors: LeanProcessors
    capacity: int
    keeps_plain: bool

    def has_room(self, attributes: Mapping[str, Any], held: int = 0) -> bool:
        """Whether a span with so many attributes can hold these as they are, if their types allow it."""
        return self.keeps_plain and held + len(attributes) <= self.capacity and "" not in attributes


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes as the SDK would hold them; ``None`` if the SDK's cleaning is needed."""
    if type(attributes) is PlainAttributes:
        return attributes
    if not _TEXT.issuperset(map(type, attributes)):
        return None
    if PLAIN.issuperset(map(type, attributes.values())):
        return dict(attributes)
    return _with_tuples(attributes)


def _with_tuples(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes with their lists as tuples; ``None`` where the SDK's own cleaning is needed."""
    accepted: dict[str, Any] = {}
    for key, value in attributes.items():
        if type(value) in PLAIN:
            accepted[key] = value
        elif type(value) in _SEQUENCES and PLAIN.issuperset(map(type, value)):
            accepted[key] = tuple(value)
        else:
            return None
    return accepted


class LeanSpan(sdk.Span, EndsWithAttributes):
    """A subclass of the SDK's span that creates rarely needed objects only when they are read.

    These are ``SpanContext``, parent, ``BoundedAttributes``, events and links. All other members are inherited from the
    SDK. Created only by ``LeanTracer``. Safe from any thread, by its own lock.
    """

    # Values that most spans never change. A span that differs has its own.
    _end_time = None
    _kind = SpanKind.INTERNAL
    _status = _UNSET
    _trace_state: TraceState | None = None
    _parent_made: SpanContext | None = None
    _context_made: SpanContext | None = None
    _parent_is_remote = False
    _events_made: BoundedList[sdk.Event] | None = None
    _links_made: BoundedList[Any] | None = None
    _dropped_attributes = 0
    _record_exception = True
    _set_status_on_exception = True
    _record_end_metrics = None
    _trace_config = None

    # Set by LeanTracer for each span.
    _origin: SpanOrigin
    _trace_id: int
    _span_id: int
    _parent_id: int
    _flags: TraceFlags
    _values: dict[str, Any]

    def wire_fields(self) -> WireFields:
        """What an encoder reads; the only part of this class that it may use."""
        origin = self._origin
        return WireFields(
            self._name,
            self._trace_id,
            self._span_id,
            self._parent_id,
            self._parent_is_remote,
            self._trace_state,
            self._kind,
            self._start_time,
            self._end_time,
            self._values,
            self._dropped_attributes,
            self._events_made,
            self._links_made,
            self._status,
            origin.resource,
            origin.scope,
        )

    @property
    def sampled_ids(self) -> tuple[int, int] | None:
        """Span id and trace id; ``None`` where the span is not exported."""
        return (self._span_id, self._trace_id) if self._flags & 1 else None

    @property
    def is_sampled(self) -> bool:
        """Whether the span is exported."""
        return bool(self._flags & TraceFlags.SAMPLED)

    @override
    def set_attribute(self, key: str, value: Any) -> None:
        with self._lock:
            if self._end_time is not None:
                sdk_logger.warning("Setting attribute on ended span.")
                return
            origin, values = self._origin, self._values
            if (
                type(value) in PLAIN
                and type(key) is str
                and key
                and origin.keeps_plain
                and (len(values) < origin.capacity or key in values)
            ):
                values.pop(key, None)  # the SDK moves a replaced one to the end
                values[key] = value
            else:
                bounded = self._bounded(values)
                bounded[key] = value
                self._dropped_attributes = bounded.dropped

    @override
    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        with self._lock:
            if self._end_time is not None:
                sdk_logger.warning("Setting attribute on ended span.")
                return
            self._set(attributes)

    def _set(self, attributes: Mapping[str, Any]) -> None:
        values = self._values
        accepted = _plain(attributes) if self._origin.has_room(attributes, len(values)) else None
        if accepted is None:
            self._clean(attributes)
            return
        if not values.keys().isdisjoint(accepted):
            for key in accepted:
                values.pop(key, None)
        values.update(accepted)

    def _clean(self, attributes: Mapping[str, Any]) -> None:
        """Adds attributes by the SDK's container: invalid keys, other types, limits, and the SDK's own warnings."""
        bounded = self._bounded(self._values)
        bounded._set_items(attributes)
        self._dropped_attributes = bounded.dropped

    def _bounded(self, values: dict[str, Any]) -> BoundedAttributes:
        limits = self._origin.limits
        bounded = BoundedAttributes(limits.max_span_attributes, None, False, limits.max_span_attribute_length)
        bounded._dict = values
        bounded.dropped = self._dropped_attributes
        return bounded

    @override
    def end(self, end_time: int | None = None) -> None:
        with self._lock:
            if self._end_time is not None:
                sdk_logger.warning("Calling end() on an ended span.")
                return
            self._end_time = time_ns() if end_time is None else end_time
        self._origin.processors.end_span(self)

    @override
    def end_with(self, attributes: PlainAttributes, end_time_ns: int | None = None) -> None:
        with self._lock:
            if self._end_time is not None:
                sdk_logger.warning("Calling end() on an ended span.")
                return
            self._set(attributes)
            self._end_time = time_ns() if end_time_ns is None else end_time_ns
        self._origin.processors.end_span(self)

    @override
    def get_span_context(self) -> SpanContext:
        made = self._context_made
        if made is None:
            made = SpanContext(self._trace_id, self._span_id, False, self._flags, self._trace_state)
            self._context_made = made
        return made

    # What the SDK's own methods read.

    @property
    def _context(self) -> SpanContext:
        return self.get_span_context()

    @property
    def _parent(self) -> SpanContext | None:
        made = self._parent_made
        if made is None and self._parent_id:  # a parent that is a LeanSpan: the same trace, flags and state
            made = SpanContext(self._trace_id, self._parent_id, False, self._flags, self._trace_state)
            self._parent_made = made
        return made

    @property
    def _attributes(self) -> BoundedAttributes:
        bounded = self._bounded(dict(self._values))
        bounded._immutable = self._end_time is not None
        return bounded

    @property
    def _events(self) -> BoundedList[sdk.Event]:
        if self._events_made is None:
            self._events_made = BoundedList(self._origin.limits.max_events)
        return self._events_made

    @property
    def _links(self) -> BoundedList[Any]:
        if self._links_made is None:
            self._links_made = BoundedList(self._origin.limits.max_links)
        return self._links_made

    @property
    def _limits(self) -> sdk.SpanLimits:
        return self._origin.limits

    @property
    def _resource(self) -> Resource:
        return self._origin.resource

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:
        return self._origin.scope

    @property
    def _instrumentation_info(self) -> Any:
        return self._origin.instrumentation_info

    @property
    def _sampler(self) -> Any:
        return self._origin.sampler

    @property
    def _span_processor(self) -> LeanProcessors:
        return self._origin.processors
