"""The Runner with pipelines that break the contract: the reader reaches an end, the lane serves the next request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from concurrent.futures import CancelledError as FutureCancelledError
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from foreign_pipelines import FORMS, Model, Odd, Stand, SyncPipeline, answers, read
from measured import Measured
from nodespan import semconv
from nodespan.errors import ConfigurationError, DeadlineExceededError
from nodespan.runner import Cancellation, EnginePhase, GenerationResult, PipelineFactory, Runner
from nodespan.types import ModelProfile
from pipelines import raw


@pytest.mark.parametrize("reason", ["tool_calls", "content_filter", "a provider's own"])
def test_any_text_is_a_finish_reason(stand: Stand, reason: str, exporter: InMemorySpanExporter) -> None:
    stand.behaviour = answers(finish_reason=reason)
    stream = stand.ask()
    assert read(stream) == (["a"], None)
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == reason
    (span,) = [span for span in exporter.get_finished_spans() if span.name.startswith("text_completion")]
    assert (span.attributes or {})[semconv.RESPONSE_FINISH_REASONS] == (reason,)
    assert stand.serves_on()


COUNTS = ("context_size", "input_tokens", "cached_input_tokens", "output_tokens", "prefill_tokens", "decode_tokens")
SECONDS = ("prefill_s", "decode_s", "prefill_at", "first_token_at")
SIZES = ("model_bytes", "state_bytes")
BAD_NUMBERS = [-1, float("nan"), float("inf"), -0.5, "12", b"1", [1], Odd(), 10**30, True]


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("field", [*COUNTS, *SECONDS, *SIZES])
@pytest.mark.parametrize("form", FORMS)
def test_an_impossible_measurement_is_ignored_and_counted(
    form: Any, field: str, value: object, tracer_provider: TracerProvider, measured: Measured
) -> None:
    stand = Stand(form, tracer_provider, measured)
    with stand.factory:
        good = {"input_tokens": 3, "output_tokens": 1}
        stand.behaviour = answers(**{**good, field: value})
        stream = stand.ask()
        assert read(stream) == (["a"], None)
        assert stream.metadata is not None
        for name, count in good.items():
            assert getattr(stream.metadata, name) == (None if name == field else count)
        assert stream.metadata.finish_reason == "stop"
        assert stand.serves_on()


@pytest.mark.parametrize("value", [42, b"stop", ["stop"], "", Odd(), "x" * 10_000], ids=lambda v: repr(v)[:20])
def test_a_finish_reason_that_is_no_short_text_is_ignored(stand: Stand, value: object) -> None:
    stand.behaviour = answers(finish_reason=value)
    stream = stand.ask()
    assert read(stream) == (["a"], None)
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "stop"
    assert stand.serves_on()


ERRORS = [
    ValueError("own"),
    SystemExit(3),
    KeyboardInterrupt(),
    MemoryError(),
    GeneratorExit(),
    StopIteration(),
    StopAsyncIteration(),
    asyncio.CancelledError(),
    FutureCancelledError(),
    BaseException("bare"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["load", "call", "first", "later", "cleanup"])
def test_every_exception_of_a_pipeline_is_raised_in_the_reader(stand: Stand, where: str, error: Any) -> None:
    def raise_it(*_: Any) -> Any:
        raise error

    def generate(_: Cancellation, _result: GenerationResult) -> Generator[str]:
        if where == "first":
            raise error
        try:
            yield "a"
            if where == "later":
                raise error
        finally:
            if where == "cleanup":
                raise error

    stand.behaviour = raise_it if where == "call" else generate
    if where == "load":
        stand.load = raise_it
    stream = stand.ask()
    pieces, raised = read(stream)
    assert pieces == (["a"] if where in {"later", "cleanup"} else [])
    assert raised is error or (raised is not None and raised.__cause__ is error) or isinstance(raised, RuntimeError)
    assert not isinstance(raised, (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError))
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "error"
    stand.load = lambda: None
    assert stand.serves_on()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_that_would_end_the_task_is_wrapped_for_an_async_reader(stand: Stand, error: Any) -> None:
    def generate(_: Cancellation, _result: GenerationResult) -> Generator[str]:
        yield "a"
        raise error

    stand.behaviour = generate
    seen: list[BaseException] = []

    async def consume() -> None:
        try:
            async for _ in stand.ask():
                pass
        except BaseException as raised:
            seen.append(raised)

    asyncio.run(asyncio.wait_for(consume(), 20))
    assert not isinstance(seen[0], (StopAsyncIteration, GeneratorExit, asyncio.CancelledError))
    assert stand.serves_on()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_while_a_model_is_closed_does_not_occupy_its_place(stand: Stand, error: Any) -> None:
    assert read(stand.ask("well"))[0] == ["well"]

    def raise_it() -> None:
        raise error

    stand.close = raise_it
    assert stand.serves_on()


@pytest.mark.parametrize("pieces", [[1], [None], [b"a"], ["a", 2.0], [Odd()]], ids=repr)
def test_a_chunk_that_is_no_text_is_an_error(stand: Stand, pieces: list[Any]) -> None:
    def generate(_: Cancellation, _result: GenerationResult) -> Generator[Any]:
        yield from pieces

    stand.behaviour = generate
    texts, raised = read(stand.ask())
    assert texts == [piece for piece in pieces if isinstance(piece, str)]
    assert isinstance(raised, TypeError)
    assert stand.serves_on()


def test_an_empty_chunk_is_skipped(stand: Stand) -> None:
    def generate(_: Cancellation, _result: GenerationResult) -> Generator[str]:
        yield from ("", "a", "", "b", "")

    stand.behaviour = generate
    assert read(stand.ask()) == (["a", "b"], None)


@pytest.mark.parametrize("value", [None, 3, "a text", Odd()], ids=repr)
def test_a_result_that_is_not_iterable_is_an_error(stand: Stand, value: object) -> None:
    stand.behaviour = lambda _cancellation, _result: value
    _, raised = read(stand.ask())
    if isinstance(value, str) and stand.form is SyncPipeline:
        assert raised is None  # a text yields its characters, as any iterable yields its items
    else:
        assert isinstance(raised, TypeError)
    assert stand.serves_on()


def test_an_endless_answer_ends_when_its_stream_is_closed(stand: Stand) -> None:
    def generate(_: Cancellation, _result: GenerationResult) -> Generator[str]:
        while True:
            yield "again "

    stand.behaviour = generate
    with stand.ask() as stream:
        next(stream)
    assert stand.serves_on()


def test_an_endless_answer_ends_at_its_deadline(stand: Stand) -> None:
    def generate(_: Cancellation, _result: GenerationResult) -> Generator[str]:
        while True:
            yield ""

    stand.behaviour = generate
    assert isinstance(read(stand.ask(deadline_s=0.2))[1], DeadlineExceededError)
    assert stand.serves_on()


def test_a_generator_that_ignores_its_closing_is_an_error_of_the_pipeline(stand: Stand) -> None:
    def generate(_: Cancellation, _result: GenerationResult) -> Generator[str]:
        while True:
            try:
                yield "a"
            except GeneratorExit:
                yield "not yet"

    stand.behaviour = generate
    stream = stand.ask()
    next(stream)
    stream.close()
    assert stream.metadata is not None
    assert stand.serves_on()


@pytest.mark.parametrize("made", [None, 3, Odd()], ids=repr)
def test_an_object_without_generate_is_refused_at_its_creation(made: object) -> None:
    with PipelineFactory({Model.FOREIGN: ModelProfile(name="foreign")}, create=lambda _: made) as factory:  # type: ignore[arg-type, return-value]
        _, raised = read(Runner(factory).stream_pipeline(raw("a"), profile_type=Model.FOREIGN))
    assert isinstance(raised, ConfigurationError)
    assert "generate" in str(raised)


def test_bad_measurements_are_counted_and_logged_once_per_field(
    stand: Stand, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    stand.behaviour = answers(decode_s=-1.0, input_tokens="many")
    for _ in range(3):
        assert read(stand.ask()) == (["a"], None)
    codes = [record.__dict__.get("nodespan.code") for record in caplog.records]
    assert codes == ["pipeline.bad_measurement"] * 2
    counted = measured.of(semconv.TELEMETRY_ERRORS, semconv.TELEMETRY_ERROR_KIND)
    assert counted == {"read a pipeline's measurements": 6}


def test_a_foreign_model_has_no_phases_and_no_metrics_of_llama_cpp(
    stand: Stand, measured: Measured, exporter: InMemorySpanExporter
) -> None:
    stand.behaviour = answers(
        input_tokens=3, output_tokens=2, prefill_s=0.1, decode_s=0.1, prefill_tokens=3, decode_tokens=1, context_size=9
    )
    read(stand.ask())
    assert not [span.name for span in exporter.get_finished_spans() if span.name.startswith("llama_cpp")]
    assert not [name for name in measured.points() if "llama_cpp" in name]


def test_phases_have_the_names_set_by_the_pipeline(stand: Stand, exporter: InMemorySpanExporter) -> None:
    def generate(_: Cancellation, result: GenerationResult) -> Generator[str]:
        result.phases = [EnginePhase("mine.think", time.perf_counter(), 0.001, 7), "no phase"]  # type: ignore[list-item]
        yield "a"

    stand.behaviour = generate
    assert read(stand.ask()) == (["a"], None)
    (phase,) = [span for span in exporter.get_finished_spans() if span.name.startswith("mine")]
    assert (phase.attributes or {})[semconv.EVALUATED_TOKENS] == 7
