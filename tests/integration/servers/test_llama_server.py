"""OpenAICompatiblePipeline on a true llama-server: facts, spans, queue, cancellation, deaths, failover."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from inline_snapshot import snapshot
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from llama_server import LlamaServer
from measured import Measured
from nodespan import semconv
from nodespan.errors import ServerError
from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.testing import span_tree
from nodespan.types import GenerationRequest, ModelProfile, ModelProfileType
from pipelines import chat, raw, wait_for

STORY = "Once upon a time there was a ship, and the sea around it was"
ENDLESS = {"ignore_eos": True}
"""Of llama-server: an answer does not end by itself before ``max_tokens``."""


def long_answer(**sampling: Any) -> GenerationRequest:
    """A request whose answer takes many seconds."""
    return chat(STORY, max_tokens=900, **sampling).model_copy(update={"options": ENDLESS})


def profile_of(*servers: LlamaServer, **more: Any) -> ModelProfile:
    return ModelProfile(base_url=tuple(server.url for server in servers), name="smol", **more)


@pytest.fixture
def factory(llama_server: LlamaServer) -> Iterator[PipelineFactory]:
    with PipelineFactory({ModelProfileType.Primary: profile_of(llama_server)}) as factory:
        yield factory


@pytest.fixture
def runner(factory: PipelineFactory, tracer_provider: TracerProvider, measured: Measured) -> Runner:
    return Runner(factory, tracer_provider=tracer_provider, meter_provider=measured.provider)


def text_of(stream: PipelineStream) -> str:
    return "".join(chunk.content for chunk in stream)


def post(server: LlamaServer, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{server.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_stream_has_the_text_and_the_counts_of_the_whole_answer(llama_server: LlamaServer, runner: Runner) -> None:
    for asked, path, more in (
        (chat(STORY, seed=1, temperature=0.0, max_tokens=12), "/chat/completions",
         {"messages": [{"role": "user", "content": STORY}]}),
        (raw(STORY, seed=1, temperature=0.0, max_tokens=12), "/completions", {"prompt": STORY}),
    ):  # fmt: skip
        whole = post(llama_server, path, {"seed": 1, "temperature": 0.0, "max_tokens": 12, **more})
        stream = runner.stream_pipeline(asked)
        text, choice = text_of(stream), whole["choices"][0]
        assert text == (choice["message"]["content"] if "message" in choice else choice["text"])
        assert stream.metadata is not None
        assert stream.metadata.input_tokens == whole["usage"]["prompt_tokens"]
        assert stream.metadata.output_tokens == whole["usage"]["completion_tokens"]
        assert stream.metadata.finish_reason == "length"
        assert stream.metadata.tokens_estimated is None


def test_the_tree_equals_that_of_a_model_in_process_with_the_server_s_queue(
    llama_server: LlamaServer, runner: Runner, exporter: InMemorySpanExporter, measured: Measured
) -> None:
    stream = runner.stream_pipeline(chat(STORY, seed=1, max_tokens=8))
    text_of(stream)
    tree = span_tree(exporter, "gen_ai.provider.name", "nodespan.server.dialect", "nodespan.evaluated_tokens")
    (root,) = tree
    prefill = root["children"][3]["attributes"].pop("nodespan.evaluated_tokens")
    assert tree == snapshot(
        [
            {
                "name": "chat smol",
                "attributes": {"gen_ai.provider.name": "llama_cpp", "nodespan.server.dialect": "llama-server"},
                "children": [
                    {"name": "pipeline.queue"},
                    {"name": "pipeline.load"},
                    {"name": "server.queue"},
                    {"name": "llama_cpp.prefill", "attributes": {}},
                    {"name": "llama_cpp.decode", "attributes": {"nodespan.evaluated_tokens": 7}},
                ],
            }
        ]
    )
    (span,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    attributes, metadata = dict(span.attributes or {}), stream.metadata
    assert metadata is not None
    assert metadata.model_provider == "LLAMA_CPP"
    assert prefill + (metadata.cached_input_tokens or 0) == metadata.input_tokens
    assert span.kind is SpanKind.CLIENT
    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", llama_server.port)
    for key in ("server_queue_s", "prompt_eval_s", "decode_s", "tokens_per_s", "time_to_first_token_s"):
        assert attributes[f"nodespan.{key}"] == getattr(metadata, key) > 0
    assert attributes["gen_ai.response.id"].startswith("chatcmpl")
    assert measured.of(semconv.PREFILL_DURATION, semconv.REQUEST_MODEL) == {"smol": (metadata.prompt_eval_s, 1)}
    assert measured.of(semconv.CONTEXT_UTILIZATION, semconv.REQUEST_MODEL)["smol"][1] == 1


def test_children_lie_within_the_request_and_their_sum_is_its_time(
    runner: Runner, exporter: InMemorySpanExporter
) -> None:
    text_of(runner.stream_pipeline(chat("warm", max_tokens=1)))
    exporter.clear()
    text_of(runner.stream_pipeline(chat(STORY * 5, seed=1, max_tokens=40)))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    parent = spans.pop("chat smol")
    assert list(spans) == ["pipeline.queue", "server.queue", "llama_cpp.prefill", "llama_cpp.decode"]
    assert parent.start_time is not None
    assert parent.end_time is not None
    total = 0
    for span in spans.values():
        assert span.start_time is not None
        assert span.end_time is not None
        assert parent.start_time <= span.start_time <= span.end_time <= parent.end_time + 1_000_000
        total += span.end_time - span.start_time
    wall = parent.end_time - parent.start_time
    assert abs(wall - total) <= max(0.02e9, 0.02 * wall)
    other_s = (parent.attributes or {})["nodespan.server.other_s"]
    assert other_s == pytest.approx((wall - total) / 1e9, abs=0.01)


def test_the_servers_queue_is_separate_from_nodespan_s(
    llama_server: LlamaServer, tracer_provider: TracerProvider
) -> None:
    """Three requests at once on a server of two slots: one waits there. With two at once it waits here."""
    for at_once, waits in ((3, "server_queue_s"), (2, "queue_s")):
        profile = profile_of(llama_server, max_concurrency=at_once)
        with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
            runner = Runner(factory)
            streams = [runner.stream_pipeline(chat(f"{number} {STORY}", max_tokens=30)) for number in range(3)]
            for stream in streams:
                text_of(stream)
        waited = sorted(getattr(stream.metadata, waits) for stream in streams)
        assert waited[-1] > 0.2 > waited[0] + 0.05, (waits, waited)


def test_by_default_as_many_run_at_once_as_the_server_has_slots(llama_server: LlamaServer, runner: Runner) -> None:
    streams = [runner.stream_pipeline(chat(f"{number} {STORY}", max_tokens=40)) for number in range(4)]
    most = 0
    while not all(stream.metadata for stream in streams):
        most = max(most, llama_server.busy())
        time.sleep(0.01)
    assert most == 2
    assert all(stream.metadata and (stream.metadata.server_queue_s or 0) < 0.2 for stream in streams)


@pytest.mark.parametrize("read", [0, 3])
def test_closing_a_stream_frees_the_servers_slot(llama_server: LlamaServer, runner: Runner, read: int) -> None:
    text_of(runner.stream_pipeline(chat("warm", max_tokens=1)))
    stream = runner.stream_pipeline(long_answer())
    wait_for(lambda: llama_server.busy() == 1)
    for _ in range(read):
        next(stream)
    left_at = time.monotonic()
    stream.close()
    assert time.monotonic() - left_at < 1.0
    wait_for(lambda: llama_server.busy() == 0)
    assert time.monotonic() - left_at < 3.0
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "cancelled"


def test_a_deadline_frees_the_servers_slot(llama_server: LlamaServer, runner: Runner) -> None:
    stream = runner.stream_pipeline(long_answer(), deadline_s=0.5)
    with pytest.raises(TimeoutError):
        text_of(stream)
    wait_for(lambda: llama_server.busy() == 0)


def test_tokens_of_an_abandoned_stream_are_the_received_ones(runner: Runner) -> None:
    stream = runner.stream_pipeline(long_answer(seed=1))
    for _ in range(5):
        next(stream)
    stream.close()
    chunks = 5 + len(list(stream))
    assert stream.metadata is not None
    assert stream.metadata.output_tokens is not None
    assert chunks <= stream.metadata.output_tokens <= chunks + 3


def test_an_error_of_the_server_is_raised_in_the_reader_with_its_status(
    runner: Runner, exporter: InMemorySpanExporter
) -> None:
    asked = GenerationRequest(messages=[{"role": "user", "content": "a"}], options={"grammar": "not a grammar ("})
    with pytest.raises(ServerError, match="400") as raised:
        text_of(runner.stream_pipeline(asked))
    assert raised.value.status == 400
    (span,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert (span.attributes or {})["error.type"] == "400"


def test_a_prompt_longer_than_the_context_raises_the_error_of_the_server(runner: Runner) -> None:
    with pytest.raises(ServerError, match="exceed"):
        text_of(runner.stream_pipeline(raw(STORY * 200)))
    assert text_of(runner.stream_pipeline(raw("The sea", max_tokens=3)))


def test_tools_formats_and_log_probabilities_are_supported(runner: Runner) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    request = GenerationRequest(
        messages=[{"role": "user", "content": "Give a number."}],
        response_format={"type": "json_object", "schema": schema},
        options={"logprobs": True, "top_logprobs": 2},
        sampling={"seed": 1, "max_tokens": 40},
    )
    stream = runner.stream_pipeline(request)
    assert isinstance(json.loads(text_of(stream))["n"], int)
    assert stream.logprobs[0]["content"][0]["top_logprobs"]


def test_a_server_killed_amid_an_answer_and_started_again(smollm2: Path, tmp_path: Path) -> None:
    server = LlamaServer(smollm2, tmp_path)
    with server, PipelineFactory({ModelProfileType.Primary: profile_of(server)}) as factory:
        runner = Runner(factory)
        stream = runner.stream_pipeline(long_answer())
        assert next(stream).content
        server.kill()
        with pytest.raises((httpx.TransportError, ServerError)):
            text_of(stream)
        assert stream.metadata is not None
        assert stream.metadata.finish_reason == "error"
        assert (stream.metadata.output_tokens or 0) > 0
        with pytest.raises(httpx.ConnectError):
            text_of(runner.stream_pipeline(chat(STORY, max_tokens=3)))
        server.start()
        assert text_of(runner.stream_pipeline(chat(STORY, max_tokens=3)))


@pytest.mark.extended
def test_two_servers_behind_one_profile_share_the_load_and_fail_over(
    smollm2: Path, tmp_path: Path, tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    first, second = (LlamaServer(smollm2, tmp_path, slots=1) for _ in range(2))
    with first, second, PipelineFactory({ModelProfileType.Primary: profile_of(first, second)}) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider)
        streams = [runner.stream_pipeline(chat(f"{number} {STORY}", max_tokens=30)) for number in range(2)]
        wait_for(lambda: first.busy() == second.busy() == 1)
        for stream in streams:
            text_of(stream)
        first.kill()
        exporter.clear()
        for _ in range(3):
            assert text_of(runner.stream_pipeline(chat(STORY, max_tokens=3)))
    ports = {(span.attributes or {}).get("server.port") for span in exporter.get_finished_spans() if not span.parent}
    assert ports == {second.port}
