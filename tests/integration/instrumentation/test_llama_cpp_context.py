"""Invariants 1, 2 and 8 for calls of llama-cpp-python: the current span, and the parent of a call."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import llama_cpp
from llama_calls import (
    STREAMS,
    streamed,
    the_call,
    whole,
    whole_chat,
)
from llama_cpp_cases import STORY, words
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from nodespan.testing import span_tree
from small_graphs import chain


@STREAMS
def test_between_two_chunks_the_consumers_context_is_current(llama, traced_llama_cpp, stream):
    pieces = stream(llama)
    for number in range(3):
        with trace.use_span(NonRecordingSpan(SpanContext(7, 8 + number, is_remote=False))):
            token = context_api.attach(baggage.set_baggage("number", number))
            before = context_api.get_current()
            next(pieces)
            assert context_api.get_current() is before
            context_api.detach(token)
    before = context_api.get_current()
    pieces.close()
    assert context_api.get_current() is before


def test_the_span_is_current_inside_the_call_and_only_there(llama, traced_llama_cpp, exporter):
    seen = []

    def looks(input_ids, scores):
        seen.append(trace.get_current_span().get_span_context().span_id)
        return scores

    processors = llama_cpp.LogitsProcessorList([looks])
    llama.create_completion(STORY, max_tokens=2, logits_processor=processors)
    assert set(seen) == {the_call(exporter).context.span_id}
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_parent_is_the_span_at_the_call_also_when_another_thread_reads(
    llama, traced_llama_cpp, tracer_provider, exporter
):
    tracer = tracer_provider.get_tracer("test")
    with tracer.start_as_current_span("asks"):
        pieces = streamed(llama)
    read_by_another = []

    def go_on():
        with tracer.start_as_current_span("reads"):
            read_by_another.extend(pieces)

    next(pieces)
    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join()
    assert read_by_another
    assert [
        (span["name"], [child["name"].split()[0] for child in span.get("children", [])]) for span in span_tree(exporter)
    ] == [
        ("asks", ["text_completion"]),
        ("reads", []),
    ]


def test_a_remote_parent_is_the_parent(llama, traced_llama_cpp, exporter):
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(remote)):
        whole(llama)
    assert the_call(exporter).parent == remote


def test_in_nodes_and_their_threads_a_call_is_below_its_node(llama, switch_llama_cpp, tracer_provider, exporter):
    LangGraphInstrumentor().instrument(tracer_provider=tracer_provider)
    switch_llama_cpp()

    def asks(state):
        whole(llama)

    async def asks_in_thread(state):
        await asyncio.to_thread(whole_chat, llama)

    def reads_in_thread(state):
        pieces = streamed(llama)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(list, pieces))
        thread.start()
        thread.join()

    asyncio.run(chain(asks, asks_in_thread, reads_in_thread).ainvoke({"seen": []}))
    (run,) = span_tree(exporter)
    assert [(node["name"], [call["name"].split()[0] for call in node["children"]]) for node in run["children"]] == [
        ("invoke_node asks", ["text_completion"]),
        ("invoke_node asks_in_thread", ["chat"]),
        ("invoke_node reads_in_thread", ["text_completion"]),
    ]


async def test_calls_of_many_tasks_have_separate_spans(llama, traced_llama_cpp, tracer_provider, exporter):
    tracer = tracer_provider.get_tracer("test")
    free = threading.Lock()  # a model does one thing at a time

    def asks(number):
        with free:
            llama.create_completion(words(number), max_tokens=1)

    async def one(number):
        with tracer.start_as_current_span(f"caller {number}"):
            await asyncio.to_thread(asks, number)

    await asyncio.gather(*(one(number) for number in range(1, 41)))
    found = {
        span["name"]: [child["attributes"]["gen_ai.usage.input_tokens"] for child in span["children"]]
        for span in span_tree(exporter, "gen_ai.usage.input_tokens")
    }
    assert found == {f"caller {number}": [number] for number in range(1, 41)}


@pytest.mark.usefixtures("traced_llama_cpp")
def test_a_suppressed_call_is_not_recorded(llama, exporter):
    with suppress_instrumentation():
        assert llama.create_completion("The sea", max_tokens=2)["usage"]["completion_tokens"] == 2
        pieces = llama.create_completion("The sea", max_tokens=2, stream=True)
        tokens = llama.generate(llama.tokenize(b"The sea"))
    assert list(pieces)
    next(tokens)
    tokens.close()
    assert exporter.get_finished_spans() == ()
