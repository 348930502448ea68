"""The scope of a span: it is open exactly as long as its work."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import SpanKind, StatusCode
from typing_extensions import override

from nodespan import semconv
from nodespan._version import __version__
from nodespan.spans.attributes import PlainAttributes, to_attributes
from nodespan.spans.current import SPAN_KEY, SUPPRESSION, attach, detach, get_current, is_suppressed
from nodespan.spans.exceptions import error_type, exception_attributes, exception_message
from nodespan.spans.guard import Guard
from nodespan.spans.identity import NO_IDENTITY, Identity
from nodespan.spans.instruments import get_instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

    from nodespan.spans.directory import RunDirectory
    from nodespan.spans.instruments import Instruments

Outcome = Literal["ok", "error", "interrupted", "cancelled"]

_OWNER_KEY: Final = context_api.create_key("nodespan-owner")
_innermost: Final[ContextVar[SpanScope | None]] = ContextVar("nodespan-innermost", default=None)
_STARTING: Final = Guard("start a span")
_WRITING: Final = Guard("write to a span")
_ENDING: Final = Guard("end a span")

_RAISED_BELOW_MAX: Final = 8
"""Limit of children's errors that are kept so that they are not recorded again; only one of them can end this span."""


_PEERS: Final = frozenset(
    {
        "openinference.instrumentation.langchain",
        "opentelemetry.instrumentation.genai.langchain",
        "opentelemetry.instrumentation.langchain",
    }
)
"""Scopes of other instrumentations of the same libraries: their spans are beside nodespan's tree, not inside it."""


_SUPPRESSION_KEYS: Final = frozenset(SUPPRESSION)
_NO_TRACER: Final = trace.NoOpTracer()
_NO_METERS: Final = NoOpMeterProvider()


def suppressed() -> Step:
    """Suppresses instrumentation in each step of work, over the context that is current at that step."""
    return Step(lambda base: Context({**base, **SUPPRESSION}), None)


def get_tracer(tracer_provider: TracerProvider | None = None) -> Tracer:
    """The tracer of nodespan on the given provider, else on the global one."""
    return trace.get_tracer(semconv.SCOPE, __version__, tracer_provider, semconv.SCHEMA_URL)


def makes_spans(tracer: Tracer) -> bool:
    """Whether the tracer has a real provider, and not one of the API's placeholders."""
    real = getattr(tracer, "_tracer", tracer) if isinstance(tracer, trace.ProxyTracer) else tracer
    return not isinstance(real, trace.NoOpTracer)


def current_scope(context: Context | None = None) -> SpanScope | None:
    """The innermost scope whose work encloses the caller, found in the context (the current one if not given).

    There is none where the program has suppressed instrumentation inside that scope.
    """
    scope = context_api.get_value(_OWNER_KEY, context)
    if context is None and (innermost := _innermost.get()) is not scope and _is_of_a_peer(trace.get_current_span()):
        scope = innermost  # another instrumentation has attached an earlier context over the one with the scope
    if not isinstance(scope, SpanScope) or (not scope.is_suppressed and is_suppressed(context)):
        return None
    return scope


def attached_scope() -> SpanScope | None:
    """The scope that nodespan has attached last here: at a tenth of the cost, ``current_scope()`` in most cases."""
    return _innermost.get()


def own_context() -> Context:
    """The context to keep for a span that is started later: the current one, without what a peer has put over it."""
    return enclosing()[0]


def enclosing() -> tuple[Context, SpanScope | None]:
    """``own_context()``, and the innermost scope in it, as ``current_scope()`` finds it: both at the cost of one."""
    context = get_current()
    scope = _innermost.get()
    if scope is not None and context.get(_OWNER_KEY) is scope and context.get(SPAN_KEY) is scope.span:
        is_hidden = not _SUPPRESSION_KEYS.isdisjoint(context) and not scope.is_suppressed and is_suppressed(context)
        return context, None if is_hidden else scope
    scope = current_scope()
    return _own_parent(scope, context) or context, scope


def _is_of_a_peer(span: Span) -> bool:
    scope = getattr(span, "instrumentation_scope", None)
    return scope is not None and scope.name in _PEERS


def _own_parent(owner: SpanScope | None, context: Context | None) -> Context | None:
    """The context to start a span under: where a peer's span is current, the owner's around it instead."""
    if owner is None or (context is not None and context.get(SPAN_KEY) is owner.span):
        return context
    return owner.context_over(context) if _is_of_a_peer(trace.get_current_span(context)) else context


