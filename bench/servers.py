"""Models behind servers: the time added to httpx, and the errors of phases and counts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import nodespan
from bench.canned_server import CHUNKS
from bench.chunks import us_per
from bench.graphs import smollm2_path
from bench.measure import Figure, Size, added, figure, interleaved, median, ratio_of_rounds
from bench.receiver import Receiver
from nodespan import ChatMessage, GenerationRequest, ModelProfile, ModelProfileType, PipelineFactory, Runner, Sampling
from nodespan.engine.openai_compatible.bodies import body_of
from nodespan.engine.openai_compatible.dialects import LLAMA_SERVER

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from llama_server import LlamaServer

TITLE = "Models behind a server: llama-server with two slots, all telemetry on and a collector that accepts it"
ROUNDS = {"quick": 2, "normal": 60, "full": 150}
MODEL_ROUNDS = {"quick": 1, "normal": 16, "full": 40}
TOKENS = {"quick": 8, "normal": 96, "full": 96}
REQUESTS = {"quick": 4, "normal": 100, "full": 100}
PROMPTS = {"quick": 4, "normal": 200, "full": 200}
TOPICS = ("sea", "wind", "clock", "bread", "violin", "desert", "train", "lighthouse", "moon", "river")

_OF_ONE_CHARACTER = 4
"""Maximum number of tokens of an incomplete character."""


def run(size: Size) -> list[Figure]:
    loop = asyncio.new_event_loop()
    with Receiver() as receiver, nodespan.configure("bench", endpoint=receiver.endpoint):
        figures = per_chunk(loop, ROUNDS[size])
        with tempfile.TemporaryDirectory() as folder, LlamaServer(smollm2_path(), Path(folder)) as server:
            figures += tokens_per_s(loop, server, MODEL_ROUNDS[size], TOKENS[size])
            figures += phases(server, REQUESTS[size])
            figures += counts(server, PROMPTS[size])
        return figures


@contextmanager
def canned() -> Iterator[str]:
    """Address of a server in a separate process."""
    server = subprocess.Popen([sys.executable, "-m", "bench.canned_server"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def asked(text: str, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(messages=(ChatMessage(role="user", content=text),), sampling=Sampling(**sampling))


def factory_of(url: str, **more: Any) -> PipelineFactory:
    return PipelineFactory({ModelProfileType.Primary: ModelProfile(base_url=url, name="m", **more)})


async def read_bare(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> str:
    """Reads the stream without nodespan: lines, JSON, text."""
    texts: list[str] = []
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                texts += [choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"]]
    return "".join(texts)


async def read_runner(runner: Runner, request: GenerationRequest) -> str:
    return "".join([chunk.content async for chunk in runner.stream_pipeline(request)])


def variants(
    loop: asyncio.AbstractEventLoop,
    client: httpx.AsyncClient,
    factory: PipelineFactory,
    url: str,
    request: GenerationRequest,
) -> dict[str, Callable[[], str]]:
    body = body_of(factory.profile(ModelProfileType.Primary), request, LLAMA_SERVER)
    runner = Runner(factory)
    return {
        "bare": lambda: loop.run_until_complete(read_bare(client, url, body)),
        "runner": lambda: loop.run_until_complete(read_runner(runner, request)),
    }


def per_chunk(loop: asyncio.AbstractEventLoop, rounds: int) -> list[Figure]:
    client = httpx.AsyncClient(timeout=None, trust_env=False)
    with canned() as url, factory_of(url) as factory:
        both = variants(loop, client, factory, url, asked("Hello"))
        assert {read() for read in both.values()} == {" word" * CHUNKS}
        columns = interleaved({name: us_per(CHUNKS, read) for name, read in both.items()}, rounds)
        loop.run_until_complete(client.aclose())
    of = f"{CHUNKS} chunks of a recorded stream"
    return [
        figure("bare httpx", "µs/chunk", columns, median("bare"), of=of),
        figure("added by stream_pipeline", "µs/chunk", columns, added("runner", "bare"), "<= 30", of),
    ]


def tokens_per_s(loop: asyncio.AbstractEventLoop, server: LlamaServer, rounds: int, tokens: int) -> list[Figure]:
    client = httpx.AsyncClient(timeout=None, trust_env=False)
    request = asked("Tell me a long story about the sea.", max_tokens=tokens, temperature=0.0, seed=1)
    with factory_of(server.url) as factory:
        both = variants(loop, client, factory, server.url, request)
        assert len({read() for read in both.values()}) == 1
        s_per_token = {name: us_per(tokens, read) for name, read in both.items()}
        columns = interleaved({name: lambda each=each: 1e6 / each() for name, each in s_per_token.items()}, rounds)
        loop.run_until_complete(client.aclose())
    of = f"{tokens} tokens of SmolLM2-135M, the same text for both"
    return [
        figure("bare httpx", "tokens/s", columns, median("bare"), of=of),
        figure("stream_pipeline / bare httpx", "x", columns, ratio_of_rounds("runner", "bare"), ">= 0.99", of),
    ]


def phases(server: LlamaServer, requests: int) -> list[Figure]:
    """The sum of queue, load, server's queue, prefill and decode against the wall time, four at once on two slots."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with factory_of(server.url, max_concurrency=4) as factory:
        runner = Runner(factory, tracer_provider=provider)
        streams = [
            runner.stream_pipeline(asked(f"Write about the {TOPICS[number % 10]}, number {number}.", max_tokens=24))
            for number in range(requests)
        ]
        for stream in streams:
            list(stream)
    provider.shutdown()
    spans = exporter.get_finished_spans()
    walls = {span.context.span_id: _ns(span) for span in spans if span.parent is None}
    sums = dict.fromkeys(walls, 0)
    for span in spans:
        if span.parent is not None:
            sums[span.parent.span_id] += _ns(span)
    errors = [(abs(wall - sums[key]) / wall * 100, abs(wall - sums[key]) / 1e6) for key, wall in walls.items()]
    columns = {"percent": [percent for percent, _ in errors], "ms": [ms for _, ms in errors]}
    of = f"{requests} requests, four at once on two slots"
    return [
        figure("phases' sum against wall time, median error", "%", columns, median("percent"), "<= 1", of),
        figure("phases' sum against wall time, worst error", "ms", columns, lambda c: max(c["ms"]), "<= 20", of),
    ]


