"""What streaming costs: per chunk over the bare pipeline, and in tokens per second of a real model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import llama_cpp
import nodespan
from bench.graphs import asking, echo, smollm2, smollm2_path
from bench.measure import Figure, Size, added, figure, interleaved, median, percentile, ratio_of_rounds
from bench.receiver import Receiver
from nodespan import ChatMessage, ComposerService, GenerationRequest, ModelProfileType, Runner, WorkflowState
from nodespan.runner import Cancellation, GenerationResult
from nodespan.testing import EchoPipeline

TITLE = "Streaming, with all telemetry on and a collector that accepts it"
ECHO_ROUNDS = {"quick": 2, "normal": 40, "full": 150}
MODEL_ROUNDS = {"quick": 1, "normal": 16, "full": 60}
WORDS = 2000
TOKENS = {"quick": 8, "normal": 128, "full": 128}
QUESTION = "Tell me a long story about a lighthouse keeper and the sea."


def run(size: Size) -> list[Figure]:
    loop = asyncio.new_event_loop()
    with Receiver() as receiver, nodespan.configure("bench", endpoint=receiver.endpoint):
        return [*per_chunk(loop, ECHO_ROUNDS[size]), *tokens_per_s(loop, MODEL_ROUNDS[size], TOKENS[size])]


def per_chunk(loop: asyncio.AbstractEventLoop, rounds: int) -> list[Figure]:
    """A pipeline without work, read directly and through the Runner."""
    request = GenerationRequest(messages=(ChatMessage(role="user", content="Hello"),))
    with echo(WORDS) as factory:
        profile = factory.profile(ModelProfileType.Primary)
        bare, runner = EchoPipeline(profile), Runner(factory)

        def read_bare() -> None:
            for _ in bare.generate(request, Cancellation(), GenerationResult()):
                pass

        def read_sync() -> None:
            for _ in runner.stream_pipeline(request):
                pass

        async def read_async() -> None:
            async for _ in runner.stream_pipeline(request):
                pass

        variants: dict[str, Callable[[], None]] = {
            "bare": read_bare,
            "sync": instrumented(read_sync),
            "async": instrumented(lambda: loop.run_until_complete(read_async())),
        }
        columns = interleaved({name: us_per(WORDS, read) for name, read in variants.items()}, rounds)
    of = f"{WORDS} chunks"
    return [
        figure("bare EchoPipeline", "µs/chunk", columns, median("bare"), of=of),
        *(
            figure(f"added by stream_pipeline, {mode}", "µs/chunk", columns, added(mode, "bare"), "<= 50", of)
            for mode in ("sync", "async")
        ),
    ]


def tokens_per_s(loop: asyncio.AbstractEventLoop, rounds: int, tokens: int) -> list[Figure]:
    """The same answer of the same model: by llama-cpp-python, by the Runner, and by a graph and its event stream."""
    bare = llama_cpp.Llama(model_path=str(smollm2_path()), n_ctx=1024, verbose=False)
    request = GenerationRequest(messages=(ChatMessage(role="user", content=QUESTION),))
    with smollm2(tokens) as factory:
        runner, composer, graph = Runner(factory), ComposerService(), asking(factory)

        def read_bare() -> str:
            messages: Any = [{"role": "user", "content": QUESTION}]
            chunks: Any = bare.create_chat_completion(messages, stream=True, max_tokens=tokens, temperature=0.0, seed=1)
            return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

        async def read_runner() -> str:
            return "".join([chunk.content async for chunk in runner.stream_pipeline(request)])

        async def read_graph() -> str:
            events = composer.execute_workflow(graph, WorkflowState.from_prompt(QUESTION))
            texts = [event["data"]["content"] async for event in events if event["event"] == "on_custom_event"]
            return "".join(texts)

        variants: dict[str, Callable[[], str]] = {
            "bare": read_bare,
            "runner": instrumented(lambda: loop.run_until_complete(read_runner())),
            "graph": instrumented(lambda: loop.run_until_complete(read_graph())),
        }
        texts = {read() for read in variants.values()}
        assert len(texts) == 1, f"the answers differ: {texts}"
        s_per_token = {name: us_per(tokens, read) for name, read in variants.items()}
        columns = interleaved(
            {name: lambda measure=measure: 1e6 / measure() for name, measure in s_per_token.items()}, rounds
        )
        lags = {"lag": [loop.run_until_complete(lags_ms(read_runner)) for _ in range(len(columns["bare"]))]}
    of = f"{tokens} tokens of SmolLM2-135M, the same text for all"
    return [
        figure("bare llama-cpp-python", "tokens/s", columns, median("bare"), of=of),
        figure("Runner / bare", "x", columns, ratio_of_rounds("runner", "bare"), ">= 0.99", of),
        figure("execute_workflow / bare", "x", columns, ratio_of_rounds("graph", "bare"), ">= 0.99", of),
        figure("lag of the event loop while tokens stream, p99", "ms", lags, p99_of_all("lag"), "<= 10", of),
    ]


async def lags_ms(read: Callable[[], Coroutine[Any, Any, Any]]) -> list[float]:
    """How late the event loop wakes a task that repeatedly sleeps for 1 ms, until the answer was read."""
    lags: list[float] = []
    reading = asyncio.create_task(read())
    while not reading.done():
        asked_at = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - asked_at) * 1e3 - 1)
    return lags


def p99_of_all(column: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda columns: percentile([each for once in columns[column] for each in once], 99)


def us_per(pieces: int, read: Callable[[], Any]) -> Callable[[], float]:
    def once() -> float:
        started = time.perf_counter()
        read()
        return (time.perf_counter() - started) / pieces * 1e6

    return once


def instrumented(read: Callable[[], Any]) -> Callable[[], Any]:
    """Reads while the libraries are instrumented."""

    def once() -> Any:
        nodespan.instrument()
        try:
            return read()
        finally:
            nodespan.uninstrument()

    return once
