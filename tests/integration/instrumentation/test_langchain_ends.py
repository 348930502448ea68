"""Invariants 2 to 5 for LangChain: every span ends once, with its outcome; no context stays attached."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from langchain_core.tools import tool
from opentelemetry import baggage, context, trace

from measured import Measured
from nodespan.instrumentation.langchain import LangChainInstrumentor
from nodespan.spans.scope import current_scope
from nodespan.testing import span_tree
from talker import Talker, ways

pytestmark = pytest.mark.usefixtures("traced_langchain")

CANCELLED = {"nodespan.status": "cancelled"}
LONG = tuple("abcdefgh")


def only(exporter, *attributes):
    (span,) = span_tree(exporter, "nodespan.status", *attributes)
    return span


async def wait_until_ended(exporter):
    """An abandoned async generator is closed by the loop, in a task of its own."""
    deadline = asyncio.get_running_loop().time() + 10
    while not exporter.get_finished_spans() and asyncio.get_running_loop().time() < deadline:
        gc.collect()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("call", ["ainvoke", "agenerate", "abatch"])
async def test_wait_for_around_a_model_call_ends_its_span(exporter, call):
    """langchain-core does not report this end to its callbacks."""
    model = Talker(waits_at=0)
    given = {"ainvoke": "hi", "agenerate": [[]], "abatch": ["hi"]}[call]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(getattr(model, call)(given), 0.05)
    assert model.seen == ["chat talker-1"]
    assert only(exporter) == {"name": "chat talker-1", "attributes": CANCELLED}


async def test_wait_for_around_a_chunk_ends_its_span(exporter):
    pieces = Talker(waits_at=1).astream("hi")
    await anext(pieces)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(pieces), 0.05)
    assert only(exporter) == {"name": "chat talker-1", "attributes": CANCELLED}


def test_breaking_out_of_a_stream_ends_the_span_with_the_received_part(exporter):
    for piece in Talker(words=LONG).stream("hi"):
        assert piece.content == "a"
        break
    gc.collect()
    span = only(exporter, "gen_ai.response.*")
    assert span["attributes"].pop("gen_ai.response.time_to_first_chunk") > 0
    assert span == {"name": "chat talker-1", "attributes": {**CANCELLED, "gen_ai.response.id": "chatcmpl-1"}}


async def test_breaking_out_of_an_async_stream_ends_the_span(exporter):
    async def read():
        async for _ in Talker(words=LONG).astream("hi"):
            break

    await read()
    await wait_until_ended(exporter)
    assert only(exporter)["attributes"] == CANCELLED


async def test_a_closed_stream_ends_the_span(exporter):
    pieces, apieces = Talker(words=LONG).stream("hi"), Talker(words=LONG).astream("hi")
    next(pieces)
    pieces.close()
    await anext(apieces)
    await apieces.aclose()
    assert span_tree(exporter, "nodespan.status") == [{"name": "chat talker-1", "attributes": CANCELLED}] * 2


def test_a_stream_that_is_never_read_leaves_no_span(exporter):
    Talker().stream("hi")
    Talker().astream("hi")
    gc.collect()
    assert exporter.get_finished_spans() == ()


def test_a_stream_that_outlives_its_loop_ends_its_span(exporter):
    kept = []

    async def read_one():
        kept.append(Talker(words=LONG).astream("hi"))
        await anext(kept[0])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(read_one())
    loop.close()
    kept.clear()
    gc.collect()
    assert only(exporter)["attributes"] == CANCELLED


def test_a_stream_closed_in_another_thread_ends_its_span(exporter):
    kept = [Talker(words=LONG).stream("hi")]
    next(kept[0])
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert only(exporter)["attributes"] == CANCELLED


def test_between_two_chunks_the_context_of_the_reader_is_current(exporter, tracer):
    model = Talker(words=LONG)
    pieces = model.stream("hi")
    with tracer.start_as_current_span("the reader's own") as own:
        token = context.attach(baggage.set_baggage("reader", "1"))
        before = context.get_current()
        for _ in pieces:
            assert context.get_current() is before
            assert trace.get_current_span() is own
        context.detach(token)
    assert set(model.seen) == {"chat talker-1"}
    chat = next(span for span in exporter.get_finished_spans() if span.name == "chat talker-1")
    assert chat.parent is None  # the model was called before the reader's span started


async def test_reading_chunks_does_not_change_the_context_of_the_task(exporter):
    pieces = Talker(words=LONG).astream("hi")

    async def read_one():
        before = context.get_current()
        await anext(pieces)
        assert context.get_current() is before

    for _ in range(3):
        await asyncio.create_task(read_one())
    await asyncio.create_task(pieces.aclose())
    assert only(exporter)["attributes"] == CANCELLED


WAYS = {
    "invoke": lambda model: model.invoke("hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")),
    "stream": lambda model: list(model.stream("hi")),
    "astream": lambda model: asyncio.run(_read(model.astream("hi"))),
}


async def _read(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


@pytest.mark.parametrize("way", WAYS)
def test_a_model_s_error_is_recorded_once_and_reraised_unchanged(exporter, tracer_provider, way):
    from nodespan.spans.scope import SpanScope, get_tracer

    error = ConnectionError("the server is down")
    outer = SpanScope(get_tracer(tracer_provider), "invoke_node outer")
    with pytest.raises(ConnectionError) as raised, outer.attached():
        WAYS[way](Talker(error=error, fails_at=1))
    outer.fail(raised.value)
    assert raised.value is error
    assert span_tree(exporter, "error.type") == [
        {
            "name": "invoke_node outer",
            "status": "ERROR",
            "attributes": {"error.type": "ConnectionError"},
            "children": [
                {
                    "name": "chat talker-1",
                    "status": "ERROR",
                    "attributes": {"error.type": "ConnectionError"},
                    "events": ["exception"],
                }
            ],
        }
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tool_s_error_is_on_its_span(exporter, asynchronous):
    @tool
    def breaks(n: int) -> str:
        """Breaks."""
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(breaks.ainvoke({"n": 1})) if asynchronous else breaks.invoke({"n": 1})
    assert only(exporter, "error.type") == {
        "name": "execute_tool breaks",
        "status": "ERROR",
        "attributes": {"nodespan.status": "error", "error.type": "RuntimeError"},
        "events": ["exception"],
    }


async def test_a_cancelled_tool_is_not_an_error(exporter):
    @tool
    async def hangs(n: int) -> str:
        """Hangs."""
        await asyncio.Event().wait()
        return ""

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hangs.ainvoke({"n": 1}), 0.05)
    assert only(exporter) == {"name": "execute_tool hangs", "attributes": CANCELLED}


@pytest.mark.extended
async def test_a_thousand_cancelled_calls_leave_no_open_span(exporter, open_spans):
    owners = weakref.WeakSet()

    class Remembered(Talker):
        async def _agenerate(self, messages, *args, **kwargs):
            owners.add(current_scope())
            await asyncio.Event().wait()

    @tool
    async def hangs(n: int) -> str:
        """Hangs."""
        owners.add(current_scope())
        await asyncio.Event().wait()
        return ""

    model = Remembered()
    for _ in range(5):
        calls = [asyncio.ensure_future(model.ainvoke("hi")) for _ in range(100)]
        calls += [asyncio.ensure_future(hangs.ainvoke({"n": 1})) for _ in range(100)]
        while len(owners) < 200:
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        del calls, call
        assert open_spans.open == {}
        for _ in range(3):  # what the loop itself still holds
            await asyncio.sleep(0)
        gc.collect()
        assert len(owners) == 0
    assert len(exporter.get_finished_spans()) == 1000


@pytest.fixture
def measured(tracer_provider):
    """LangChain's instrumentation with a meter provider."""
    LangChainInstrumentor().uninstrument()
    measured = Measured()
    LangChainInstrumentor().instrument(tracer_provider=tracer_provider, meter_provider=measured.provider)
    return measured


