"""The run directory: which span belongs to which of LangGraph's ids, while the run lives (DESIGN 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span


@dataclass(frozen=True, slots=True)
class NodeIds:
    """How an event inside a node execution leads back to its span."""

    span_id: str | None
    node_id: str
    node_name: str


@dataclass(slots=True)
class RunDirectory:
    """What is known of one workflow run. Held by its span's owner and gone with it.

    Written by whatever opens spans in the run, read by the event stream; single dict operations are atomic.

    Attributes:
        nodes: Node executions by their checkpoint namespace, which is stable over retries.
        runs: Span ids of graphs, models and tools by LangChain's run id.
        streams: Whether nodes stream their chunks in this run; ``None`` leaves it to the node.
        user_id: From the run's input, for tasks whose own input does not have it (``Send``).
        interrupted: An interrupt ended a part of the run.
    """

    streams: bool | None = None
    user_id: str | None = None
    conversation_id: str | int | None = None
    interrupted: bool = False
    nodes: dict[str, NodeIds] = field(default_factory=dict[str, NodeIds])
    runs: dict[str, str] = field(default_factory=dict[str, str])


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
