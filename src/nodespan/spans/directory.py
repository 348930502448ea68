"""The run directory: maps LangGraph's ids to spans during a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span


@dataclass(frozen=True, slots=True)
class NodeIds:
    """Ids of a node execution's span, for events inside it."""

    span_id: str | None
    node_id: str
    node_name: str


@dataclass(slots=True)
class RunDirectory:
    """The ids of one workflow run. Referenced by the scope of its span only.

    Written by code that opens spans in the run, read by the event stream; single dict operations are atomic.

    Attributes:
        nodes: Node executions by their checkpoint namespace, which is stable over retries; ``None`` if nothing reads
            it, to bound the memory of a long run.
        runs: Span ids of models and tools by LangChain's run id; ``None`` likewise.
        streams: Whether nodes stream their chunks in this run; ``None`` leaves it to the node.
    """

    streams: bool | None = None
    nodes: dict[str, NodeIds] | None = None
    runs: dict[str, str] | None = None
    _failed: tuple[BaseException, NodeIds] | None = field(default=None, repr=False)

    def note_failure(self, error: BaseException, ids: NodeIds) -> None:
        """Stores the innermost node in which an error was raised, until the run ends."""
        if self._failed is None or self._failed[0] is not error:
            self._failed = (error, ids)

    def take_failure(self, error: BaseException) -> NodeIds | None:
        """Returns and removes the node in which this error was raised."""
        failed, self._failed = self._failed, None
        return failed[1] if failed is not None and failed[0] is error else None


def span_id_of(span: Span) -> str | None:
    """16 hex digits, or ``None`` without a real provider."""
    context = span.get_span_context()
    return f"{context.span_id:016x}" if context.is_valid else None


def trace_id_of(span: Span) -> str | None:
    """32 hex digits, or ``None`` without a real provider."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def traceparent_of(span: Span) -> str | None:
    """W3C Trace Context header value, version 00, or ``None`` without a real provider."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
