"""Links a resumed run to the run that wrote the checkpoint it resumes from, also in another process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.types import Command
from opentelemetry import trace
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nodespan import semconv
from nodespan.instrumentation.langgraph import section
from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINKING = Guard("link a resumed run to the run it resumes")
_PROPAGATOR = TraceContextTextMapPropagator()


async def resume_links(workflow: Any, initial_state: object, config: Mapping[str, Any]) -> tuple[Link, ...]:
    """The link for a run that resumes, read from its checkpoint; nothing without checkpointer, thread or config."""
    if not (initial_state is None or isinstance(initial_state, Command)):
        return ()
    if not getattr(workflow, "checkpointer", None) or not section(config, "configurable").get("thread_id"):
        return ()
    with _LINKING:
        snapshot = await workflow.aget_state(config)
        written_by: Mapping[str, Any] = snapshot.metadata or {}
        return link_to(str(written_by.get(semconv.TRACEPARENT_KEY, "")))
    return ()


def link_to(traceparent: str) -> tuple[Link, ...]:
    """A link to the span that a W3C traceparent names, if it is one."""
    context = trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
    return (Link(context, {semconv.LINK_KIND: "resumed_from"}),) if context.is_valid else ()


def remember(config: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
    """The run's config, with its traceparent where LangGraph keeps it in each checkpoint the run writes."""
    if traceparent is None:
        return dict(config)
    return {**config, "metadata": {**section(config, "metadata"), semconv.TRACEPARENT_KEY: traceparent}}
