"""Every span of real runs is in Jaeger, with its attributes, and what Jaeger makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from stack_backends import Jaeger, SeenSpan, eventually

INTERNAL = 1
GENERATION = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.response.finish_reasons",
)
# The first word of a span's name, or the whole of it, and what such a span cannot do without.
EXPECTED: dict[str, tuple[str, ...]] = {
    "invoke_workflow": ("gen_ai.operation.name", "gen_ai.workflow.name", "nodespan.status"),
    "invoke_node": (
        "gen_ai.operation.name",
        "gen_ai.node.name",
        "gen_ai.workflow.name",
        "langgraph.node",
        "langgraph.step",
        "langgraph.task.id",
        "nodespan.node_id",
        "nodespan.status",
    ),
    "chat": GENERATION,
    "execute_tool": ("gen_ai.operation.name", "gen_ai.tool.name"),
    "pipeline.queue": (),
    "pipeline.load": (),
    "llama_cpp.prefill": ("nodespan.evaluated_tokens",),
    "llama_cpp.decode": ("nodespan.evaluated_tokens",),
}


def kind_of(span: SeenSpan) -> str:
    return span.name.partition(" ")[0]


@pytest.fixture(scope="module")
def seeded_spans(jaeger: Jaeger, seeded: dict[str, Any]) -> list[SeenSpan]:
    """Every span that the seeded run reported delivered."""
    delivery = seeded["delivery"]
    assert delivery["exported"] == delivery["ended"] > 0
    traces = {run["trace_id"] for run in seeded["runs"]}

    def read() -> list[SeenSpan]:
        return [span for trace_id in traces for span in jaeger.trace(trace_id)]

    return eventually(read, lambda spans: len(spans) >= delivery["ended"], f"{delivery['ended']} spans in Jaeger")


def test_jaeger_has_each_span_once(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    assert len({(span.trace_id, span.span_id) for span in seeded_spans}) == len(seeded_spans)
    assert len(seeded_spans) == seeded["delivery"]["ended"]


def test_spans_have_their_attributes_kind_and_service(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    assert {kind_of(span) for span in seeded_spans} == set(EXPECTED)
    missing = {
        (span.name, attribute)
        for span in seeded_spans
        for attribute in EXPECTED.get(kind_of(span), ())
        if attribute not in span.attributes
    }
    assert missing == set()
    assert {(span.service, span.kind) for span in seeded_spans} == {(seeded["service"], INTERNAL)}


def test_the_tree_is_complete(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    ids = {span.span_id for span in seeded_spans}
    roots = [span for span in seeded_spans if not span.parent_id]
    assert [span.name for span in seeded_spans if span.parent_id and span.parent_id not in ids] == []
    assert sorted((root.name, root.trace_id) for root in roots) == sorted(
        (f"invoke_workflow {run['workflow']}", run["trace_id"]) for run in seeded["runs"]
    )


def test_each_run_and_node_has_its_status(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    runs = sorted((span.trace_id, span.attributes["nodespan.status"]) for span in seeded_spans if not span.parent_id)
    assert runs == sorted((run["trace_id"], run["status"]) for run in seeded["runs"])
    nodes: dict[tuple[str, str, str], int] = {}
    for span in seeded_spans:
        if kind_of(span) == "invoke_node":
            found = span.attributes
            key = found["gen_ai.workflow.name"], found["gen_ai.node.name"], found["nodespan.status"]
            nodes[key] = nodes.get(key, 0) + 1
            assert span.is_error == (found["nodespan.status"] == "error")
    assert nodes == {(one["workflow"], one["node"], one["status"]): one["count"] for one in seeded["nodes"]}


def test_there_is_a_span_for_each_model_and_tool_call(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    kinds = [kind_of(span) for span in seeded_spans]
    assert kinds.count("chat") == sum(model["calls"] for model in seeded["models"].values())
    assert kinds.count("execute_tool") == seeded["tool_calls"]
    assert kinds.count("pipeline.load") == sum(model["loads"] for model in seeded["models"].values())


def test_a_retry_is_an_event_of_its_span(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    retried = {span.name: span.events.count("nodespan.attempt_failed") for span in seeded_spans}
    assert {name: count for name, count in retried.items() if count} == {
        f"invoke_node {one['node']}": one["count"] for one in seeded["retries"]
    }


def test_the_state_s_metadata_and_jaeger_s_span_agree(seeded: dict[str, Any], seeded_spans: list[SeenSpan]) -> None:
    spans = {span.span_id: span for span in seeded_spans}
    assert len(seeded["generations"]) > 0
    for entry in seeded["generations"]:
        span = spans[entry["span_id"]]
        found = {key: span.attributes.get(f"nodespan.{key}") for key in entry if f"nodespan.{key}" in span.attributes}
        assert {"input_tokens", "decode_s", "queue_s", "priority", "node_id"} <= set(found)
        assert found == {key: entry[key] for key in found}


def test_the_trace_of_the_demo_is_complete(jaeger: Jaeger, demo: str) -> None:
    def names(spans: list[SeenSpan]) -> list[str]:
        return sorted(span.name for span in spans if kind_of(span) in {"invoke_workflow", "invoke_node"})

    nodes = [f"invoke_node {name}" for name in ("answer", "example", "objection", "summary")]
    spans = eventually(
        lambda: jaeger.trace(demo), lambda spans: names(spans) == [*nodes, "invoke_workflow demo"], "the demo's trace"
    )
    assert sum(kind_of(span) == "chat" for span in spans) == 4


def test_jaeger_lists_the_services(jaeger: Jaeger, seeded: dict[str, Any], demo: str) -> None:
    del demo
    eventually(jaeger.services, {seeded["service"], "nodespan-demo"}.issubset, "services in Jaeger")


def test_the_monitor_tab_has_calls_errors_and_latencies(jaeger: Jaeger, seeded: dict[str, Any]) -> None:
    service = seeded["service"]
    operations = {f"invoke_node {one['node']}" for one in seeded["nodes"]}

    def above_zero(numbers: dict[str, list[float]]) -> set[str]:
        return {operation for operation, values in numbers.items() if any(value > 0 for value in values)}

    eventually(
        lambda: jaeger.monitor("calls", service), lambda seen: operations <= above_zero(seen), "calls of each node"
    )
    errors = eventually(
        lambda: jaeger.monitor("errors", service),
        lambda seen: "invoke_node broken" in above_zero(seen),
        "errors of the node that fails",
    )
    assert above_zero(errors) == {"invoke_node broken", "invoke_workflow failing"}
    eventually(
        lambda: jaeger.monitor("latencies", service, quantile="0.95"),
        lambda seen: operations <= above_zero(seen),
        "latencies of each node",
    )
