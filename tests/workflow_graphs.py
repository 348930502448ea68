"""Graphs and small readers for the tests of workflows."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph

from nodespan.runner import PipelineFactory
from nodespan.testing import EchoPipeline
from nodespan.types import STATE_ONLY_KEYS, ModelProfile, ModelProfileType
from nodespan.workflow import ComposerService, WorkflowState

Events = list[dict[str, Any]]


def echo_factory(**options: Any) -> PipelineFactory:
    return PipelineFactory(
        {ModelProfileType.Primary: ModelProfile(name="echo", provider="ECHO", options=options)}, create=EchoPipeline
    )


def one_node(node: Any, name: str = "analyse", state: type = WorkflowState, **compile_options: Any) -> Any:
    graph = StateGraph(state)
    graph.add_node(name, node)
    graph.add_edge(START, name)
    return graph.compile(**compile_options)


async def collect(composer: ComposerService, graph: Any, state: Any, **options: Any) -> Events:
    return [event async for event in composer.execute_workflow(graph, state, **options)]


def spans_by_id(exporter: Any) -> dict[str, Any]:
    return {f"{span.context.span_id:016x}": span for span in exporter.get_finished_spans()}


def mirror_of(span: Any) -> dict[str, Any]:
    """The entry as the node's span has it; tags and metadata of the run are no part of the entry."""
    return {
        key.removeprefix("nodespan."): value
        for key, value in span.attributes.items()
        if key.startswith("nodespan.") and key != "nodespan.tags" and not key.startswith("nodespan.metadata.")
    }


def assert_state_and_spans_agree(entries: dict[str, dict[str, Any]], exporter: Any) -> None:
    """Every entry equals the attributes of its span, key by key."""
    spans = spans_by_id(exporter)
    assert entries
    for node_id, entry in entries.items():
        span = spans[entry["span_id"]]
        mirrored = {key: value for key, value in entry.items() if key not in STATE_ONLY_KEYS}
        assert mirror_of(span) == mirrored
        assert entry["node_id"] == node_id
        assert entry["trace_id"] == f"{span.context.trace_id:032x}"
        assert entry["traceparent"] == (
            f"00-{entry['trace_id']}-{entry['span_id']}-{int(span.context.trace_flags):02x}"
        )


def node_ids(events: Events) -> set[str]:
    return {event["metadata"]["node_id"] for event in events if "node_id" in event["metadata"]}
