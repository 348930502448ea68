"""The cost added to a call of a LangChain model, tool or retriever, beside an SDK span around the call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from opentelemetry import context, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import nodespan
from bench.measure import Figure, Size, added, figure, interleaved, median, ratio
from bench.overhead_worker import Counting, configured

TITLE = "Added per LangChain call"
ROUNDS = {"quick": 2, "normal": 30, "full": 100}
CALLS = 200
CHUNKS = 8
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


class Model(BaseChatModel):
    """Answers at once. It has the fields that models of providers have."""

    model: str = "fake-1"
    temperature: float = 0.0
    max_tokens: int = 100

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("ok", usage_metadata=USAGE))])

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        for _chunk in range(CHUNKS - 1):
            yield ChatGenerationChunk(message=AIMessageChunk("ok "))
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=USAGE))


class Retriever(BaseRetriever):
    """Finds one document."""

    def _get_relevant_documents(self, *_: Any, **__: Any) -> list[Document]:
        return [Document("text")]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def run(size: Size) -> list[Figure]:
    model, retriever = Model(), Retriever()

    def streamed() -> None:
        for _chunk in model.stream("hi"):
            pass

    calls: dict[str, Callable[[], Any]] = {
        "chat model": lambda: model.invoke("hi"),
        f"chat model, {CHUNKS} chunks streamed": streamed,
        "tool": lambda: add.invoke({"a": 1, "b": 2}),
        "retriever": lambda: retriever.invoke("hi"),
    }
    return [found for name, call in calls.items() for found in figures(name, call, ROUNDS[size])]


def figures(name: str, call: Callable[[], Any], rounds: int) -> list[Figure]:
    """The figures of one kind of call."""
    kept = Kept()
    ours, meters = configured(kept)
    nothing = NoOpMeterProvider()
    plain = TracerProvider(shutdown_on_exit=False)
    plain.add_span_processor(Counting())
    nodespan.instrument(tracer_provider=ours, meter_provider=nothing, langgraph=False, llama_cpp=False, openai=False)
    call()
    nodespan.uninstrument()
    by_hand = around(call, plain.get_tracer("by hand"), kept.span)

    def switched(meter_provider: Any) -> Callable[[], float]:
        def once() -> float:
            nodespan.instrument(
                tracer_provider=ours, meter_provider=meter_provider, langgraph=False, llama_cpp=False, openai=False
            )
            try:
                return us_per_call(call)
            finally:
                nodespan.uninstrument()

        return once

    variants = {
        "bare": lambda: us_per_call(call),
        "nodespan": switched(nothing),
        "with metrics": switched(meters),
        "by hand": lambda: us_per_call(by_hand),
    }
    columns = interleaved(variants, rounds)
    of = f"{CALLS} calls"
    hand = added("by hand", "bare")
    return [
        figure(f"{name}, uninstrumented", "µs", columns, median("bare"), of=of),
        figure(f"{name}: nodespan", "µs", columns, added("nodespan", "bare"), of=of),
        figure(f"{name}: nodespan with metrics", "µs", columns, added("with metrics", "bare"), of=of),
        figure(f"{name}: the same span by hand", "µs", columns, hand, of=of),
        figure(f"{name}: nodespan / by hand", "x", columns, ratio(added("nodespan", "bare"), hand), "<= 1.3", of),
    ]


class Kept(Counting):
    """Keeps the last span."""

    span: ReadableSpan

    def on_end(self, span: ReadableSpan) -> None:
        """See ``SpanProcessor``."""
        self.span = span


def around(call: Callable[[], Any], tracer: trace.Tracer, span: ReadableSpan) -> Callable[[], Any]:
    """The call with a span of the same name, kind and attributes around it."""
    attributes = dict(span.attributes or {})

    def wrapped() -> Any:
        by_hand = tracer.start_span(span.name, kind=span.kind, attributes=attributes)
        token = context.attach(trace.set_span_in_context(by_hand))
        try:
            return call()
        finally:
            with suppress(ValueError):
                context.detach(token)
            by_hand.end()

    return wrapped


def us_per_call(call: Callable[[], Any]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - started) / CALLS * 1e6
