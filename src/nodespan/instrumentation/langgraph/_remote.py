"""A run of a ``RemoteGraph``: its graph runs on a server, which continues the trace from ``traceparent``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

from nodespan import semconv
from nodespan.engine.openai_compatible.endpoints import propagates_to
from nodespan.instrumentation._arguments import call_arguments
from nodespan.instrumentation.langgraph._labels import label
from nodespan.instrumentation.langgraph._run import DeferredRun, InstrumentedRun
from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from nodespan.instrumentation.langgraph._spans import WorkflowSpan

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_ADDRESSING: Final = Guard("read the address of a remote graph")
_READING: Final = Guard("read a chunk of a remote graph")
INTERRUPT: Final = "__interrupt__"


def defer_remote_run(
    graph: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[RemoteRun, tuple[Any, ...], dict[str, Any]]:
    """The run that begins at the first step of a call of ``RemoteGraph.stream``, and the arguments of that call.

    The arguments are the caller's own, but for ``headers``, to which ``traceparent`` is added at the first step.
    """
    run = RemoteRun(graph, args, kwargs)
    return run, args, {**kwargs, "headers": run.headers}


class RemoteRun(DeferredRun):
    """A call of a remote graph. Its span is opened at its first step; it never adopts the span of a local run.

    Attributes:
        headers: Of the request. Those of the caller take precedence.
    """

    __slots__ = ("headers",)

    adopts = False
    kind = SpanKind.CLIENT

    def __init__(self, graph: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        run_input, config = call_arguments(args, kwargs)
        super().__init__(graph, run_input, config, kwargs.get("context"))
        self.headers: dict[str, str] = dict(kwargs.get("headers") or {})

    @override
    def _started(self, run: WorkflowSpan, *, adopted: bool) -> InstrumentedRun:
        label(run, self._graph, self._config)
        with _ADDRESSING:
            address = _address_of(self._graph)
            server = urlsplit(address)
            if server.hostname:
                run.set({semconv.SERVER_ADDRESS: server.hostname, semconv.SERVER_PORT: server.port})
            if propagates_to(server.hostname or ""):
                carrier: dict[str, str] = {}
                _PROPAGATOR.inject(carrier, run.context_over(self._context))
                for name, value in carrier.items():
                    self.headers.setdefault(name, value)
        return _RemoteSteps(run, adopted=adopted)


class _RemoteSteps(InstrumentedRun):
    """The steps of a remote run. Its interrupts are read from the received chunks."""

    __slots__ = ()

    @override
    def saw(self, item: object) -> None:
        with _READING:
            if _has_interrupts(item):
                self._run.interrupted()


def _has_interrupts(item: object) -> bool:
    """Whether a chunk reports interrupts: data, data in a tuple with its mode, or a part (``version="v2"``)."""
    if isinstance(item, tuple):
        return any(map(_has_interrupts, cast("tuple[object, ...]", item)))
    if not isinstance(item, Mapping):
        return False
    part = cast("Mapping[str, object]", item)
    if set(part) == {"type", "ns", "data", "interrupts"}:
        return bool(part["interrupts"]) or (part["type"] == "updates" and _has_interrupts(part["data"]))
    return bool(part.get(INTERRUPT))


def _address_of(graph: Any) -> str:
    """The URL of the server, from whichever of the two clients there is."""
    client = graph.sync_client or graph.client
    return str(client.http.client.base_url)
