"""The metrics of a generation: each equals the attribute of its span, and its exemplar refers to the span."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from measured import Measured
from nodespan import semconv
from nodespan.errors import DeadlineExceededError, PipelineClosedError
from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.testing import EchoPipeline
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import Stage, chat, raw, wait_for

Ask = Callable[..., PipelineStream]
PROFILE = ModelProfile(name="echo", provider="ECHO", n_ctx=100, options={"engine": "llama_cpp"})
CALL = (semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.REQUEST_MODEL)


@pytest.fixture
def ask(tracer_provider: TracerProvider, measured: Measured) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=EchoPipeline) as factory:
        yield Runner(factory, tracer_provider=tracer_provider, meter_provider=measured.provider).stream_pipeline


@pytest.fixture
def play(stage: Stage, tracer_provider: TracerProvider, measured: Measured) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=stage.create) as factory:
        yield Runner(factory, tracer_provider=tracer_provider, meter_provider=measured.provider).stream_pipeline


def generations(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name.endswith(" echo")]


def seconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def test_every_metric_equals_the_fact_of_the_span(ask: Ask, measured: Measured, exporter: InMemorySpanExporter) -> None:
    list(ask(chat("say it again"), priority=11))
    (span,) = generations(exporter)
    facts = dict(span.attributes or {})
    call = ("chat", "echo", "echo")
    assert measured.of(semconv.OPERATION_DURATION, *CALL, semconv.FINISH_REASON) == {
        (*call, "stop"): (pytest.approx(seconds(span), abs=1e-6), 1)
    }
    assert measured.of(semconv.TOKEN_USAGE, *CALL, semconv.TOKEN_TYPE) == {
        (*call, "input"): (facts[semconv.USAGE_INPUT_TOKENS], 1),
        (*call, "output"): (facts[semconv.USAGE_OUTPUT_TOKENS], 1),
    }
    assert measured.of(semconv.TIME_TO_FIRST_CHUNK, *CALL) == {call: (facts[semconv.RESPONSE_TIME_TO_FIRST_CHUNK], 1)}
    assert measured.of(semconv.TIME_TO_FIRST_TOKEN, *CALL) == {call: (facts["nodespan.time_to_first_token_s"], 1)}
    per_token = facts["nodespan.decode_s"] / (facts[semconv.USAGE_OUTPUT_TOKENS] - 1)
    assert measured.of(semconv.TIME_PER_OUTPUT_TOKEN, *CALL) == {call: (pytest.approx(per_token), 1)}
    assert measured.of(semconv.QUEUE_DURATION, semconv.REQUEST_MODEL, semconv.PRIORITY) == {
        ("echo", 11): (facts["nodespan.queue_s"], 1)
    }
    of_model = {
        semconv.LOAD_DURATION: (facts["nodespan.load_s"], 1),
        semconv.PREFILL_DURATION: (facts["nodespan.prompt_eval_s"], 1),
        semconv.DECODE_DURATION: (facts["nodespan.decode_s"], 1),
        semconv.PREFILL_TOKENS: 3,
        semconv.DECODE_TOKENS: 2,
        semconv.CACHED_TOKENS: 0,
        semconv.CONTEXT_UTILIZATION: (pytest.approx(6 / 100), 1),
    }
    for name, value in of_model.items():
        assert measured.of(name, semconv.REQUEST_MODEL) == {"echo": value}, name


def test_the_second_generation_reuses_a_prefix_and_does_not_load(ask: Ask, measured: Measured) -> None:
    list(ask(chat("say it again")))
    list(ask(raw("say it twice now")))
    assert measured.of(semconv.CACHED_TOKENS, semconv.REQUEST_MODEL) == {"echo": 2}
    assert measured.of(semconv.PREFILL_TOKENS, semconv.REQUEST_MODEL) == {"echo": 3 + 2}
    assert measured.of(semconv.LOAD_DURATION, semconv.REQUEST_MODEL)["echo"][1] == 1
    operations = measured.of(semconv.OPERATION_DURATION, semconv.OPERATION_NAME)
    assert {operation: count for operation, (_, count) in operations.items()} == {"chat": 1, "text_completion": 1}


def test_a_single_token_has_neither_a_decode_nor_a_time_per_token(ask: Ask, measured: Measured) -> None:
    list(ask(raw("one")))
    points = measured.points()
    assert semconv.PREFILL_DURATION in points
    assert not {semconv.DECODE_DURATION, semconv.DECODE_TOKENS, semconv.TIME_PER_OUTPUT_TOKEN} & points.keys()


def test_exemplars_refer_to_the_span_of_the_generation(
    ask: Ask, measured: Measured, exporter: InMemorySpanExporter
) -> None:
    list(ask(raw("a b")))
    (span,) = generations(exporter)
    histograms = {name: points for name, points in measured.points().items() if hasattr(points[0], "sum")}
    assert semconv.OPERATION_DURATION in histograms
    assert semconv.LOAD_DURATION in histograms
    for name, points in histograms.items():
        for point in points:
            ids = {(exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars}
            assert ids == {(span.context.trace_id, span.context.span_id)}, name


def test_the_buckets_equal_those_of_the_table(ask: Ask, measured: Measured) -> None:
    list(ask(raw("a b")))
    for name, points in measured.points().items():
        bounds = getattr(points[0], "explicit_bounds", ())
        assert tuple(bounds) == semconv.NAMES[name].buckets, name


def test_an_engine_without_measurements_has_no_engine_metrics(play: Ask, measured: Measured) -> None:
    list(play(raw("a b")))
    assert measured.points().keys() == {
        semconv.OPERATION_DURATION,
        semconv.TIME_TO_FIRST_CHUNK,
        semconv.TOKEN_USAGE,
        semconv.QUEUE_DURATION,
        semconv.LOAD_DURATION,
    }


def ended(measured: Measured) -> dict[tuple[str | None, str | None], int]:
    """Number of calls by finish reason and error."""
    points = measured.of(semconv.OPERATION_DURATION, semconv.FINISH_REASON, semconv.ERROR_TYPE)
    return {key: count for key, (_, count) in points.items()}


def test_a_models_error_is_counted_by_its_class(play: Ask, measured: Measured) -> None:
    with pytest.raises(ValueError, match="own error"):
        list(play(raw("a raise")))
    assert ended(measured) == {("error", "ValueError"): 1}
    assert measured.of(semconv.LOAD_DURATION, semconv.ERROR_TYPE)[None][1] == 1
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {"output": (1, 1)}


def test_a_failed_load_is_counted_as_such(play: Ask, stage: Stage, measured: Measured) -> None:
    stage.load_error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        list(play(raw("a")))
    assert ended(measured) == {("error", "RuntimeError"): 1}
    ((error, (_, count)),) = measured.of(semconv.LOAD_DURATION, semconv.ERROR_TYPE).items()
    assert (error, count) == ("RuntimeError", 1)


def test_a_stream_closed_early_is_counted_with_its_generated_tokens(
    play: Ask, stage: Stage, measured: Measured
) -> None:
    stage.free = False
    with play(raw("a a")) as stream:
        stage.let(1)
        next(stream)
    assert stream.metadata is not None
    assert ended(measured) == {("cancelled", None): 1}
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {"output": (stream.metadata.output_tokens, 1)}


def test_a_deadline_is_counted_with_its_error(play: Ask, stage: Stage, measured: Measured) -> None:
    stage.free = False
    with pytest.raises(DeadlineExceededError):
        list(play(raw("a"), deadline_s=0.03))
    assert ended(measured) == {("error", "nodespan.errors.DeadlineExceededError"): 1}


def test_a_request_cancelled_in_the_queue_is_counted_with_its_waiting_time(
    play: Ask, stage: Stage, measured: Measured
) -> None:
    stage.free = False
    with play(raw("running")):
        waiter = play(raw("waiter"), priority=1)
        waiter.close()
        assert waiter.metadata is not None
        assert measured.of(semconv.QUEUE_DURATION, semconv.PRIORITY) == {1: (waiter.metadata.queue_s, 1)}


def test_a_model_loaded_for_an_abandoned_request_is_counted_as_loaded(
    play: Ask, stage: Stage, measured: Measured
) -> None:
    stage.may_load.clear()
    stream = play(raw("a"))
    wait_for(lambda: stage.log == ["load echo"])
    stream.close()
    stage.may_load.set()
    wait_for(lambda: measured.of(semconv.LOAD_DURATION))
    assert ended(measured) == {("cancelled", None): 1}


def test_a_closed_factory_counts_each_generation_once(
    stage: Stage, tracer_provider: TracerProvider, measured: Measured
) -> None:
    stage.free = False
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=stage.create) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider, meter_provider=measured.provider)
        streams = [runner.stream_pipeline(raw("a")) for _ in range(3)]
    with pytest.raises(PipelineClosedError):
        runner.stream_pipeline(raw("b"))
    closed = "nodespan.errors.PipelineClosedError"
    assert ended(measured) == {("error", closed): len(streams) + 1}


@pytest.mark.parametrize("provider", [None, TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)])
def test_a_generation_without_a_recorded_span_is_counted(provider: TracerProvider | None, measured: Measured) -> None:
    with PipelineFactory({ModelProfileType.Primary: PROFILE}, create=EchoPipeline) as factory:
        list(Runner(factory, tracer_provider=provider, meter_provider=measured.provider).stream_pipeline(raw("a b")))
    assert ended(measured) == {("stop", None): 1}
    assert not any(point.exemplars for point in measured.points()[semconv.OPERATION_DURATION])
