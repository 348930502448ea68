"""Each dialect, as ``nodespan.testing.FakeServer`` plays it: requests, measurements and failures."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_calls import text_of, the_span
from nodespan.engine.contract import Cancellation, GenerationResult
from nodespan.errors import ConfigurationError, MissingDependencyError, ServerError
from nodespan.runner import OpenAICompatiblePipeline, PipelineFactory, PipelineStream
from nodespan.testing import FakeServer, servers
from nodespan.types import ChatMessage, GenerationRequest, ModelProfile, ModelProfileType, Sampling
from pipelines import chat, raw, wait_for

KINDS = ["llama-server", "llama-cpp-python", "ollama", "vllm", "sglang", "openai"]
Ask = Callable[..., PipelineStream]


def children(exporter: InMemorySpanExporter) -> list[str]:
    ours = {"pipeline.queue", "pipeline.load"}
    return [s.name for s in exporter.get_finished_spans() if not s.name.endswith(" m") and s.name not in ours]


@pytest.mark.parametrize("ask", [chat, raw])
@pytest.mark.parametrize("kind", KINDS)
def test_a_dialect_is_detected_and_its_measurements_are_recorded(
    kind: Any, ask: Any, run: Callable[..., Ask], exporter: InMemorySpanExporter
) -> None:
    with FakeServer(kind, delay_s=0.01, queue_s=0.03) as server:
        stream = run(server)(ask("what is the sea"))
        assert text_of(stream) == "The sea is wide."
    metadata = stream.metadata
    assert metadata is not None
    providers = {"ollama": "OLLAMA", "vllm": "VLLM", "sglang": "SGLANG", "openai": "OPENAI_COMPATIBLE"}
    assert metadata.model_provider == providers.get(kind, "LLAMA_CPP")
    assert (metadata.input_tokens, metadata.output_tokens) == (4, 4)
    assert metadata.tokens_estimated is (True if kind == "llama-cpp-python" else None)
    assert metadata.finish_reason == "stop"
    reported = {
        "llama-server": ["server.queue", "llama_cpp.prefill", "llama_cpp.decode"],
        "ollama": ["server.load", "llama_cpp.prefill", "llama_cpp.decode"],
    }
    assert children(exporter) == reported.get(kind, [])
    assert (metadata.server_queue_s is not None) == (kind == "llama-server")
    assert (metadata.decode_s is not None) == (kind in reported)
    if metadata.server_queue_s is not None:
        assert 0.03 <= metadata.server_queue_s < 0.2
    assert (the_span(exporter).attributes["nodespan.server.dialect"]) == kind
    assert ("nodespan.server.other_s" in the_span(exporter).attributes) == (kind in reported)


def test_an_sglang_with_the_former_path_of_model_info_is_detected(
    run: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(servers._PATHS, "sglang", ("/get_model_info", {"model_path": "model"}))  # type: ignore[index]
    with FakeServer("sglang") as server:
        stream = run(server)(chat("a"))
        text_of(stream)
    assert stream.metadata is not None
    assert stream.metadata.model_provider == "SGLANG"


def test_a_named_dialect_is_not_probed_for(run: Callable[..., Ask]) -> None:
    with FakeServer("openai") as server:
        text_of(run(server, dialect="vllm")(chat("a")))
    assert [one.path for one in server.probes] == ["/props"]
    assert server.received[0].body["stream_options"]["continuous_usage_stats"] is True


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama-server"])
def test_an_abandoned_stream_has_the_received_tokens(kind: Any, run: Callable[..., Ask]) -> None:
    with FakeServer(kind, words=("a ",) * 500, delay_s=0.005) as server:
        stream = run(server)(chat("a"))
        for _ in range(3):
            next(stream)
        stream.close()
        read = 3 + len(list(stream))
        assert stream.metadata is not None
        assert stream.metadata.output_tokens is not None
        assert read <= stream.metadata.output_tokens <= read + 1
        wait_for(lambda: server.left == 1)


def test_sampling_and_requests_have_the_names_of_the_dialect(run: Callable[..., Ask]) -> None:
    sampling: dict[str, Any] = {"max_tokens": 5, "repeat_penalty": 1.1, "stop": ("q",), "seed": 3}
    bodies = {}
    for kind in ("llama-server", "vllm", "ollama"):
        with FakeServer(kind) as server:  # type: ignore[arg-type]
            text_of(run(server, sampling=Sampling(temperature=0.5))(chat("a", **sampling)))
        bodies[kind] = server.received[0].body
    assert bodies["llama-server"] == {
        "model": "m",
        "stream": True,
        "messages": [{"role": "user", "content": "a"}],
        "temperature": 0.5,
        **sampling,
        "stop": ["q"],
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "timings_per_token": True,
    }
    assert bodies["vllm"]["repetition_penalty"] == 1.1
    options = {"temperature": 0.5, "num_predict": 5, "repeat_penalty": 1.1, "stop": ["q"], "seed": 3}
    assert bodies["ollama"]["options"] == options


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_tools_and_their_results_are_sent(kind: Any, run: Callable[..., Ask]) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    request = GenerationRequest(
        messages=(
            ChatMessage(role="user", content="Add."),
            ChatMessage(role="assistant", content="", tool_calls=(called,)),
            ChatMessage(role="tool", content="2", tool_call_id="c1"),
        ),
        tools=(tool,),
    )
    with FakeServer(kind, tool_call=("add", {"a": 2})) as server:
        stream = run(server)(request)
        assert text_of(stream) == ""
    (call,) = stream.tool_calls
    assert (call.name, call.arguments) == ("add", '{"a": 2}')
    body = server.received[0].body
    assert body["tools"] == [tool]
    arguments = body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == ({"a": 1} if kind == "ollama" else '{"a": 1}')


@pytest.mark.parametrize("kind", KINDS)
def test_reasoning_is_on_the_stream_and_not_in_the_answer(kind: Any, run: Callable[..., Ask]) -> None:
    with FakeServer(kind, reasoning="The sea is large.", delay_s=0.01) as server:
        stream = run(server)(chat("a"))
        assert text_of(stream) == "The sea is wide."
    assert stream.reasoning == "The sea is large."
    assert stream.metadata is not None
    assert stream.metadata.time_to_first_token_s is not None


def test_formats_and_images_have_ollamas_names(run: Callable[..., Ask]) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    message = ChatMessage(role="user", content="", parts=({"type": "text", "text": "What is it?"}, image))
    formats: list[dict[str, Any]] = [
        {"type": "json_object"},
        {"type": "json_object", "schema": schema},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    ]
    with FakeServer("ollama") as server:
        ask = run(server)
        for response_format in formats:
            text_of(ask(GenerationRequest(messages=(message,), response_format=response_format)))
        with pytest.raises(ConfigurationError, match="data URLs"):
            linked = {"type": "image_url", "image_url": {"url": "http://a.example/a.png"}}
            text_of(ask(GenerationRequest(messages=(message.model_copy(update={"parts": (linked,)}),))))
    assert [one.body["format"] for one in server.received] == ["json", schema, schema]
    assert server.received[0].body["messages"] == [{"role": "user", "content": "What is it?", "images": ["aGk="]}]


def test_a_field_set_to_none_is_not_sent(run: Callable[..., Ask]) -> None:
    with FakeServer("openai") as server:
        stream = run(server, options={"stream_options": None, "user": "u1"})(chat("a"))
        text_of(stream)
    assert "stream_options" not in server.received[0].body
    assert server.received[0].body["user"] == "u1"
    assert stream.metadata is not None
    assert stream.metadata.output_tokens is None  # the server reports none, and none is guessed


@pytest.mark.parametrize("kind", KINDS)
def test_an_incomplete_answer_is_an_error_after_its_text(kind: Any, run: Callable[..., Ask]) -> None:
    with FakeServer(kind, cut_after=2) as server:
        stream = run(server)(chat("a"))
        assert (next(stream).content, next(stream).content) == ("The", " sea")
        with pytest.raises((httpx.TransportError, ServerError)):
            next(stream)
        server.cut_after = None
        assert text_of(run(server)(chat("a"))) == "The sea is wide."
    assert len(server.received) == 2  # not repeated after the first byte


class Breaking(socketserver.StreamRequestHandler):
    """Answers with one part of an event, and closes the connection."""

    requests = 0

    def handle(self) -> None:
        header = b""
        while not header.endswith(b"\r\n\r\n"):
            header += self.rfile.readline()
        if not header.startswith(b"POST"):
            self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        type(self).requests += 1
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"6\r\ndata: \r\n")


def test_a_request_is_not_repeated_after_a_part_of_the_first_event(run: Callable[..., Ask]) -> None:
    Breaking.requests = 0
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(httpx.TransportError):
            text_of(run(base_url=f"http://127.0.0.1:{server.server_address[1]}/v1")(chat("a")))
        server.shutdown()
    assert Breaking.requests == 1


def test_a_server_that_could_not_be_reached_is_used_last_for_a_while(run: Callable[..., Ask]) -> None:
    with FakeServer("openai", cut_after=0) as broken, FakeServer("openai") as sound:
        ask = run(broken, sound)
        for _ in range(3):
            assert text_of(ask(chat("a"))) == "The sea is wide."
        assert (len(broken.received), len(sound.received)) == (1, 3)


def test_an_address_in_a_private_network_is_not_requested_through_a_proxy(
    run: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer("openai") as proxy, FakeServer("vllm") as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        stream = run(server)(chat("a"))
        assert text_of(stream) == "The sea is wide."
        assert proxy.received == proxy.probes == []


def test_an_error_amid_an_answer_is_raised_with_its_status(
    run: Callable[..., Ask], exporter: InMemorySpanExporter
) -> None:
    with (
        FakeServer("llama-server", error_amid=2) as server,
        pytest.raises(ServerError, match="out of memory") as raised,
    ):
        text_of(run(server)(chat("a")))
    assert raised.value.status == 500
    assert the_span(exporter).attributes["error.type"] == "500"


@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (429, 3), (500, 1), (400, 1)])
def test_a_request_is_repeated_to_a_busy_server_and_not_after_an_error(
    status: int, attempts: int, run: Callable[..., Ask], exporter: InMemorySpanExporter
) -> None:
    with FakeServer("openai", status=status, error_body='{"error": {"message": "why"}}') as server:
        with pytest.raises(ServerError, match=rf"{status}.*why"):
            text_of(run(server)(chat("a")))
        assert len(server.received) == attempts
        assert the_span(exporter).attributes["error.type"] == str(status)
        server.failures = attempts - 1
        assert text_of(run(server)(chat("a"))) == "The sea is wide."


def test_failed_attempts_are_in_the_time_outside_of_the_phases(
    run: Callable[..., Ask], exporter: InMemorySpanExporter
) -> None:
    with FakeServer("llama-server", delay_s=0.01, status=503, failures=1) as server:
        text_of(run(server)(chat("a")))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    times = {name: ((span.end_time or 0) - (span.start_time or 0)) / 1e9 for name, span in spans.items()}
    other_s = (spans["chat m"].attributes or {})["nodespan.server.other_s"]
    assert other_s > 0.25  # the pause before the second attempt
    whole_s = times.pop("chat m")
    assert other_s + sum(times.values()) == pytest.approx(whole_s, abs=0.05)


def test_a_request_to_a_busy_server_is_sent_to_another(run: Callable[..., Ask], exporter: InMemorySpanExporter) -> None:
    with FakeServer("vllm", status=503) as busy, FakeServer("vllm") as free:
        stream = run(busy, free)(chat("a"))
        assert text_of(stream) == "The sea is wide."
        assert the_span(exporter).attributes["server.port"] == free.port
        assert (len(busy.received), len(free.received)) == (1, 1)


IMPORTS = """
import asyncio, sys
from nodespan.engine.contract import Cancellation, GenerationResult
from nodespan.runner import OpenAICompatiblePipeline
from nodespan.testing import FakeServer
from nodespan.types import GenerationRequest, ModelProfile

