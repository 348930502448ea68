"""An event of LangGraph's with the ids that lead back to its span: the hot path of every event."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from langgraph.types import Command

from nodespan import semconv
from nodespan.spans.attributes import fact
from nodespan.spans.directory import NodeIds, span_id_of, trace_id_of
from nodespan.spans.exceptions import error_type
from nodespan.spans.guard import Guard
from nodespan.workflow._chunks import PIPELINE_CHUNK

if TYPE_CHECKING:
    from nodespan.instrumentation.langgraph import WorkflowSpan

Event = dict[str, Any]

WORKFLOW_CONTEXT: Final = "composer_service"
WORKFLOW_ERROR: Final = "workflow_error"

_OURS: Final = frozenset(
    {
        "trace_id",
        "span_id",
        "trace_flags",
        "node_id",
        "node_name",
        "sequence",
        "timestamp",
        "workflow_context",
        "user_metadata",
    }
)
_SOURCES: Final = ("output", "chunk", "input", "values", "state")
_TOKEN_EVENTS: Final = frozenset({"on_chat_model_stream", "on_llm_stream"})
_ENRICHING: Final = Guard("enrich an event")


def is_token_event(event: Mapping[str, Any]) -> bool:
    """Whether the event carries a piece of a model's answer."""
    kind = event["event"]
    return kind in _TOKEN_EVENTS or (kind == "on_custom_event" and event["name"] == PIPELINE_CHUNK)


class EventEnricher:
    """Enriches the events of one run. LangGraph shares its dicts between events, so they are copied, never written.

    Args:
        run: Of the run's span.
        keeps_own_key: The user's metadata contain the key under which checkpoints refer to the run; otherwise nodespan
            has added it, and it is removed from the events.
    """

    __slots__ = (
        "_constant",
        "_directory",
        "_keeps_own_key",
        "_name",
        "_run_id",
        "_second",
        "_second_text",
        "_sequence",
        "_span_id",
    )

    def __init__(self, run: WorkflowSpan, *, keeps_own_key: bool) -> None:
        assert run.directory is not None
        self._directory = run.directory
        self._keeps_own_key = keeps_own_key
        self._name = run.workflow_name
        self._span_id = span_id_of(run.span)
        self._run_id = ""
        self._sequence = 0
        self._second, self._second_text = 0, ""
        trace_id = trace_id_of(run.span)
        self._constant = {
            "trace_id": trace_id,
            "trace_flags": None if trace_id is None else int(run.span.get_span_context().trace_flags),
            "workflow_context": WORKFLOW_CONTEXT,
        }

    def enrich(self, event: Mapping[str, Any]) -> Event:
        """The event with ids, or, when that fails, the event as it was: the failure is counted."""
        sequence = self._sequence
        self._sequence += 1
        with _ENRICHING:
            run_id = event["run_id"]
            if not self._run_id:  # the run's own first event may be filtered out
                parents = event.get("parent_ids")
                self._run_id = parents[0] if parents else run_id
            data = dict(event["data"])
            metadata = dict(event["metadata"])
            node = self._node_of(metadata.get("langgraph_checkpoint_ns") or "")
            if event["name"] == PIPELINE_CHUNK:
                span_id = data["span_id"]
            else:
                span_id = self._runs.get(run_id)
                if (entries := _node_metadata_of(data)) is not None:
                    data["node_metadata"] = entries
            return {**event, "data": data, "metadata": self._metadata(metadata, node, span_id, sequence)}
        return cast("Event", event)

    def error_event(self, error: Exception, failed_in: NodeIds | None) -> Event:
        """The last event of a failing run, with the keys of any event."""
        sequence = self._sequence
        self._sequence += 1
        return {
            "event": WORKFLOW_ERROR,
            "name": self._name,
            "run_id": self._run_id,
            "parent_ids": [],
            "tags": [],
            "metadata": self._metadata({}, failed_in, None, sequence),
            "data": {"error_type": error_type(error)},
        }

    @property
    def _runs(self) -> Mapping[str, str]:
        return self._directory.runs or {}

    def _metadata(
        self, metadata: dict[str, Any], node: NodeIds | None, span_id: str | None, sequence: int
    ) -> dict[str, Any]:
        if not self._keeps_own_key:
            metadata.pop(semconv.TRACEPARENT_KEY, None)
        if not _OURS.isdisjoint(metadata):
            metadata["user_metadata"] = {key: metadata.pop(key) for key in _OURS.intersection(metadata)}
        metadata.update(self._constant)
        if node is not None:
            metadata["node_id"] = node.node_id
            metadata["node_name"] = node.node_name
        metadata["span_id"] = span_id or (node.span_id if node is not None else self._span_id)
        metadata["sequence"] = sequence
        metadata["timestamp"] = self._timestamp()
        return metadata

    def _timestamp(self) -> str:
        """Now, in ISO 8601. The text of a second is kept: hundreds of events share it."""
        second, ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).isoformat()[:-6]
        return f"{self._second_text}.{ns // 1000:06d}+00:00"

    def _node_of(self, checkpoint_ns: str) -> NodeIds | None:
        """The node execution of a namespace, or the nearest one around it."""
        nodes = self._directory.nodes or {}
        while checkpoint_ns:
            if (ids := nodes.get(checkpoint_ns)) is not None:
                return ids
            checkpoint_ns = checkpoint_ns.rpartition("|")[0]
        return None


def _node_metadata_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entries that an event's data hold: in its output, else chunk, else input, else values or state."""
    for source in _SOURCES:
        if (value := data.get(source)) is not None and (found := _entries(value, per_node=source == "chunk")):
            return found
    return None


def _entries(value: object, *, per_node: bool) -> dict[str, Any] | None:
    if per_node and isinstance(value, tuple):  # (mode, data), where the run streams in several modes
        value = cast("tuple[object, ...]", value)[-1]
    if isinstance(value, Command):
        value = cast("object", value.update)
    if isinstance(value, Mapping):
        found = cast("Mapping[str, object]", value).get("node_metadata")
    else:
        found = fact(value, "node_metadata")
    if found is not None and isinstance(found, Mapping):  # isinstance(None, Mapping) takes as long as the rest
        return dict(cast("Mapping[str, Any]", found)) or None
    if not per_node or not isinstance(value, dict):
        return None
    united: dict[str, Any] = {}
    for update in cast("dict[str, object]", value).values():
        united.update(_entries(update, per_node=False) or {})
    return united or None
