"""The requests of Jaeger's page to Jaeger's API, for a run of nodespan: the page itself is not in the tested build.

The requests are those of the page's client in Jaeger UI (``packages/jaeger-ui/src/api``), and a span is classified as
its GenAI view does it (``src/utils/genai``).
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from stack_local import LocalStack

from stack_backends import Jaeger, eventually, get

GENAI_KINDS = {
    "invoke_agent": "agent",
    "invoke_workflow": "agent",
    "chat": "model call",
    "text_completion": "model call",
    "execute_tool": "tool call",
    "retrieval": "retrieval",
}
WEEK_MS = 7 * 86_400_000


@pytest.fixture(scope="module")
def api(stack: LocalStack, seeded: dict[str, Any], jaeger: Jaeger) -> Callable[..., Any]:
    """Sends the page's requests to Jaeger's API; the seeded run has arrived."""
    traces = {one["trace_id"] for one in seeded["runs"]}
    eventually(
        lambda: sum(len(jaeger.trace(trace_id)) for trace_id in traces),
        lambda spans: spans == seeded["delivery"]["ended"],
        "the seeded run's spans in Jaeger",
    )

    def ask(path: str, **parameters: str | int) -> Any:
        return get(f"{stack.jaeger}/api/{path}", **parameters)

    return ask


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def genai_kind(span: dict[str, Any]) -> str | None:
    """The kind of a span in the GenAI view."""
    attributes = tags(span)
    if "gen_ai.operation.name" in attributes:
        return GENAI_KINDS.get(attributes["gen_ai.operation.name"], "other")
    return "other" if any(name.startswith("gen_ai.") for name in attributes) else None


def test_the_search_form_lists_services_and_operations(api: Callable[..., Any], seeded: dict[str, Any]) -> None:
    service = seeded["service"]
    assert service in api("services")["data"]
    operations = set(api(f"services/{service}/operations")["data"])
    assert {f"invoke_workflow {run['workflow']}" for run in seeded["runs"]} <= operations
    assert {f"invoke_node {node['node']}" for node in seeded["nodes"]} <= operations
    for kind in ("server", "internal"):  # badger keeps no kinds and answers with all operations
        assert {one["name"] for one in api("operations", service=service, spanKind=kind)["data"]} == operations
    assert service in api("v3/services")["services"]
    assert {one["name"] for one in api("v3/operations", service=service)["operations"]} == operations


def search(api: Callable[..., Any], seeded: dict[str, Any], **more: str | int) -> set[str]:
    """Trace ids that a search with the form finds."""
    found = api(
        "traces",
        service=seeded["service"],
        start=round((seeded["started_at"] - 60) * 1e6),
        end=round(time.time() * 1e6),
        lookback="custom",
        limit=100,
        **more,
    )
    return {one["traceID"] for one in found["data"]}


def test_a_search_finds_runs_by_operation_tag_and_duration(api: Callable[..., Any], seeded: dict[str, Any]) -> None:
    runs = {run["trace_id"]: run for run in seeded["runs"]}
    assert search(api, seeded) == set(runs)
    stories = {trace_id for trace_id, run in runs.items() if run["workflow"] == "story"}
    assert search(api, seeded, operation="invoke_workflow story") == stories
    failed = {trace_id for trace_id, run in runs.items() if run["status"] == "error"}
    assert search(api, seeded, tags=json.dumps({"error": "true"})) == failed
    asked_a_human = {trace_id for trace_id, run in runs.items() if run["status"] == "interrupted"}
    assert search(api, seeded, tags=json.dumps({"nodespan.status": "interrupted"})) == asked_a_human
    assert search(api, seeded, minDuration="1h") == set()


def test_the_trace_page_receives_the_whole_tree(
    api: Callable[..., Any], jaeger: Jaeger, seeded: dict[str, Any]
) -> None:
    for run in seeded["runs"]:
        [trace] = api(f"traces/{run['trace_id']}")["data"]
        spans = {span["spanID"]: span for span in trace["spans"]}
        assert set(spans) == {span.span_id for span in jaeger.trace(run["trace_id"])}
        parents = {one: [ref["spanID"] for ref in span["references"]] for one, span in spans.items()}
        [root] = [one for one, above in parents.items() if not set(above) & set(spans)]
        assert spans[root]["operationName"] == f"invoke_workflow {run['workflow']}"
        assert all(trace["processes"][span["processID"]]["serviceName"] == seeded["service"] for span in spans.values())
        assert not any(span.get("warnings") for span in spans.values())
        assert all(span["duration"] >= 0 and span["startTime"] > 0 for span in spans.values())


def test_the_genai_view_counts_agents_model_and_tool_calls_and_tokens(
    api: Callable[..., Any], seeded: dict[str, Any]
) -> None:
    spans = [
        span for run in seeded["runs"] for trace in api(f"traces/{run['trace_id']}")["data"] for span in trace["spans"]
    ]
    kinds = Counter(genai_kind(span) for span in spans)
    calls = [tags(span) for span in spans if genai_kind(span) == "model call"]
    models = seeded["models"].values()
    assert kinds["agent"] == len(seeded["runs"])
    assert kinds["model call"] == sum(model["calls"] for model in models)
    assert kinds["tool call"] == seeded["tool_calls"]
    assert sum(call["gen_ai.usage.input_tokens"] for call in calls) == sum(model["input_tokens"] for model in models)
    assert sum(call["gen_ai.usage.output_tokens"] for call in calls) == sum(model["output_tokens"] for model in models)


def test_the_genai_view_can_read_captured_messages(
    api: Callable[..., Any], jaeger: Jaeger, run_demo: Callable[..., str]
) -> None:
    trace_id = run_demo(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="SPAN_ONLY")
    eventually(
        lambda: [span.name for span in jaeger.trace(trace_id)],
        lambda names: "invoke_workflow demo" in names,
        "the demo",
    )
    [trace] = api(f"traces/{trace_id}")["data"]
    calls = [tags(span) for span in trace["spans"] if genai_kind(span) == "model call"]
    assert len(calls) == 4
    for call in calls:
        messages = json.loads(call["gen_ai.input.messages"]) + json.loads(call["gen_ai.output.messages"])
        assert {message["role"] for message in messages} >= {"assistant"}
        assert all(part["type"] == "text" and part["content"] for message in messages for part in message["parts"])


def test_an_exported_trace_can_be_uploaded_to_the_page(
    api: Callable[..., Any], stack: LocalStack, seeded: dict[str, Any]
) -> None:
    """The page sends an OTLP file to be transformed, and shows the answer as a trace."""
    trace_id = seeded["runs"][0]["trace_id"]
    otlp = api(f"v3/traces/{trace_id}")["result"]
    request = urllib.request.Request(
        f"{stack.jaeger}/api/transform", json.dumps(otlp).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        [shown] = json.load(answer)["data"]
    [stored] = api(f"traces/{trace_id}")["data"]
    assert {span["spanID"] for span in shown["spans"]} == {span["spanID"] for span in stored["spans"]}
    assert {span["operationName"] for span in shown["spans"]} == {span["operationName"] for span in stored["spans"]}


def test_the_monitor_tab_and_the_dependency_graph_have_data(api: Callable[..., Any], seeded: dict[str, Any]) -> None:
    now = round(time.time() * 1e3)
    assert int(api("metrics/minstep")["data"]) > 0
    for what, more in (("calls", {}), ("errors", {}), ("latencies", {"quantile": "0.95"})):
        answer = api(
            f"metrics/{what}",
            service=seeded["service"],
            endTs=now, lookback=3_600_000, step=60_000, ratePer=600_000,
            spanKind="internal", groupByOperation="true", **more,
        )  # fmt: skip
        assert answer["type"] == "GAUGE"
        assert answer["name"].startswith("service_operation_")
    links = api("dependencies", endTs=now, lookback=WEEK_MS)["data"]
    assert all(link["parent"] != link["child"] for link in links)  # one service has no edge to itself
