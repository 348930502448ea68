"""A run of a graph: its call, its steps and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from langgraph.types import Command
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from nodespan.instrumentation._arguments import call_arguments, with_config
from nodespan.instrumentation._state import InstrumentationState
from nodespan.instrumentation._steps import Suppressed
from nodespan.instrumentation.langgraph._identity import run_facts
from nodespan.instrumentation.langgraph._labels import label
from nodespan.instrumentation.langgraph._resume import OptIn, opts_in
from nodespan.instrumentation.langgraph._spans import WorkflowSpan
from nodespan.instrumentation.langgraph._topology import declare
from nodespan.spans.current import is_suppressed
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import get_instruments
from nodespan.spans.scope import SpanScope, current_scope, own_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    from nodespan.instrumentation.langgraph import _convert

_OPENING = Guard("open a LangGraph span")


class LangGraphState(InstrumentationState):
    """State of the LangGraph instrumentor.

    Attributes:
        lacks_runs: This LangGraph has no seam around runs, so that a node without a run around it is traced.
        lacks_nodes: This LangGraph has no seam around nodes, so that callbacks report them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lacks_runs = False
        self.lacks_nodes = False


STATE: Final = LangGraphState()


def defer_run(
    graph: _convert.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[DeferredRun, tuple[Any, ...], dict[str, Any]]:
    """The run that begins at the first step of a call of ``stream`` or ``astream``, and the arguments of that call.

    The arguments are the caller's own, except where the caller has opted into the checkpoint metadata key.
    """
    run_input, config = call_arguments(args, kwargs)
    with _OPENING:
        if opts_in(graph, config, is_outermost=current_scope() is None):
            opt_in = OptIn(config)
            args, kwargs = with_config(args, kwargs, opt_in.config)
            return DeferredRun(graph, run_input, config, kwargs.get("context"), opt_in), args, kwargs
    return DeferredRun(graph, run_input, config, kwargs.get("context")), args, kwargs


class DeferredRun:
    """A call of a graph, whose span is opened at its first step."""

    __slots__ = ("_config", "_context", "_graph", "_input", "_opt_in", "_run_context")

    adopts: ClassVar = True
    """The run may adopt a span that was opened for it."""
    kind: ClassVar = SpanKind.INTERNAL

    def __init__(
        self,
        graph: _convert.Graph,
        run_input: object,
        config: Mapping[str, Any],
        run_context: object,
        opt_in: OptIn | None = None,
    ) -> None:
        self._graph = graph
        self._input = run_input
        self._config = config
        self._run_context = run_context
        self._opt_in = opt_in
        self._context = own_context()

    def open(self) -> InstrumentedRun | Suppressed | None:
        """The run's span: one that was opened for it, or a new one under the caller's."""
        if is_suppressed(self._context):
            return Suppressed()
        with _OPENING:
            outer = current_scope(self._context)
            if self.adopts and isinstance(outer, WorkflowSpan) and outer.adopt():
                return self._started(outer, adopted=True)
            run = self._own(outer)
            if run is not None and (_is_real(run, self._context) or run.is_observed):
                return self._started(run, adopted=False)
        return None

    def _started(self, run: WorkflowSpan, *, adopted: bool) -> InstrumentedRun:
        run.channels = frozenset(self._graph.channels)
        declare(run, self._graph)
        label(run, self._graph, self._config)
        if isinstance(self._input, Command):
            run.answers(cast("Command[object]", self._input).resume)
        if self._opt_in is not None:
            self._opt_in.fill(run.span)
        return InstrumentedRun(run, adopted=adopted)

    def _own(self, outer: SpanScope | None) -> WorkflowSpan | None:
        tracer = outer.tracer if outer is not None else STATE.tracer
        if tracer is None:  # uninstrumented between the call and the first step
            return None
        facts = run_facts(self._graph, self._config, self._input, self._run_context, outer)
        instruments = outer.instruments if outer is not None else get_instruments(STATE.meter_provider)
        return WorkflowSpan(tracer, facts, instruments, parent=self._context, kind=self.kind)


def _is_real(run: WorkflowSpan, context: Context) -> bool:
    """Whether the span is from a real provider: without one the tracer returns the parent's span or an invalid one."""
    made = run.span.get_span_context()
    return made.is_valid and made.span_id != trace.get_current_span(context).get_span_context().span_id


class InstrumentedRun:
    """Makes the run's span current for each step of its generator. Streamed values are not recorded."""

    __slots__ = ("_adopted", "_run", "step")
    saw = None

    def __init__(self, run: WorkflowSpan, *, adopted: bool) -> None:
        self._run = run
        self._adopted = adopted
        self.step = run.step

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the run's span; an adopted one is ended by its opener."""
        if not self._adopted:
            self._run.leave(error)