@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize("way", ways(["events-v3"]))
async def test_an_event_stream_that_is_read_to_its_end_is_measured_once(measured, exporter, way):
    stream = await Talker().astream_events("hi", version="v3")
    await stream.output
    await stream._producer_task
    assert [count for _, count in measured.of("gen_ai.client.operation.duration").values()] == [1]
    assert len(exporter.get_finished_spans()) == 1


def test_a_model_and_a_tool_are_measured_once_with_the_facts_of_their_spans(measured):
    @tool
    def adds(a: int) -> int:
        """Adds."""
        return a + 1

    list(Talker().stream("hi"))
    with pytest.raises(ConnectionError):
        Talker(error=ConnectionError()).invoke("hi")
    adds.invoke({"a": 1})
    pieces = Talker(words=LONG).stream("hi")
    next(pieces)
    pieces.close()
    calls = measured.of(
        "gen_ai.client.operation.duration", "gen_ai.request.model", "nodespan.finish_reason", "error.type"
    )
    assert {key: count for key, (_, count) in calls.items()} == {
        ("talker-1", "stop", None): 1,
        ("talker-1", "error", "ConnectionError"): 1,
        ("talker-1", "cancelled", None): 1,
    }
    assert measured.of("gen_ai.client.token.usage", "gen_ai.token.type") == {"input": (3, 1), "output": (2, 1)}
    assert measured.of("gen_ai.client.operation.time_to_first_chunk")[()][1] == 2
    tools = measured.of("gen_ai.execute_tool.duration", "gen_ai.tool.name", "nodespan.status", "error.type")
    assert {key: count for key, (_, count) in tools.items()} == {("adds", "ok", None): 1}
