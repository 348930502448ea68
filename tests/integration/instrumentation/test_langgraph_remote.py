"""RemoteGraph: a run on a server has a span, called by hand or as a node, and the server continues the trace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind

from nodespan import semconv
from nodespan.instrumentation import uninstrument
from remote_graphs import asks, fails, works
from small_graphs import chain, thread

# LangGraph leaves responses open: of an interrupt, and of an event loop that has ended.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"
)

has_v2 = pytest.mark.skipif(
    "version" not in (RemoteGraph.invoke.__kwdefaults__ or {}), reason="this LangGraph has no version v2 of chunks"
)
both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def call(graph, is_async, given, config=None):
    if is_async:
        return asyncio.run(graph.ainvoke(given, config or thread()))
    return graph.invoke(given, config or thread())


def run_span(exporter, name="Far"):
    [span] = [span for span in exporter.get_finished_spans() if span.name == f"invoke_workflow {name}"]
    return span


@both
def test_a_direct_call_has_a_span_and_the_server_continues_its_trace(serve, exporter, measured, is_async):
    server, remote = serve(works)
    config: dict[str, Any] = {**thread(), "tags": ["nightly"], "metadata": {"user_id": "u1"}}
    assert call(remote, is_async, {"seen": [], "n": 0}, config) == {"seen": ["worked"], "n": 1}
    span, inside = run_span(exporter), run_span(exporter, "Inside")
    assert span.kind is SpanKind.CLIENT
    assert span.parent is None
    assert {key: span.attributes[key] for key in span.attributes if not key.startswith("langgraph.graph")} == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "Far",
        "gen_ai.conversation.id": "t1",
        "user.id": "u1",
        "langgraph.thread.id": "t1",
        "nodespan.metadata.user_id": "u1",
        "nodespan.tags": ("nightly",),
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
        "nodespan.status": "ok",
    }
    assert inside.context.trace_id == span.context.trace_id
    assert inside.parent.span_id == span.context.span_id
    assert measured.of(semconv.WORKFLOW_DURATION, semconv.WORKFLOW_NAME)["Far"][1] == 1
    assert measured.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME)["Far"] == 0


@both
def test_as_a_node_the_run_is_below_the_node(serve, exporter, is_async):
    _, remote = serve(works)
    call(chain(("far", remote, {})), is_async, {"seen": [], "n": 0})
    [node] = [span for span in exporter.get_finished_spans() if span.name == "invoke_node far"]
    assert run_span(exporter).parent.span_id == node.context.span_id
    assert run_span(exporter).attributes[semconv.CONVERSATION_ID] == "t1"


@both
def test_an_error_on_the_server_is_an_error_of_the_run(serve, exporter, is_async):
    _, remote = serve(fails)
    with pytest.raises(RemoteException, match="the remote node is down"):
        call(remote, is_async, {"seen": []})
    span = run_span(exporter)
    assert span.attributes[semconv.STATUS] == "error"
    assert span.attributes[semconv.ERROR_TYPE].endswith("RemoteException")


@both
@has_v2  # the values of a server with an older LangGraph do not have interrupts
def test_an_interrupt_on_the_server_is_not_an_error_and_the_run_can_be_resumed(serve, exporter, is_async):
    _, remote = serve(asks)
    call(remote, is_async, {"seen": []})
    assert run_span(exporter).attributes[semconv.STATUS] == "interrupted"
    exporter.clear()
    assert call(remote, is_async, Command(resume="yes"))["seen"] == ["yes"]
    assert run_span(exporter).attributes[semconv.STATUS] == "ok"


@both
def test_an_interrupt_below_a_node_interrupts_all_the_runs_around(serve, exporter, is_async):
    _, remote = serve(asks)
    call(chain(("far", remote, {}), checkpointer=InMemorySaver()), is_async, {"seen": []})
    statuses = {span.name: span.attributes[semconv.STATUS] for span in exporter.get_finished_spans()}
    assert statuses["invoke_workflow Far"] == "interrupted"
    assert statuses["invoke_node far"] == "interrupted"
    assert statuses["invoke_workflow Main"] == "interrupted"


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("updates", {}),
        (["values", "updates"], {}),
        (["values", "updates"], {"subgraphs": True}),
        pytest.param("updates", {"version": "v2"}, marks=has_v2),
        pytest.param("values", {"version": "v2"}, marks=has_v2),
    ],
)
def test_an_interrupt_is_detected_in_every_form_of_chunks(serve, exporter, mode, options):
    _, remote = serve(asks)
    list(remote.stream({"seen": []}, thread(), stream_mode=mode, **options))
    assert run_span(exporter).attributes[semconv.STATUS] == "interrupted"


@both
def test_instrumentation_does_not_change_received_chunks(serve, is_async):
    _, remote = serve(works)
    modes = ["values", "updates"]

    def chunks() -> list[Any]:
        if not is_async:
            return list(remote.stream({"seen": []}, stream_mode=modes))

        async def reads() -> list[Any]:
            return [item async for item in remote.astream({"seen": []}, stream_mode=modes)]

        return asyncio.run(reads())

    traced = chunks()
    uninstrument()
    assert traced == chunks()


def test_headers_of_the_caller_take_precedence_and_are_not_modified(serve):
    server, remote = serve(works)
    given = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "x-other": "a"}
    remote.invoke({"seen": []}, headers=dict(given))
    assert {name: server.headers[-1].get(name) for name in given} == given
    mine: dict[str, str] = {}
    remote.invoke({"seen": []}, headers=mine)
    assert mine == {}
    assert server.headers[-1]["traceparent"] != given["traceparent"]


def test_no_header_is_sent_to_a_host_that_is_not_listed(serve, monkeypatch):
    monkeypatch.setenv("NODESPAN_PROPAGATE_HOSTS", "example.com")
    server, remote = serve(works)
    remote.invoke({"seen": []})
    assert "traceparent" not in server.headers[-1]


@both
def test_a_suppressed_run_is_not_recorded_and_sends_no_header(serve, exporter, is_async):
    server, remote = serve(works)
    with suppress_instrumentation():
        call(remote, is_async, {"seen": []})
    assert not [span for span in exporter.get_finished_spans() if span.name == "invoke_workflow Far"]
    assert "traceparent" not in server.headers[-1]


def test_a_stream_that_is_left_early_is_cancelled(serve, exporter):
    _, remote = serve(works)
    steps = remote.stream({"seen": []}, stream_mode="updates")
    next(steps)
    steps.close()
    assert run_span(exporter).attributes[semconv.STATUS] == "cancelled"
