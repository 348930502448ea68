"""The openai package: one span per chat completion, also beside other instrumentations; results do not change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from inline_snapshot import snapshot
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor as OfficialInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import nodespan
from measured import Measured
from nodespan import semconv
from nodespan.testing import FakeServer, span_tree

pytestmark = pytest.mark.usefixtures("all_traced")

QUESTION: Any = [{"role": "user", "content": "what is the sea"}]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer("llama-server") as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="sk-canary", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="m", messages=QUESTION, **more)


STREAMED: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "extra_body": {"timings_per_token": True},
}


def test_a_streamed_call_has_a_span_with_the_times_of_the_server(
    client: openai.OpenAI, server: FakeServer, exporter: InMemorySpanExporter, measured: Measured
) -> None:
    server.delay_s = 0.01
    stream = ask(client, temperature=0.5, **STREAMED)
    assert isinstance(stream, openai.Stream)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "The sea is wide."
    (root,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    attributes = dict(root.attributes or {})
    assert root.kind is SpanKind.CLIENT
    for name in ("nodespan.decode_s", "nodespan.tokens_per_s", "nodespan.time_to_first_token_s"):
        assert attributes.pop(name) > 0
    assert attributes.pop("gen_ai.response.time_to_first_chunk") > 0
    assert attributes.pop("nodespan.prompt_eval_s") >= 0
    assert attributes.pop("server.port") == server.port
    assert attributes == snapshot(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "llama_cpp",
            "gen_ai.request.model": "m",
            "server.address": "127.0.0.1",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.stream": True,
            "gen_ai.usage.input_tokens": 4,
            "gen_ai.usage.output_tokens": 4,
            "gen_ai.usage.cache_read.input_tokens": 1,
            "gen_ai.response.finish_reasons": ("stop",),
            "nodespan.chunks": 6,
            "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.response.model": "m",
            "nodespan.status": "ok",
        }
    )
    assert [span["name"] for span in span_tree(exporter)[0]["children"]] == ["llama_cpp.prefill", "llama_cpp.decode"]
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {"input": (4, 1), "output": (4, 1)}


def test_requests_do_not_change_except_for_the_trace_context(client: openai.OpenAI, server: FakeServer) -> None:
    list(ask(client, stream=True, extra_headers={"X-Mine": "1"}))
    nodespan.uninstrument()
    list(ask(client, stream=True, extra_headers={"X-Mine": "1"}))
    traced, bare = server.received
    assert traced.body == bare.body
    ours = {"traceparent", "user-agent"}
    assert {k: v for k, v in traced.headers.items() if k not in ours} == {
        k: v for k, v in bare.headers.items() if k not in ours
    }
    assert "traceparent" in traced.headers
    assert "traceparent" not in bare.headers


def test_without_usage_in_the_stream_there_is_none_on_the_span(
    client: openai.OpenAI, exporter: InMemorySpanExporter
) -> None:
    list(ask(client, stream=True))
    (root,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert semconv.USAGE_OUTPUT_TOKENS not in (root.attributes or {})


def test_an_asynchronous_stream_and_its_early_end(server: FakeServer, exporter: InMemorySpanExporter) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
            whole = await client.chat.completions.create(model="m", messages=QUESTION, **STREAMED)
            assert len([chunk async for chunk in whole]) == 6
            async with await client.chat.completions.create(model="m", messages=QUESTION, **STREAMED) as left:
                async for _ in left:
                    break

    asyncio.run(run())
    assert [span["attributes"] for span in span_tree(exporter, "nodespan.status") if span["name"] == "chat m"] == [
        {"nodespan.status": "ok"},
        {"nodespan.status": "cancelled"},
    ]


def test_an_error_of_the_server_is_passed_on_and_has_its_status(
    client: openai.OpenAI, server: FakeServer, exporter: InMemorySpanExporter
) -> None:
    server.status = 429
    with pytest.raises(openai.RateLimitError):
        ask(client)
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "429"
    assert span.status.status_code.name == "ERROR"


def test_the_server_continues_the_trace(
    client: openai.OpenAI, server: FakeServer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(ask(client, stream=True))
    (root,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert f"{root.context.trace_id:032x}-{root.context.span_id:016x}" in server.received[0].headers["traceparent"]
    monkeypatch.setenv("NODESPAN_PROPAGATE_HOSTS", "")
    list(ask(client, stream=True))
    assert "traceparent" not in server.received[1].headers


def test_content_is_captured_only_if_enabled(
    client: openai.OpenAI, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(ask(client, stream=True))
    assert "wide" not in str([span.to_json() for span in exporter.get_finished_spans()])
    exporter.clear()
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    list(ask(client, stream=True))
    (root,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert "The sea is wide." in str((root.attributes or {})["gen_ai.output.messages"])
    assert "what is the sea" in str((root.attributes or {})["gen_ai.input.messages"])
    assert "canary" not in str(root.to_json())


def test_beside_the_instrumentation_of_httpx_there_is_one_model_span(
    client: openai.OpenAI, tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    HTTPXClientInstrumentor().instrument(tracer_provider=tracer_provider)
    try:
        list(ask(client, stream=True))
    finally:
        HTTPXClientInstrumentor().uninstrument()
    assert [span.name for span in exporter.get_finished_spans()].count("chat m") == 1


@pytest.mark.parametrize("order", ["theirs inside", "theirs outside"])
def test_beside_the_official_instrumentation_there_is_one_model_span(
    order: str, server: FakeServer, tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    nodespan.uninstrument()
    official = OfficialInstrumentor()
    if order == "theirs outside":
        nodespan.instrument(tracer_provider=tracer_provider)
    official.instrument(tracer_provider=tracer_provider)
    nodespan.instrument(tracer_provider=tracer_provider)
    try:
        with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
            list(ask(client, **STREAMED))
    finally:
        official.uninstrument()
    spans = [span for span in exporter.get_finished_spans() if span.name == "chat m"]
    assert len(spans) == 1
    if order == "theirs outside":
        assert (spans[0].attributes or {})["nodespan.decode_s"] > 0


def test_a_pipeline_of_a_runner_has_no_span_of_the_openai_package(
    server: FakeServer, tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    from nodespan import GenerationRequest, ModelProfile, ModelProfileType, PipelineFactory, Runner

    profile = ModelProfile(base_url=server.url, name="m")
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        list(Runner(factory, tracer_provider=tracer_provider).stream_pipeline(GenerationRequest(prompt="a")))
    assert [span.kind for span in exporter.get_finished_spans()].count(SpanKind.CLIENT) == 1


def test_a_suppressed_call_is_not_recorded(
    client: openai.OpenAI, server: FakeServer, exporter: InMemorySpanExporter, measured: Measured
) -> None:
    async def ask_async() -> Any:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as other:
            stream = await other.chat.completions.create(model="m", messages=QUESTION, **STREAMED)
            return [chunk async for chunk in stream]

    with suppress_instrumentation():
        stream = ask(client, **STREAMED)
        assert asyncio.run(ask_async())
    assert list(stream)
    assert exporter.get_finished_spans() == ()
    assert not any(measured.points().values())