class EndsWithAttributes:
    """Base of nodespan's own spans: ``set_attributes`` and ``end`` at the cost of one."""

    def end_with(self, attributes: PlainAttributes, end_time_ns: int | None = None) -> None:
        """Sets the attributes and ends the span. ``end_time_ns`` is Unix time in ns; now if not given."""
        raise NotImplementedError  # of the lean span; as an abstract base class, isinstance() would take longer


class SpanScope:
    """Starts a span, makes it current around the work only, records an error once, and ends it exactly once.

    It is an entry of the OpenTelemetry context, where code inside finds it (``current_scope``). A scope that is
    collected without ``finish`` ends its span as cancelled, so that an abandoned generator leaves no open span.
    ``finish`` may be called from any thread; only the first call has an effect.

    Args:
        tracer: Creates the span; children use the same one.
        name: Span name.
        attributes: Attributes at the start, which samplers receive. The span may hold the dict itself if it is a
            ``PlainAttributes``.
        parent: Context whose span is the parent; the current one if not given.
        start_time_ns: Unix time in ns, if the work began earlier than now.
        instruments: Record the metrics of the work and of scopes inside; those of the scope around, else those of the
            global meter provider, if not given.
        identity: Of the run that begins here; that of the scope around if not given.
        around: The scope around; given by callers that have it, with ``parent``, from ``enclosing()``.

    Attributes:
        is_suppressed: The scope starts where instrumentation is suppressed: it has no span, and nothing inside it is
            recorded.
        error_type: Class of the error it ended with, as ``error.type`` names it.
        node: LangGraph's name of the innermost node, for labels of metrics; ``None`` outside of nodes.
    """

    __slots__ = (
        "__weakref__",
        "_finished",
        "_raised_below",
        "directory",
        "error_type",
        "identity",
        "instruments",
        "is_suppressed",
        "node",
        "parent",
        "span",
        "started_ns",
        "tracer",
    )

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: Context | None = None,
        links: Sequence[Link] = (),
        start_time_ns: int | None = None,
        directory: RunDirectory | None = None,
        instruments: Instruments | None = None,
        identity: Identity | None = None,
        around: SpanScope | None = None,
    ) -> None:
        self._finished = threading.Lock()
        self._raised_below: tuple[BaseException, ...] = ()
        self.started_ns = time.perf_counter_ns()
        self.error_type: str | None = None
        if around is None:
            around = current_scope(parent)
            parent = _own_parent(around, parent)
            self.is_suppressed: bool = is_suppressed(parent) or (around is not None and around.is_suppressed)
        else:
            self.is_suppressed = around.is_suppressed
        self.parent = around
        if self.is_suppressed:
            tracer, instruments = _NO_TRACER, get_instruments(_NO_METERS)
        self.tracer = tracer
        self.instruments: Instruments = instruments or (around.instruments if around is not None else get_instruments())
        self.directory: RunDirectory | None = directory or (around.directory if around is not None else None)
        self.identity: Identity = identity or (around.identity if around is not None else NO_IDENTITY)
        self.node: str | None = around.node if around is not None else None
        self.span: Span = trace.INVALID_SPAN
        try:
            if type(attributes) is not PlainAttributes:
                attributes = to_attributes(attributes) if attributes else PlainAttributes()
            if self.identity.attributes:
                attributes.update(self.identity.attributes)
            self.span = tracer.start_span(name, parent, kind, attributes or None, links, start_time_ns)
        except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
            _STARTING.failed(error)

    @property
    def is_open(self) -> bool:
        """Whether ``finish`` was not called yet."""
        return not self._finished.locked()

    @property
    def duration_s(self) -> float:
        """Seconds since the start."""
        return (time.perf_counter_ns() - self.started_ns) / 1e9

    @property
    def took_s(self) -> float:
        """Seconds from the start to the end as the ended span has them, so that span and metric agree.

        A span that is not recorded has no times: there it is the seconds until now.
        """
        start, end = getattr(self.span, "start_time", None), getattr(self.span, "end_time", None)
        return self.duration_s if start is None or end is None else (end - start) / 1e9

    def context_over(self, base: Context | None = None) -> Context:
        """The base (the current context if not given) with this span current and this owner to be found in it."""
        if base is None:
            base = get_current()
        return Context({**base, _OWNER_KEY: self, SPAN_KEY: self.span})

    def attached(self, base: Context | None = None) -> Attached:
        """Makes the span current in a ``with`` block, which must not contain a ``yield``."""
        return Attached(self.context_over(base), self)

    def step(self) -> Step:
        """The same for many steps of the work, over the context that is current at each."""
        return Step(self.context_over, self)

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Sets the attributes, converted to supported types; ``None`` values are left out."""
        if self.span.is_recording():
            try:
                self.span.set_attributes(to_attributes(attributes))
            except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
                _WRITING.failed(error)

    def event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Adds an event that happens now."""
        if self.span.is_recording():
            with _WRITING:
                self.span.add_event(name, to_attributes(attributes))

    def link(self, link: Link) -> None:
        """Links a span that was not known at the start."""
        if self.span.is_recording():
            with _WRITING:
                self.span.add_link(link.context, link.attributes)

    def fail(self, error: BaseException) -> None:
        """Ends the span with an error. The exception is recorded here only if no span below has recorded it."""
        if self.is_open:
            self.error_type = error_type(error)
        if self.is_open and self.span.is_recording():
            with _WRITING:
                if not any(known is error for known in self._raised_below):
                    self.span.add_event(semconv.EXCEPTION_EVENT, exception_attributes(error))
                self.span.set_attribute(semconv.ERROR_TYPE, self.error_type)
                self.span.set_status(StatusCode.ERROR, exception_message(error))
        if self.parent is not None:
            self.parent.note_raised(error)
        self.finish("error")

    def note_raised(self, error: BaseException) -> None:
        """Stores an error that a span below has recorded, until this span ends."""
        if self.is_open and len(self._raised_below) < _RAISED_BELOW_MAX:
            self._raised_below = (*self._raised_below, error)

    def finish(
        self, outcome: Outcome = "ok", *, end_time_ns: int | None = None, attributes: PlainAttributes | None = None
    ) -> bool:
        """Ends the span, once.

        Args:
            outcome: How the work ended.
            end_time_ns: Unix time in ns; now if not given.
            attributes: To set with the outcome. The caller does not use the dict afterwards.

        Returns:
            Whether this call ended it.
        """
        if not self._finished.acquire(blocking=False):
            return False
        self._raised_below = ()
        try:
            if attributes is None:
                attributes = PlainAttributes()
            attributes[semconv.STATUS] = outcome
            if isinstance(self.span, EndsWithAttributes):
                self.span.end_with(attributes, end_time_ns)
            else:
                self.span.set_attributes(attributes)
                self.span.end(end_time_ns)
        except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
            _ENDING.failed(error)
        return True

    def __del__(self) -> None:
        # Also runs when __init__ failed half-way, and at interpreter exit.
        if (finished := getattr(self, "_finished", None)) is not None and not finished.locked():
            self.finish("cancelled")