def counts(server: LlamaServer, prompts: int) -> list[Figure]:
    """Tokens of streams against the ``usage`` of the same request without streaming; and of abandoned streams."""
    different: list[float] = []
    left: list[float] = []
    with factory_of(server.url) as factory, httpx.Client(timeout=None, trust_env=False) as client:
        runner = Runner(factory)
        for number in range(prompts):
            request = asked(f"{TOPICS[number % 10]} {number}", max_tokens=4 + number % 7, temperature=0.0, seed=number)
            body = body_of(factory.profile(ModelProfileType.Primary), request, LLAMA_SERVER)
            usage = client.post(f"{server.url}/chat/completions", json={**body, "stream": False}).json()["usage"]
            stream = runner.stream_pipeline(request)
            list(stream)
            facts = stream.metadata
            assert facts is not None
            pair = (facts.input_tokens, facts.output_tokens)
            different.append(float(pair != (usage["prompt_tokens"], usage["completion_tokens"])))
            with runner.stream_pipeline(asked(f"{TOPICS[number % 10]} {number}", seed=number)) as cut:
                text = "".join(chunk.content for chunk, _ in zip(cut, range(1 + number % 3), strict=False))
            text += "".join(chunk.content for chunk in cut)
            assert cut.metadata is not None
            arrived = len(client.post(f"{server.url[:-3]}/tokenize", json={"content": text}).json()["tokens"])
            left.append(float(not arrived <= (cut.metadata.output_tokens or 0) <= arrived + _OF_ONE_CHARACTER))
    columns = {"different": different, "left": left}
    return [
        figure("streams whose counts differ from the server's usage", "streams", columns, lambda c: sum(c["different"]),
               "<= 0", f"{prompts} prompts"),
        figure("abandoned streams whose count differs from the received text", "streams", columns,
               lambda c: sum(c["left"]), "<= 0", f"{prompts} prompts, without incomplete characters"),
    ]  # fmt: skip


def _ns(span: ReadableSpan) -> int:
    return (span.end_time or 0) - (span.start_time or 0)