async def ask(pipeline):
    answer = pipeline.agenerate(GenerationRequest(prompt="a"), Cancellation(), GenerationResult())
    text = "".join([piece async for piece in answer])
    await pipeline.aclose()
    return text

with FakeServer("llama-server") as server:
    pipeline = OpenAICompatiblePipeline(ModelProfile(base_url=server.url, name="m"))
    before = set(sys.modules)
    text = asyncio.run(ask(pipeline))
    print([text, sorted(name for name in set(sys.modules) - before if not name.startswith("encodings"))])
"""


def test_the_first_request_imports_nothing_on_the_event_loop() -> None:
    """Else it would hold up every other request of the process, and be in none of its own phases."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "['The sea is wide.', []]", done.stderr


async def test_an_abandoned_stream_closes_its_generators() -> None:
    """An open one is closed by a later task, when its loop or its connection may be gone.

    Those inside of httpx are httpx's own: it closes the connection below them.
    """
    opened: list[Any] = []
    with FakeServer("openai") as server:
        pipeline = OpenAICompatiblePipeline(ModelProfile(base_url=server.url, name="m"))
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=opened.append)
        try:
            answer = pipeline.agenerate(GenerationRequest(prompt="a"), Cancellation(), GenerationResult())
            assert await anext(answer) == "The"
            await answer.aclose()
        finally:
            sys.set_asyncgen_hooks(*hooks)
        await pipeline.aclose()
    ours = [
        generator for generator in opened if generator.__qualname__.startswith(("Open", "objects", "Response.aiter_b"))
    ]
    assert len(ours) >= 3
    assert [generator for generator in ours if generator.ag_frame is not None] == []


def test_connections_are_used_again(run: Callable[..., Ask]) -> None:
    with FakeServer("openai") as server:
        ask = run(server)
        started = time.perf_counter()
        for _ in range(20):
            text_of(ask(chat("a")))
        assert time.perf_counter() - started < 5


def test_an_unreachable_server_is_an_error_of_the_request(run: Callable[..., Ask]) -> None:
    with FakeServer("openai") as server:
        ask = run(server)
    with pytest.raises(httpx.ConnectError):
        text_of(ask(chat("a")))


def test_without_httpx_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r'pip install "nodespan\[http\]"'):
        PipelineFactory({ModelProfileType.Primary: ModelProfile(base_url="http://127.0.0.1:1/v1", name="m")})
