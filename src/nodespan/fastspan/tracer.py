"""The tracer of lean spans: a short path for children of sampled lean spans, and the SDK's procedure for all others."""

# The SDK has no public way to make a span; find_difference() compares what comes out.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, StaticSampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from typing_extensions import override

from nodespan.fastspan.processors import LeanProcessors
from nodespan.fastspan.span import LeanSpan, SpanOrigin
from nodespan.spans.attributes import PlainAttributes
from nodespan.spans.current import SPAN_KEY, get_current

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Link, Span

_UNLIMITED: Final = 2**31
_INTERNAL: Final = SpanKind.INTERNAL
_random: Final = random.Random()  # noqa: S311 span ids, as the SDK makes them; the application's numbers stay its own
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)
_new_span: Final = object.__new__  # the SDK's Span.__new__ only refuses direct calls of its constructor


def _samples_all(sampler: object) -> bool:
    return type(sampler) is StaticSampler and sampler._decision is Decision.RECORD_AND_SAMPLE


class LeanTracer(sdk.Tracer):
    """A tracer of the SDK's whose spans are ``LeanSpan``.

    A root, or a child of a sampled ``LeanSpan``, starts without a call of the sampler where the sampler's answer is
    known: always on, or parent based with it for roots or local parents. All other spans start by the SDK's procedure.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refresh()

    def refresh(self) -> None:
        """Applies the tracer's sampler, resource, limits and processors to the spans that start from now on."""
        processors = self.span_processor
        if not isinstance(processors, LeanProcessors):
            raise TypeError(f"LeanTracer requires LeanProcessors, not {type(processors).__name__}")
        limits = self._span_limits
        capacity = limits.max_span_attributes
        self._origin = SpanOrigin(
            self.resource,
            self._instrumentation_scope,
            self.instrumentation_info,
            limits,
            self.sampler,
            processors,
            _UNLIMITED if capacity is None else capacity,
            limits.max_span_attribute_length is None,
        )
        ids = self.id_generator
        self._new_span_id = partial(_random.getrandbits, 64) if type(ids) is RandomIdGenerator else ids.generate_span_id
        sampler = self.sampler
        has_cases = type(sampler) is ParentBased
        self._records_children = _samples_all(sampler._local_parent_sampled if has_cases else sampler)
        samples_roots = _samples_all(sampler._root if has_cases else sampler)
        random_flag = TraceFlags.RANDOM_TRACE_ID if ids.is_trace_id_random() else 0
        self._root_flags = TraceFlags(TraceFlags.SAMPLED | random_flag) if samples_roots else None

    @override
    def _set_resource(self, resource: Resource) -> None:
        super()._set_resource(resource)
        self.refresh()

    @override
    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = _INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        parent = (get_current() if context is None else context).get(SPAN_KEY)
        if (
            type(parent) is LeanSpan
            and parent._flags & 1  # sampled; the enum's name would be looked up at each call
            and self._records_children
            and self._tracer_config.is_enabled
        ):
            span = self._make(name, parent._trace_id, parent._span_id, parent._flags, start_time, attributes)
            if parent._trace_state is not None:
                span._trace_state = parent._trace_state
        elif parent is None and self._root_flags is not None and self._tracer_config.is_enabled:
            trace_id = self.id_generator.generate_trace_id()
            span = self._make(name, trace_id, 0, self._root_flags, start_time, attributes)
        else:
            sampled = self._ask_sampler(name, context, kind, attributes, links, start_time)
            if not isinstance(sampled, tuple):
                return sampled
            span, attributes = sampled
        if attributes and span._values is not attributes:
            span.set_attributes(attributes)
        if kind is not _INTERNAL:
            span._kind = kind
        if links:
            span._links_made = span._new_links(links)
        if not (record_exception and set_status_on_exception):
            span._record_exception, span._set_status_on_exception = record_exception, set_status_on_exception
        span._origin.processors.start_span(span, context)
        return span

    def _make(
        self,
        name: str,
        trace_id: int,
        parent_id: int,
        flags: TraceFlags,
        start_time: int | None,
        attributes: Mapping[str, Any] | None,
    ) -> LeanSpan:
        """A span that holds the dict of its first attributes if these need no conversion."""
        span = _new_span(LeanSpan)
        span._origin = origin = self._origin
        span._name = name
        span._trace_id = trace_id
        span._span_id = self._new_span_id() or self.id_generator.generate_span_id()  # 0 is not a valid id
        span._parent_id = parent_id
        span._flags = flags
        span._values = attributes if type(attributes) is PlainAttributes and origin.has_room(attributes) else {}
        span._start_time = time_ns() if start_time is None else start_time
        span._lock = Lock()
        return span

    def _ask_sampler(
        self,
        name: str,
        context: Context | None,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link] | None,
        start_time: int | None,
    ) -> Span | tuple[LeanSpan, Mapping[str, Any] | None]:
        """Roots, remote parents, parents of other tracers, and other samplers: the SDK's procedure."""
        enclosing: Any = trace.get_current_span(
            context
        ).get_span_context()  # a span of another library may have another type here
        if enclosing is not None and not isinstance(enclosing, SpanContext):
            raise TypeError("parent_span_context must be a SpanContext or None.")
        if not self._is_enabled():
            return NonRecordingSpan(cast("SpanContext", enclosing))
        if enclosing is None or not enclosing.is_valid:
            enclosing, trace_id = None, self.id_generator.generate_trace_id()
            is_random = self.id_generator.is_trace_id_random()
        else:
            trace_id = enclosing.trace_id
            is_random = enclosing.trace_flags.random_trace_id
        result = self.sampler.should_sample(context, trace_id, name, kind, attributes, links or ())
        flags = TraceFlags.SAMPLED if result.decision.is_sampled() else TraceFlags.DEFAULT
        if is_random:
            flags |= TraceFlags.RANDOM_TRACE_ID
        flags = TraceFlags(flags)
        if not result.decision.is_recording():
            made = SpanContext(trace_id, self.id_generator.generate_span_id(), False, flags, result.trace_state)
            return NonRecordingSpan(made)
        span = self._make(name, trace_id, 0 if enclosing is None else enclosing.span_id, flags, start_time, None)
        if result.trace_state:
            span._trace_state = result.trace_state
        if enclosing is not None:
            span._parent_made, span._parent_is_remote = enclosing, enclosing.is_remote
        return span, cast("Mapping[str, Any] | None", result.attributes)
