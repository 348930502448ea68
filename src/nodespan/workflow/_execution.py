"""One execution of a PipelineNode: its span, its metadata, its log lines."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry.trace import INVALID_SPAN

from nodespan import semconv
from nodespan.instrumentation._outcome import outcome_of
from nodespan.instrumentation.langgraph import NodeSpan, WorkflowSpan, callback_span, id_of, new_node_id, section
from nodespan.spans.attributes import to_attribute
from nodespan.spans.directory import span_id_of, trace_id_of, traceparent_of
from nodespan.spans.exceptions import error_type
from nodespan.spans.identity import NO_IDENTITY
from nodespan.spans.log import CODE_FIELD
from nodespan.spans.scope import Attached, current_scope
from nodespan.types import STATE_ONLY_KEYS, NodeMetadata, PipelineExecutionMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.trace import Tracer

    from nodespan.spans.instruments import Instruments

_logger = logging.getLogger("nodespan.node")


class Measured(Protocol):
    """Has the measurements of a generation: a ``PipelineStream``."""

    @property
    def metadata(self) -> PipelineExecutionMetadata | None: ...


class NodeExecution:
    """Adopts the span that LangGraph's seam opened for this execution, or opens a new one, and sets its attributes.

    A context manager for one frame. Facts reach the span when it ends, so that a retried attempt leaves nothing of
    the attempt before.

    Attributes:
        streams: Whether this execution streams its chunks: the node is set to stream and the run does not forbid it.
    """

    def __init__(
        self,
        tracer: Tracer,
        instruments: Instruments,
        facts: Mapping[str, Any],
        state: object,
        config: Mapping[str, Any],
        *,
        node_name: str | None,
        streams: bool,
    ) -> None:
        self._attached: Attached | None = None
        langgraph_name = section(config, "metadata").get("langgraph_node")
        found = current_scope()
        if isinstance(found, NodeSpan) and found.is_open and found.adopt():  # not of a task that outlives its node
            self.scope = found
        else:
            name = langgraph_name or node_name or "PipelineNode"
            shown_name = node_name or name
            attributes = {
                semconv.OPERATION_NAME: semconv.INVOKE_NODE,
                semconv.NODE: name,
                semconv.NODE_NAME: shown_name,
            }
            found = callback_span(config, node_name)
            self.scope = found or NodeSpan(tracer, f"{semconv.INVOKE_NODE} {name}", shown_name, attributes, instruments)
            self._attached = self.scope.attached()
        directory = self.scope.directory
        self.streams = streams and (directory is None or directory.streams is not False)
        self._stream: Measured | None = None
        self._facts = start_facts(self.scope, facts, state, streams=self.streams)

    def __enter__(self) -> NodeExecution:
        if self._attached is not None:
            self._attached.__enter__()
        self.scope.facts = _mirror(self.metadata())
        self._log(logging.DEBUG, "started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.scope.facts = _mirror(self.metadata(error_type=error_type(error), duration_s=self.scope.duration_s))
            if outcome_of(error) == "error":
                self._log(logging.WARNING, "failed with %s", error_type(error))
        if self._attached is not None:
            self._attached.__exit__(kind, error, traceback)
            self.scope.leave(error)

    @property
    def channels(self) -> frozenset[str] | None:
        """Channels of the graph that runs this node, if that is known."""
        parent = self.scope.parent
        return parent.channels if isinstance(parent, WorkflowSpan) and parent.channels else None

    def watch(self, stream: Measured) -> None:
        """Includes the measurements of the generation, complete or so far, in the facts."""
        self._stream = stream

    def done(self) -> dict[str, Any]:
        """The entry for the state; the span will have the same values."""
        metadata = self.metadata(status="ok", duration_s=self.scope.duration_s)
        self.scope.facts = _mirror(metadata)
        self._log(logging.INFO, "done in %.3f s", metadata.duration_s)
        return metadata.entry()

    def metadata(self, **more: Any) -> NodeMetadata:
        """The facts so far."""
        measured = self._stream.metadata if self._stream is not None else None
        pipeline = dict(measured) if measured is not None else {}
        return NodeMetadata(**{**self._facts, **pipeline, **more})

    def _log(self, level: int, message: str, *args: object) -> None:
        if not _logger.isEnabledFor(level):
            return
        ids = self.scope.ids
        extra = {
            **({CODE_FIELD: "workflow.node_failed"} if level >= logging.WARNING else {}),
            "node_id": ids.node_id,
            "node_name": ids.node_name,
            "trace_id": trace_id_of(self.scope.span),
            "span_id": ids.span_id,
        }
        _logger.log(level, "node %s " + message, ids.node_name, *args, extra=extra)


def start_facts(
    scope: NodeSpan | None, facts: Mapping[str, Any], state: object, *, streams: bool, node_name: str = ""
) -> dict[str, Any]:
    """The metadata of an execution at its start; without a scope it has a new node id and no span."""
    known = scope.identity if scope is not None else NO_IDENTITY
    span = scope.span if scope is not None else INVALID_SPAN
    return {
        **facts,
        "node_name": scope.node_name if scope is not None else node_name,
        "node_id": scope.node_id if scope is not None else new_node_id(),
        "streaming": streams,
        "execution_time": datetime.now(UTC).isoformat(timespec="microseconds"),
        "user_id": _held_text(id_of(state, "user_id", known.user_id)),
        "conversation_id": _held_id(id_of(state, "conversation_id", known.conversation_id)),
        "trace_id": trace_id_of(span),
        "span_id": span_id_of(span),
        "traceparent": traceparent_of(span),
    }


def _mirror(metadata: NodeMetadata) -> dict[str, Any]:
    """Entry keys as span attributes, but the status, which the scope sets at its end."""
    return {
        semconv.MIRROR_KEYS[key]: value
        for key, value in metadata.entry().items()
        if key not in STATE_ONLY_KEYS and key != "status"
    }


def _held_text(value: object) -> str | None:
    return None if value is None else cast("str", to_attribute(value if isinstance(value, str) else str(value)))


def _held_id(value: object) -> str | int | None:
    """A conversation id, as it is if an attribute can hold it, so that state and span have the same value."""
    if value is None or type(value) is int:
        return cast("str | int | None", to_attribute(value))
    return _held_text(value)