class Attached:
    """A context made current for a ``with`` block in one frame of one task.

    Args:
        context: To be current.
        owner: The one that is found in it, where the caller has it.
    """

    __slots__ = ("_context", "_owner", "_owner_token", "_token")

    def __init__(self, context: Context, owner: SpanScope | None = None) -> None:
        self._context = context
        self._owner = owner or current_scope(context)

    def __enter__(self) -> None:
        self._token = attach(self._context)
        self._owner_token = _innermost.set(self._owner)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A coroutine or generator that is closed while suspended (its loop was closed, or it was collected) unwinds in
        # another context, in which there is nothing to reset. The public detach would log "Failed to detach context".
        try:
            _innermost.reset(self._owner_token)
            detach(self._token)
        except ValueError:
            pass


class Step(Attached):
    """The context of work that is done in steps, made current in a ``with`` block for each; steps never overlap.

    Args:
        over: Makes the context of a step over the one that is current when it begins. Called anew only where that is
            another one than at the step before.
        owner: The one that is found in it.
    """

    __slots__ = ("_base", "_over")

    def __init__(self, over: Callable[[Context], Context], owner: SpanScope | None) -> None:
        self._over = over
        self._owner = owner
        self._base: Context | None = None

    @override
    def __enter__(self) -> None:
        base = get_current()
        if base is not self._base:
            self._base, self._context = base, self._over(base)
        self._token = attach(self._context)
        self._owner_token = _innermost.set(self._owner)
