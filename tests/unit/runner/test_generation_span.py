"""The span of a generation and its children: names, parents, numbers, status; exactly one, ended once."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from inline_snapshot import snapshot
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from nodespan.engine.generation_span import GenerationSpan
from nodespan.errors import DeadlineExceededError
from nodespan.runner import Cancellation, GenerationResult, PipelineFactory, PipelineStream, Runner
from nodespan.spans.scope import SpanScope, current_scope
from nodespan.testing import EchoPipeline, span_tree
from nodespan.types import GenerationRequest, ModelProfile, ModelProfileType, Sampling
from pipelines import Stage, chat, raw, wait_for

Ask = Callable[..., PipelineStream]
ENGINE = {"engine": "llama_cpp"}
PROFILE = ModelProfile(name="echo", options=ENGINE, sampling=Sampling(temperature=0.5, top_p=0.9))


@pytest.fixture
def ask(tracer_provider: TracerProvider) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=EchoPipeline) as factory:
        yield Runner(factory, tracer_provider=tracer_provider).stream_pipeline


@pytest.fixture
def play(stage: Stage, tracer_provider: TracerProvider) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=stage.create) as factory:
        yield Runner(factory, tracer_provider=tracer_provider).stream_pipeline


def spans_by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    assert len({span.name for span in spans}) == len(spans), [span.name for span in spans]
    return {span.name: span for span in spans}


def test_the_tree_of_a_first_and_of_a_second_generation(ask: Ask, exporter: InMemorySpanExporter) -> None:
    list(ask(chat("say it again")))
    list(ask(raw("say it")))
    wanted = ("gen_ai.operation.name", "gen_ai.usage.*", "nodespan.status", "nodespan.evaluated_tokens")
    assert span_tree(exporter, *wanted) == snapshot(
        [
            {
                "name": "chat echo",
                "attributes": {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.usage.input_tokens": 3,
                    "gen_ai.usage.output_tokens": 3,
                    "gen_ai.usage.cache_read.input_tokens": 0,
                    "nodespan.status": "ok",
                },
                "children": [
                    {"name": "pipeline.queue"},
                    {"name": "pipeline.load"},
                    {"name": "llama_cpp.prefill", "attributes": {"nodespan.evaluated_tokens": 3}},
                    {"name": "llama_cpp.decode", "attributes": {"nodespan.evaluated_tokens": 2}},
                ],
            },
            {
                "name": "text_completion echo",
                "attributes": {
                    "gen_ai.operation.name": "text_completion",
                    "gen_ai.usage.input_tokens": 2,
                    "gen_ai.usage.output_tokens": 2,
                    "gen_ai.usage.cache_read.input_tokens": 2,
                    "nodespan.status": "ok",
                },
                "children": [
                    {"name": "pipeline.queue"},
                    {"name": "llama_cpp.prefill", "attributes": {"nodespan.evaluated_tokens": 0}},
                    {"name": "llama_cpp.decode", "attributes": {"nodespan.evaluated_tokens": 1}},
                ],
            },
        ]
    )


def test_request_and_outcome_are_attributes(ask: Ask, exporter: InMemorySpanExporter) -> None:
    sampling = {"max_tokens": 2, "temperature": 0.7, "top_k": 5, "seed": 3, "stop": ("q", "z")}
    stream = ask(chat("say it again", **sampling), priority=11)
    list(stream)
    attributes = dict(spans_by_name(exporter)["chat echo"].attributes or {})
    metadata = stream.metadata
    assert metadata is not None
    for key in ("queue_s", "load_s", "time_to_first_token_s", "prompt_eval_s", "decode_s", "tokens_per_s"):
        assert attributes.pop(f"nodespan.{key}") == getattr(metadata, key) > 0
    assert attributes.pop("gen_ai.response.time_to_first_chunk") >= metadata.time_to_first_token_s
    assert attributes == snapshot(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "llama_cpp",
            "gen_ai.request.model": "echo",
            "gen_ai.request.max_tokens": 2,
            "gen_ai.request.temperature": 0.7,
            "gen_ai.request.top_p": 0.9,
            "gen_ai.request.top_k": 5,
            "gen_ai.request.seed": 3,
            "gen_ai.request.stop_sequences": ("q", "z"),
            "gen_ai.request.stream": True,
            "gen_ai.response.model": "echo",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 2,
            "gen_ai.usage.cache_read.input_tokens": 0,
            "nodespan.pipeline_type": "EchoPipeline",
            "nodespan.cache_status": "loaded",
            "gen_ai.response.finish_reasons": ("length",),
            "nodespan.priority": 11,
            "nodespan.chunks": 2,
            "nodespan.context_size": 4096,
            "nodespan.status": "ok",
        }
    )


def test_a_request_removes_a_stop_string_of_the_profile(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    profile = ModelProfile(name="echo", sampling=Sampling(stop=("b",), temperature=0.5))
    with PipelineFactory({ModelProfileType.Primary: profile}, create=EchoPipeline) as factory:
        ask = Runner(factory, tracer_provider=tracer_provider).stream_pipeline
        assert [chunk.content for chunk in ask(raw("a b c"))] == ["a", " "]
        exporter.clear()
        stream = ask(raw("a b c", stop=(), temperature=None))
        assert [chunk.content for chunk in stream] == ["a", " b", " c"]
    attributes = spans_by_name(exporter)["text_completion echo"].attributes or {}
    assert not {"gen_ai.request.stop_sequences", "gen_ai.request.temperature"} & attributes.keys()


def test_children_have_the_measured_lengths_and_lie_within_their_parent(
    ask: Ask, exporter: InMemorySpanExporter
) -> None:
    stream = ask(chat("say it again and again"))
    list(stream)
    spans = spans_by_name(exporter)
    parent, metadata = spans["chat echo"], stream.metadata
    assert metadata is not None
    lengths = {
        "pipeline.queue": metadata.queue_s,
        "pipeline.load": metadata.load_s,
        "llama_cpp.prefill": metadata.prompt_eval_s,
        "llama_cpp.decode": metadata.decode_s,
    }
    previous_end = parent.start_time or 0
    for name, length in lengths.items():
        child = spans[name]
        assert child.start_time is not None
        assert child.end_time is not None
        assert parent.end_time is not None
        assert child.parent == parent.get_span_context()
        assert child.end_time - child.start_time == pytest.approx((length or 0) * 1e9, abs=1)
        assert previous_end <= child.start_time <= child.end_time <= parent.end_time
        previous_end = child.end_time


def test_the_parent_is_the_span_that_is_current_at_the_call(
    ask: Ask, tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = tracer_provider.get_tracer("test")
    with tracer.start_as_current_span("caller"):
        stream = ask(raw("a b"))
    with tracer.start_as_current_span("reader") as reader:
        for _ in stream:
            assert trace.get_current_span() is reader
    assert [span["name"] for span in span_tree(exporter)] == ["caller", "reader"]
    assert span_tree(exporter)[0]["children"][0]["name"] == "text_completion echo"


async def test_between_chunks_the_consumers_span_is_current(ask: Ask, tracer_provider: TracerProvider) -> None:
    with tracer_provider.get_tracer("test").start_as_current_span("consumer") as consumer:
        async with ask(raw("a b c")) as stream:
            async for _ in stream:
                assert trace.get_current_span() is consumer
                await asyncio.sleep(0)
        assert trace.get_current_span() is consumer


def test_the_stream_has_the_span_id_of_the_generation(ask: Ask, exporter: InMemorySpanExporter) -> None:
    stream = ask(raw("a"))
    list(stream)
    assert stream.span_id == f"{spans_by_name(exporter)['text_completion echo'].context.span_id:016x}"


class _Looking:
    """A pipeline that records the current span while it is loaded and while it generates."""

    seen: list[Any]

    def __init__(self, profile: ModelProfile) -> None:
        del profile
        self.seen = [self._look()]
        _Looking.last = self

    last: _Looking

    def _look(self) -> tuple[str, SpanScope | None]:
        logging.getLogger("a.library").warning("working")
        return getattr(trace.get_current_span(), "name", ""), current_scope()

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        del request, cancellation, result
        self.seen.append(self._look())
        yield "a"
        self.seen.append(self._look())

    def close(self) -> None:
        pass


def test_while_the_model_works_its_span_and_its_scope_are_current(tracer_provider: TracerProvider) -> None:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=_Looking) as factory:
        list(Runner(factory, tracer_provider=tracer_provider).stream_pipeline(raw("a")))
    names, scopes = zip(*_Looking.last.seen, strict=True)
    assert names == ("text_completion echo",) * 3
    assert all(isinstance(scope, GenerationSpan) for scope in scopes)


def test_an_error_is_recorded_once_where_it_was_raised(
    play: Ask, tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    caller = SpanScope(tracer_provider.get_tracer("test"), "caller")
    with pytest.raises(ValueError, match="own error") as raised, caller.attached():
        list(play(raw("a raise")))
    caller.fail(raised.value)
    assert span_tree(exporter, "error.type", "nodespan.status", "gen_ai.response.finish_reasons") == snapshot(
        [
            {
                "name": "caller",
                "status": "ERROR",
                "attributes": {"error.type": "ValueError", "nodespan.status": "error"},
                "children": [
                    {
                        "name": "text_completion echo",
                        "status": "ERROR",
                        "attributes": {
                            "gen_ai.response.finish_reasons": ("error",),
                            "error.type": "ValueError",
                            "nodespan.status": "error",
                        },
                        "events": ["exception"],
                        "children": [{"name": "pipeline.queue"}, {"name": "pipeline.load"}],
                    }
                ],
            }
        ]
    )


def test_a_failed_load_is_an_error_of_the_generation(play: Ask, stage: Stage, exporter: InMemorySpanExporter) -> None:
    stage.load_error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        list(play(raw("a")))
    assert span_tree(exporter, "error.type", "nodespan.status") == snapshot(
        [
            {
                "name": "text_completion echo",
                "status": "ERROR",
                "attributes": {"error.type": "RuntimeError", "nodespan.status": "error"},
                "events": ["exception"],
                "children": [{"name": "pipeline.queue"}, {"name": "pipeline.load"}],
            }
        ]
    )


def test_closing_early_is_not_an_error(play: Ask, stage: Stage, exporter: InMemorySpanExporter) -> None:
    stage.free = False
    with play(raw("a a")) as stream:
        stage.let(1)
        next(stream)
    assert span_tree(exporter, "nodespan.status", "gen_ai.response.finish_reasons") == snapshot(
        [
            {
                "name": "text_completion echo",
                "attributes": {"gen_ai.response.finish_reasons": ("cancelled",), "nodespan.status": "cancelled"},
                "children": [{"name": "pipeline.queue"}, {"name": "pipeline.load"}],
            }
        ]
    )


def test_a_passed_deadline_is_an_error(play: Ask, stage: Stage, exporter: InMemorySpanExporter) -> None:
    stage.free = False
    with pytest.raises(DeadlineExceededError):
        list(play(raw("a"), deadline_s=0.3))
    wanted = ("nodespan.status", "error.type", "gen_ai.response.finish_reasons")
    assert span_tree(exporter, *wanted) == snapshot(
        [
            {
                "name": "text_completion echo",
                "status": "ERROR",
                "attributes": {
                    "gen_ai.response.finish_reasons": ("error",),
                    "error.type": "nodespan.errors.DeadlineExceededError",
                    "nodespan.status": "error",
                },
                "events": ["exception"],
                "children": [{"name": "pipeline.queue"}, {"name": "pipeline.load"}],
            }
        ]
    )


def test_a_request_cancelled_in_the_queue_has_only_a_queue_span(
    play: Ask, stage: Stage, exporter: InMemorySpanExporter
) -> None:
    stage.free = False
    with play(raw("running")):
        play(raw("waiter")).close()
        assert span_tree(exporter, "nodespan.status") == snapshot(
            [
                {
                    "name": "text_completion echo",
                    "attributes": {"nodespan.status": "cancelled"},
                    "children": [{"name": "pipeline.queue"}],
                }
            ]
        )


def test_a_stream_that_is_never_read_but_dropped_ends_its_span(
    play: Ask, stage: Stage, exporter: InMemorySpanExporter
) -> None:
    stage.free = False
    play(raw("a"))
    gc.collect()
    wait_for(exporter.get_finished_spans)
    assert [span["name"] for span in span_tree(exporter)] == ["text_completion echo"]


def test_a_closed_factory_leaves_no_open_span(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter, stage: Stage
) -> None:
    stage.free = False
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=stage.create) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider)
        streams = [runner.stream_pipeline(raw("a")) for _ in range(3)]
    assert [span["name"] for span in span_tree(exporter)] == ["text_completion echo"] * 3
    assert all(stream.metadata is not None for stream in streams)


def test_a_thousand_cancelled_generations_leave_no_open_span(play: Ask, exporter: InMemorySpanExporter) -> None:
    for _ in range(1000):
        with play(raw("a " * 200)) as stream:
            next(stream)
    roots = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert len(roots) == 1000
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, GenerationSpan) and thing.is_open]


@pytest.mark.parametrize("provider", [None, TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)])
def test_without_a_recording_provider_measurements_do_not_change(provider: TracerProvider | None) -> None:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=EchoPipeline) as factory:
        stream = Runner(factory, tracer_provider=provider).stream_pipeline(raw("a b"))
        assert [chunk.content for chunk in stream] == ["a", " b"]
    assert stream.metadata is not None
    assert stream.metadata.output_tokens == 2
    assert (stream.span_id is None) == (provider is None)


def test_no_content_is_in_the_spans(ask: Ask, exporter: InMemorySpanExporter) -> None:
    list(ask(chat("canary-prompt and more")))
    for span in exporter.get_finished_spans():
        assert "canary" not in str(span.to_json())
