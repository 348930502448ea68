"""Invariants 3 and 5 for calls of llama-cpp-python: every span ends once, with its outcome."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

import llama_cpp
from llama_calls import (
    MESSAGES,
    STREAMS,
    calls,
    status,
    streamed,
    the_call,
    too_long,
)
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from nodespan.spans.model_call import ModelCallSpan
from nodespan.spans.scope import get_tracer
from small_graphs import chain


@STREAMS
def test_an_abandoned_stream_ends_its_span_at_once(llama, traced_llama_cpp, exporter, open_spans, stream):
    for _ in stream(llama):
        break
    gc.collect()
    assert status(the_call(exporter)) == "cancelled"
    assert the_call(exporter).attributes["gen_ai.usage.output_tokens"] == 1
    assert open_spans.open == {}


@STREAMS
def test_a_stream_that_is_never_read_ends_its_span_when_it_is_dropped(llama, traced_llama_cpp, exporter, stream):
    pieces = stream(llama)
    del pieces
    assert status(the_call(exporter)) == "cancelled"


def test_a_stream_that_is_dropped_in_another_thread_or_cycle_ends_its_span(llama, traced_llama_cpp, exporter):
    pieces = streamed(llama)
    next(pieces)
    cycle = [pieces]
    cycle.append(cycle)
    del pieces, cycle
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    assert status(the_call(exporter)) == "cancelled"


@pytest.mark.extended
def test_1000_abandoned_streams_leave_no_open_span(llama, traced_llama_cpp, exporter, open_spans):
    def owners():
        gc.collect()
        return sum(isinstance(thing, ModelCallSpan) for thing in gc.get_objects())

    kept, before = [], owners()

    def leaves_one():
        pieces = llama.create_completion(" the", max_tokens=2, stream=True)
        next(pieces)
        kept.append(weakref.ref(pieces))

    for _ in range(1000):
        leaves_one()
    assert len(calls(exporter)) == 1000
    assert open_spans.open == {}
    assert [reference for reference in kept if reference() is not None] == []
    assert owners() <= before


async def test_a_call_whose_task_is_cancelled_ends_its_span(llama, traced_llama_cpp, exporter):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(lambda: list(streamed(llama)))
    for _ in range(1000):  # the thread continues; it cannot be stopped
        if exporter.get_finished_spans():
            break
        await asyncio.sleep(0.01)
    assert status(the_call(exporter)) == "ok"


async def test_a_task_that_is_cancelled_between_two_pieces_ends_its_span(llama, traced_llama_cpp, exporter):
    async def reads():
        for _ in streamed(llama):
            await asyncio.sleep(0)

    task = asyncio.create_task(reads())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert status(the_call(exporter)) == "cancelled"
    assert the_call(exporter).events == ()


def test_a_model_that_is_closed_under_its_stream_ends_the_span(smollm2, traced_llama_cpp, exporter):
    llama = llama_cpp.Llama(str(smollm2), n_ctx=64, verbose=False)
    pieces = streamed(llama)
    next(pieces)
    llama.close()
    pieces.close()
    assert status(the_call(exporter)) == "cancelled"
    assert the_call(exporter).attributes["gen_ai.usage.output_tokens"] == 1


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["whole", "streamed"])
def test_an_error_is_recorded_once_and_reaches_the_program(llama, traced_llama_cpp, tracer_provider, exporter, more):
    with (
        pytest.raises(ValueError, match="exceed context window"),
        get_tracer(tracer_provider).start_as_current_span(
            "caller", record_exception=False, set_status_on_exception=False
        ),
    ):
        answer = too_long(llama, **more)
        list(answer)
    span = calls(exporter)[0]
    assert (span.status.status_code.name, span.attributes["error.type"]) == ("ERROR", "ValueError")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert [event.name for event in span.events] == ["exception"]


def test_an_error_before_the_stream_is_recorded_on_the_call(llama, traced_llama_cpp, exporter):
    tool = {"type": "function", "function": {"name": "other"}}
    with pytest.raises(ValueError, match="not found in tools"):
        llama.create_chat_completion(MESSAGES, tools=[], tool_choice=tool, stream=True)
    assert the_call(exporter).attributes["error.type"] == "ValueError"


def test_an_error_in_a_node_is_recorded_on_the_call_only(llama, switch_llama_cpp, tracer_provider, exporter):
    LangGraphInstrumentor().instrument(tracer_provider=tracer_provider)
    switch_llama_cpp()

    def fails(state):
        too_long(llama)

    with pytest.raises(ValueError, match="exceed context window"):
        chain(fails).invoke({"seen": []})
    events = {span.name.split()[0]: [event.name for event in span.events] for span in exporter.get_finished_spans()}
    assert events == {"text_completion": ["exception"], "invoke_node": [], "invoke_workflow": []}
    assert {span.status.status_code.name for span in exporter.get_finished_spans()} == {"ERROR"}


def test_an_exception_thrown_into_a_stream_is_its_error(llama, traced_llama_cpp, exporter):
    pieces = streamed(llama)
    next(pieces)
    with pytest.raises(KeyError):
        pieces.throw(KeyError("mine"))
    assert the_call(exporter).attributes["error.type"] == "KeyError"


def test_embed_of_a_model_without_embeddings_fails_as_before(llama, traced_llama_cpp, exporter):
    with pytest.raises(RuntimeError, match="embedding=True"):
        llama.create_embedding("a")
    with pytest.raises(RuntimeError, match="embedding=True"):
        llama.embed("a")
    assert [span.attributes["error.type"] for span in calls(exporter)] == ["RuntimeError", "RuntimeError"]
