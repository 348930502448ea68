"""A service: 32 concurrent runs of a graph with six nodes, each of which calls a chat model that only waits.

Requires langgraph, the SDK, the OTLP exporter and the measured library. Arguments: library, form, endpoint. For each
line of its input it runs 160 requests, exports their spans and prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, StateGraph

NODES = 6
AT_ONCE = 32
REQUESTS = 160
WORDS = 16
WAIT_S = 0.005
PEERS = {
    "OpenLLMetry": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "OpenInference": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
}
USAGE = {"input_tokens": 12, "output_tokens": WORDS, "total_tokens": 12 + WORDS}


class Model(BaseChatModel):
    """Returns an answer after a delay, as a remote model does."""

    model: str = "fake-1"
    temperature: float = 0.0
    max_tokens: int = 100

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        await asyncio.sleep(WAIT_S)
        message = AIMessage("word " * WORDS, usage_metadata=USAGE)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        await asyncio.sleep(WAIT_S)
        for _word in range(WORDS):
            yield ChatGenerationChunk(message=AIMessageChunk("word "))
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=USAGE))


class State(TypedDict):
    """The state of the nodes."""

    text: str


def service() -> Any:
    """The graph of the service."""
    model = Model()

    async def ask(state: State) -> dict[str, str]:
        answer = await model.ainvoke(state["text"])
        return {"text": str(answer.content)[:40]}

    builder = StateGraph(State)
    names = [f"node{i}" for i in range(NODES)]
    for before, name in zip([START, *names], names, strict=False):
        builder.add_node(name, ask)
        builder.add_edge(before, name)
    return builder.compile(name="service")


def switch_on(library: str, form: str, endpoint: str) -> Callable[[], object]:
    """Enables the library, with export to the endpoint. Returns the function that flushes."""
    if library == "none":
        return lambda: None
    if library == "nodespan":
        import nodespan

        if form == "plain":
            os.environ["OTEL_METRICS_EXPORTER"] = "none"
        telemetry = nodespan.configure("service", endpoint=endpoint)
        nodespan.instrument(llama_cpp=False)
        return telemetry.force_flush
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=1 << 16))
    module, kind = PEERS[library]
    getattr(importlib.import_module(module), kind)().instrument(tracer_provider=provider)
    return provider.force_flush


async def serve(graph: Any, form: str) -> list[float]:
    """Runs all requests; returns their durations in seconds."""
    times: list[float] = []
    waiting = iter(range(REQUESTS))

    async def client() -> None:
        for _ in waiting:
            started = time.perf_counter()
            if form == "plain":
                await graph.ainvoke({"text": "hello"})
            else:
                async for _chunk in graph.astream({"text": "hello"}, stream_mode="messages"):
                    pass
            times.append(time.perf_counter() - started)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return times


def main() -> None:
    library, form, endpoint = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # output of libraries is not a result
    flush = switch_on(library, form, endpoint)
    graph = service()
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        times = asyncio.run(serve(graph, form))
        wall = time.perf_counter() - wall
        flush()
        cpu = time.process_time() - cpu
        p99_s = sorted(times)[int(len(times) * 0.99) - 1]
        answer = {"cpu_ms": cpu / REQUESTS * 1e3, "per_s": REQUESTS / wall, "p99_ms": p99_s * 1e3}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
