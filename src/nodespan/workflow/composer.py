"""ComposerService: runs a compiled graph and yields LangGraph's events with the ids of their spans."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api

from nodespan import semconv
from nodespan.errors import ConfigurationError
from nodespan.instrumentation.langgraph import OptIn, WorkflowSpan, install_seams, run_facts, section
from nodespan.spans.attributes import fact
from nodespan.spans.directory import RunDirectory
from nodespan.spans.instruments import get_instruments
from nodespan.spans.log import warn
from nodespan.spans.scope import current_scope, get_tracer
from nodespan.workflow._enrich import Event, EventEnricher, is_token_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from langgraph.types import All, Durability, StreamMode
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider


class ComposerService:
    """Executes workflows and enriches their event stream.

    One instance can execute any number of concurrent runs. While an instance exists, functions of LangGraph are
    wrapped; the wrappers affect only its own runs (and those of ``nodespan.instrument()``).
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        install_seams(self)

    def execute_workflow(
        self,
        workflow: Any,
        initial_state: Any,
        stream: bool = True,
        config: Mapping[str, Any] | None = None,
        *,
        context: Any = None,
        durability: Durability | None = None,
        interrupt_before: All | Sequence[str] | None = None,
        interrupt_after: All | Sequence[str] | None = None,
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        include_names: Sequence[str] | None = None,
        include_types: Sequence[str] | None = None,
        include_tags: Sequence[str] | None = None,
        exclude_names: Sequence[str] | None = None,
        exclude_types: Sequence[str] | None = None,
        exclude_tags: Sequence[str] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Runs a compiled graph and yields LangGraph's ``astream_events`` (v2), in their order and with their content.

        Added to each event: in ``event["metadata"]`` ``trace_id`` (32 hex digits), ``span_id`` (16; the innermost span
        known), ``trace_flags``, ``node_id``, ``node_name`` (inside a node), ``sequence`` (from 0), ``timestamp``
        (ISO 8601, UTC) and ``workflow_context``; and ``data["node_metadata"]`` where the data hold entries. Without a
        real tracer provider the ids are ``None``. User metadata with one of these keys are moved to ``user_metadata``.

        The parent of the run is the span that is current at this call. Leaving the iterator early (``aclose``,
        ``break``, cancellation) ends the run and stops its models. An error yields one last ``workflow_error`` event
        and is then raised unchanged.

        Args:
            workflow: The graph that ``StateGraph.compile()`` returned.
            initial_state: A state, a dict, a ``Command`` or ``None`` to resume.
            stream: With ``False`` nodes do not stream, and there are no token events.
            config: LangGraph's config: ``configurable``, ``callbacks``, ``metadata`` and others. It is not changed.
            context: The run's static context, ``runtime.context`` in nodes.
            durability: When checkpoints are written: ``"sync"``, ``"async"`` or ``"exit"``.
            interrupt_before: Nodes before which the run stops.
            interrupt_after: Nodes after which the run stops.
            stream_mode: Content of the chunks of the run's ``on_chain_stream`` events; with a sequence each chunk is
                ``(mode, data)``.
            include_names: Only events of runnables with these names.
            include_types: Only events of these types, such as ``"chat_model"``.
            include_tags: Only events of runnables with these tags.
            exclude_names: No events of runnables with these names.
            exclude_types: No events of these types.
            exclude_tags: No events of runnables with these tags.

        Raises:
            ConfigurationError: An argument is invalid. Raised at the call.
        """
        _check(workflow, initial_state, config)
        options = {
            "context": context,
            "durability": durability,
            "interrupt_before": interrupt_before,
            "interrupt_after": interrupt_after,
            "stream_mode": stream_mode,
            "include_names": include_names,
            "include_types": include_types,
            "include_tags": include_tags,
            "exclude_names": exclude_names,
            "exclude_types": exclude_types,
            "exclude_tags": exclude_tags,
        }
        given = {name: value for name, value in options.items() if value is not None}
        return self._run(workflow, initial_state, stream, config or {}, given, context_api.get_current())

    async def _run(
        self,
        workflow: Any,
        initial_state: Any,
        stream: bool,
        config: Mapping[str, Any],
        options: Mapping[str, Any],
        context: Context,
    ) -> AsyncGenerator[Event, None]:
        run = WorkflowSpan(
            get_tracer(self._tracer_provider),
            run_facts(workflow, config, initial_state, options.get("context"), current_scope(context)),
            get_instruments(self._meter_provider),
            parent=context,
            directory=RunDirectory(streams=stream, nodes={}, runs={}),
            handed_over=True,
        )
        enricher = EventEnricher(run, keeps_own_key=semconv.TRACEPARENT_KEY in section(config, "metadata"))
        if fact(workflow, "checkpointer"):
            opt_in = OptIn(config)
            opt_in.fill(run.span)
            config = opt_in.config
        events: Any = None
        try:
            events = workflow.astream_events(initial_state, config, version="v2", **options)
            if not hasattr(events, "__aiter__"):
                raise _no_event_stream(workflow)
            # LangGraph makes the run's task in the first step, which copies the context that is current there.
            with run.attached(context):
                first = await anext(events, None)
            if first is not None and (stream or not is_token_event(first)):
                yield enricher.enrich(first)
            async for event in events:
                if stream or not is_token_event(event):
                    yield enricher.enrich(event)
        except BaseException as error:
            try:
                await _close(events, run.workflow_name)
            finally:
                failed_in = run.directory.take_failure(error) if run.directory is not None else None
                run.leave(error)
            if isinstance(error, Exception):
                yield enricher.error_event(error, failed_in)
            raise
        run.leave()


async def _close(events: Any, workflow_name: str) -> None:
    """Stops the run when the consumer has left. An error at closing is logged; the first error is raised."""
    try:
        if inspect.iscoroutine(events):
            events.close()
        elif hasattr(events, "aclose"):
            await events.aclose()
    except Exception:  # noqa: BLE001 the workflow's own code
        warn(
            "workflow.close_failed",
            "Closing the event stream of workflow %r failed. The error that ended the workflow is raised instead.",
            workflow_name,
            exc_info=True,
        )


def _no_event_stream(workflow: object) -> ConfigurationError:
    return ConfigurationError(
        f"execute_workflow(workflow=...) got a {type(workflow).__name__}, whose astream_events(version='v2') is not an "
        "async iterator. Add it as a node to a graph: graph.add_node('name', workflow), and execute that graph."
    )


def _check(workflow: Any, initial_state: object, config: object) -> None:
    if not hasattr(workflow, "astream_events") or not hasattr(workflow, "get_name"):
        fix = (
            "Give it graph.compile()." if hasattr(workflow, "compile") else "Give it what StateGraph.compile() returns."
        )
        raise ConfigurationError(f"execute_workflow(workflow=...) got a {type(workflow).__name__}. {fix}")
    if inspect.iscoroutinefunction(workflow.astream_events):
        raise _no_event_stream(workflow)
    if isinstance(initial_state, (str, bytes, type)) and fact(workflow, "builder") is not None:
        raise ConfigurationError(
            f"execute_workflow(initial_state=...) got a {type(initial_state).__name__}. Give it a state "
            "(WorkflowState.from_prompt('...')), a dict, a Command, or None to resume."
        )
    if config is not None and not isinstance(config, Mapping):
        raise ConfigurationError(
            f"execute_workflow(config=...) got a {type(config).__name__}. "
            "Give it a dict such as {'configurable': {'thread_id': '1'}}."
        )
