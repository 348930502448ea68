"""Event streams (version v3) of a RemoteGraph: a run on a server has a span, and the server continues the trace."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
from typing import Any

import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind

from nodespan import semconv
from nodespan.instrumentation import uninstrument
from remote_graphs import asks, fails, works
from small_graphs import thread

pytestmark = [
    pytest.mark.skipif("stream_events" not in vars(RemoteGraph), reason="this LangGraph has no such event stream"),
    # LangGraph leaves responses open.
    pytest.mark.filterwarnings(
        "ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning",
        "ignore:unclosed:ResourceWarning",
        "ignore:.*is experimental",
    ),
]

both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def fail():
    raise KeyError("of the program")


def interrupts_of(stream):
    deadline = time.monotonic() + 10
    while not (found := stream.interrupts):
        assert time.monotonic() < deadline, "no interrupt within 10 s"
        time.sleep(0.01)
    return found


async def ainterrupts_of(stream):
    deadline = time.monotonic() + 10
    while not (found := await stream.interrupts()):
        assert time.monotonic() < deadline, "no interrupt within 10 s"
        await asyncio.sleep(0.01)
    return found


async def avalues_of(stream):
    return [value async for value in stream.values]


async def afail():
    fail()


WAYS = {
    "output": lambda stream: stream.output,
    "values": lambda stream: list(stream.values),
    "interrupts": interrupts_of,
    "abort": lambda stream: stream.abort(),
    "raise": lambda _: fail(),
}
AWAYS = {
    "output": lambda stream: stream.output(),
    "values": avalues_of,
    "interrupts": ainterrupts_of,
    "abort": lambda stream: stream.abort(),
    "raise": lambda _: afail(),
}


def read(remote, is_async, given=None, how="output", **options) -> Any:
    """Reads an event stream: its output, its values or its interrupts, or leaves it in some way."""
    given = {"seen": []} if given is None else given

    async def areads() -> Any:
        async with await remote.astream_events(given, thread(), version="v3", **options) as stream:
            return await AWAYS[how](stream)

    if is_async:
        return asyncio.run(areads())
    with remote.stream_events(given, thread(), version="v3", **options) as stream:
        return WAYS[how](stream)


def run_span(exporter, name="Far"):
    gc.collect()
    [span] = [span for span in exporter.get_finished_spans() if span.name == f"invoke_workflow {name}"]
    return span


@both
def test_a_run_has_a_span_and_the_server_continues_its_trace(serve, exporter, measured, is_async):
    server, remote = serve(works)
    with trace.use_span(trace.INVALID_SPAN):
        assert read(remote, is_async) == {"seen": ["worked"], "n": 1}
    span, inside = run_span(exporter), run_span(exporter, "Inside")
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "Far",
        "gen_ai.conversation.id": "t1",
        "langgraph.thread.id": "t1",
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
        "nodespan.status": "ok",
    }
    assert inside.context.trace_id == span.context.trace_id
    assert inside.parent.span_id == span.context.span_id
    assert measured.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME)["Far"] == 0


@both
def test_instrumentation_does_not_change_values(serve, is_async):
    server, remote = serve(works)
    traced = read(remote, is_async, how="values")
    uninstrument()
    server.events.clear()
    assert traced[-1]["n"] == 1
    assert len(traced) == len(read(remote, is_async, how="values"))


@both
def test_an_error_raised_in_the_program_is_an_error_of_the_run(serve, exporter, is_async):
    _, remote = serve(fails)
    with pytest.raises(RuntimeError, match="the remote node is down"):
        read(remote, is_async)
    assert run_span(exporter).attributes[semconv.STATUS] == "error"
    assert run_span(exporter).attributes[semconv.ERROR_TYPE] == "RuntimeError"


@both
def test_an_interrupt_is_not_an_error_and_the_run_can_be_resumed(serve, exporter, is_async):
    server, remote = serve(asks)
    [waiting] = read(remote, is_async, how="interrupts")
    assert waiting["value"] == "go on?"
    assert run_span(exporter).attributes[semconv.STATUS] == "interrupted"
    exporter.clear()
    server.events.clear()
    assert read(remote, is_async, Command(resume="yes"))["seen"] == ["yes"]
    assert run_span(exporter).attributes[semconv.STATUS] == "ok"


@both
def test_a_run_that_is_aborted_is_cancelled(serve, exporter, is_async):
    server, remote = serve(works)
    read(remote, is_async, how="abort")
    assert server.cancelled == 1
    assert run_span(exporter).attributes[semconv.STATUS] == "cancelled"


@both
def test_an_error_of_the_program_passes_unchanged(serve, exporter, is_async):
    _, remote = serve(works)
    with pytest.raises(KeyError, match="of the program"):
        read(remote, is_async, how="raise")
    assert run_span(exporter).attributes[semconv.STATUS] == "error"


@both
def test_a_run_that_cannot_start_is_an_error(serve, exporter, is_async):
    _, remote = serve(works)
    with pytest.raises(TypeError, match="not JSON serializable"):
        read(remote, is_async, {"seen": object()})
    assert run_span(exporter).attributes[semconv.STATUS] == "error"


@both
def test_a_stream_that_is_never_entered_leaves_no_span(serve, exporter, is_async):
    _, remote = serve(works)
    if is_async:
        asyncio.run(remote.astream_events({"seen": []}, thread(), version="v3"))
    else:
        remote.stream_events({"seen": []}, thread(), version="v3")
    gc.collect()
    assert exporter.get_finished_spans() == ()


@both
def test_a_suppressed_run_is_not_recorded_and_sends_no_header(serve, exporter, is_async):
    server, remote = serve(works)
    with suppress_instrumentation():
        assert read(remote, is_async)["n"] == 1
    assert not [span for span in exporter.get_finished_spans() if span.name == "invoke_workflow Far"]
    assert not [headers for headers in server.headers if "traceparent" in headers]


@both
def test_headers_of_the_caller_are_sent_and_not_modified(serve, is_async):
    server, remote = serve(works)
    mine = {"x-tenant": "acme"}
    read(remote, is_async, headers=mine)
    assert mine == {"x-tenant": "acme"}
    assert all(headers["x-tenant"] == "acme" and "traceparent" in headers for headers in server.headers)


def test_other_versions_and_invalid_options_are_not_changed(serve, exporter):
    _, remote = serve(works)

    def results():
        found = []
        for options in ({"version": "v2"}, {"version": "v3", "control": 1}, {"version": "v3", "bogus": 1}):
            with pytest.raises(NotImplementedError) as caught:
                asyncio.run(remote.astream_events({}, **options))
            found.append(str(caught.value))
        stream = remote.stream_events({"seen": []}, version="v3")
        return found, isinstance(stream, kind), inspect.iscoroutinefunction(remote.astream_events)

    kind = type(remote.stream_events({"seen": []}, version="v3").__wrapped__)
    traced = results()
    uninstrument()
    assert traced == results()
    assert exporter.get_finished_spans() == ()
