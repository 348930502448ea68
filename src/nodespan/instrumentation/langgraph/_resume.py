"""Links a resumed run to the run that wrote the checkpoint it resumes from.

In one process a bounded table serves: the ids of checkpoints are unique, so whatever saver, graph or thread they
belong to, a link is never wrong. From another process the link is read from the checkpoint's own metadata, where it
lies if the user has asked for it: ``config={"metadata": {"nodespan.traceparent": ""}}`` in the run that may be
interrupted. ComposerService does that for its runs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from langgraph.types import Command
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nodespan import semconv
from nodespan.instrumentation.langgraph._convert import section
from nodespan.spans.directory import traceparent_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

    from nodespan.instrumentation.langgraph._convert import Graph

MAX_INTERRUPTED: Final = 1024
"""Interrupted runs that are remembered. About 0.5 KB each; the oldest is forgotten first."""

RESUMED_FROM: Final = "resumed_from"

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_interrupted: OrderedDict[str, SpanContext] = OrderedDict()


class Loop(Protocol):
    """What nodespan reads of LangGraph's ``PregelLoop``."""

    is_nested: bool
    input: object
    checkpoint: Mapping[str, Any]
    checkpoint_metadata: Mapping[str, Any]
    channels: Mapping[str, Any]


def remember_interrupt(checkpoint_id: str, span: Span) -> None:
    """Keeps which run left this checkpoint. A run that is interrupted there again did not write it."""
    context = span.get_span_context()
    if context.is_valid:
        _interrupted.setdefault(checkpoint_id, context)
        while len(_interrupted) > MAX_INTERRUPTED:
            _interrupted.popitem(last=False)


def resumes(loop: Loop) -> bool:
    """Whether the run goes on from a checkpoint. Said of runs of their own; a subgraph's run follows its parent's."""
    goes_on = loop.input is None or isinstance(loop.input, Command)
    return goes_on and not loop.is_nested and bool(loop.checkpoint["channel_versions"])


def link_of(loop: Loop) -> Link | None:
    """The link of a run that resumes: what the checkpoint itself says, else what this process remembers."""
    context = _parsed(loop.checkpoint_metadata.get(semconv.TRACEPARENT_KEY))
    context = context or _interrupted.get(loop.checkpoint["id"])
    return Link(context, {semconv.LINK_KIND: RESUMED_FROM}) if context is not None else None


def _parsed(traceparent: object) -> SpanContext | None:
    if not isinstance(traceparent, str):
        return None
    context = trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
    return context if context.is_valid else None


class OptIn:
    """A run whose user wants its checkpoints to say which run wrote them.

    Attributes:
        config: The user's config with metadata of our own, to be given to LangGraph instead; the user's is left as it
            is. LangGraph reads it at the first step, when the span is there.
    """

    __slots__ = ("_metadata", "config")

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._metadata = dict(section(config, "metadata"))
        self.config = {**config, "metadata": self._metadata}

    def fill(self, span: Span) -> None:
        """Writes down the run's span."""
        self._metadata[semconv.TRACEPARENT_KEY] = traceparent_of(span) or ""


def opts_in(graph: Graph, config: Mapping[str, Any]) -> bool:
    """Whether the key stands in the metadata of the run's config, or of the graph's own (``with_config``)."""
    return semconv.TRACEPARENT_KEY in section(config, "metadata") or (
        graph.config is not None and semconv.TRACEPARENT_KEY in section(graph.config, "metadata")
    )
