"""The current model call: visible to code inside it, and to nothing else."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from nodespan.spans.model_call import ModelCallSpan, current_model_call
from nodespan.spans.scope import SpanScope, get_tracer
from nodespan.testing import span_tree


def test_code_inside_a_model_call_finds_it(tracer_provider: TracerProvider) -> None:
    tracer = get_tracer(tracer_provider)
    call = ModelCallSpan(tracer, "chat", "llama_cpp", "small")
    assert current_model_call() is None
    with call.attached():
        assert current_model_call() is call
        tool = SpanScope(tracer, "execute_tool t")
        with tool.attached():
            assert current_model_call() is None
        tool.finish()
        call.finish()
        assert current_model_call() is None


def test_measurements_of_the_engine_take_precedence_over_the_outer_library(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    call = ModelCallSpan(
        get_tracer(tracer_provider), "chat", "llama_cpp", "small", {"gen_ai.request.seed": 1}, kind=SpanKind.CLIENT
    )
    call.measured["gen_ai.usage.output_tokens"] = 7
    call.set({"gen_ai.usage.output_tokens": 6})
    call.finish()
    [span] = exporter.get_finished_spans()
    assert span.kind is SpanKind.CLIENT
    assert span_tree(exporter, "gen_ai.*") == [
        {
            "name": "chat small",
            "attributes": {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "llama_cpp",
                "gen_ai.request.model": "small",
                "gen_ai.request.seed": 1,
                "gen_ai.usage.output_tokens": 7,
            },
        }
    ]


def test_the_span_of_a_model_without_a_name_has_its_operation_as_name(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    ModelCallSpan(get_tracer(tracer_provider), "embeddings", None, None).finish()
    assert span_tree(exporter, "gen_ai.*") == [
        {"name": "embeddings", "attributes": {"gen_ai.operation.name": "embeddings"}}
    ]
