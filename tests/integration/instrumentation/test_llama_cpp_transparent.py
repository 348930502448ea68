"""Invariants 9 and 12 for calls of llama-cpp-python, and how instrumentation is switched on and off."""

from __future__ import annotations

import logging
import timeit
import traceback
import types
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, SpanContext, TraceFlags

import llama_cpp
from llama_calls import (
    ANY,
    METHODS,
    calls,
    read,
    status,
    streamed,
    streamed_chat,
    the_call,
    tokens,
    too_long,
    whole,
)
from llama_cpp_cases import STORY
from nodespan import semconv
from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.llama_cpp import LlamaCppInstrumentor
from nodespan.spans.model_call import ModelCallSpan
from nodespan.spans.scope import current_scope, get_tracer
from nodespan.testing import span_tree


@ANY
def test_instrumentation_does_not_change_results_and_their_types(llama, switch_llama_cpp, exporter, ask):
    plain = ask(llama)
    kind, plain = type(plain), read(plain)
    llama.reset()
    switch_llama_cpp()
    answer = ask(llama)
    assert type(answer) is kind
    assert read(answer) == plain
    assert len(calls(exporter)) == 1


def test_instrumentation_does_not_change_tokens(llama, switch_llama_cpp):
    def first(count):
        llama.reset()
        with closing(tokens(llama)) as generated:
            assert isinstance(generated, types.GeneratorType)
            return [next(generated) for _ in range(count)]

    plain = first(5)
    switch_llama_cpp()
    assert first(5) == plain


def test_instrumentation_does_not_change_the_laziness_of_a_stream(llama, switch_llama_cpp):
    switch_llama_cpp()
    for ask in (streamed, tokens, too_long):
        pieces = ask(llama, stream=True) if ask is too_long else ask(llama)
        assert llama.n_tokens == 0
        pieces.close()


def test_instrumentation_does_not_change_exceptions_or_their_frames(llama, switch_llama_cpp):
    seen = []
    for _ in range(2):
        with pytest.raises(ValueError, match="context window") as raised:
            list(too_long(llama, stream=True))
        frames = traceback.extract_tb(raised.value.__traceback__)
        seen.append(
            (raised.value.args, raised.value.__cause__, [f.name for f in frames if "nodespan" not in f.filename])
        )
        switch_llama_cpp()
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "ask",
    [lambda llama: llama.generate(), lambda llama: llama.create_completion(), lambda llama: llama.embed(1, 2, wrong=3)],
)
def test_an_invalid_call_raises_the_error_of_the_library(llama, switch_llama_cpp, ask):
    with pytest.raises(TypeError) as plain:
        ask(llama)
    switch_llama_cpp()
    with pytest.raises(TypeError) as raised:
        ask(llama)
    assert raised.value.args == plain.value.args


def test_without_a_provider_no_span_is_opened_and_the_parent_is_propagated(llama):
    seen = []

    def looks(input_ids, scores):
        seen.append((trace.get_current_span().get_span_context().span_id, current_scope()))
        return scores

    instrument(tracer_provider=NoOpTracerProvider(), langgraph=False, langchain=False)
    try:
        remote = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1))
        with trace.use_span(NonRecordingSpan(remote)):
            llama.create_completion(STORY, max_tokens=1, logits_processor=llama_cpp.LogitsProcessorList([looks]))
        assert seen == [(8, None)]
        assert streamed(llama).gi_code.co_name == "_create_completion"  # llama-cpp-python's own generator
        cost_s = min(timeit.repeat(lambda: streamed(llama), number=100, repeat=5)) / 100
    finally:
        uninstrument()
    assert cost_s < 0.001  # a token of the smallest model takes ten times as long


def test_an_unsampled_call_has_metrics_and_its_calls_inside_are_unsampled(llama, measured):
    seen = []

    def looks(input_ids, scores):
        seen.append(trace.get_current_span().get_span_context().trace_flags.sampled)
        return scores

    provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    instrument(tracer_provider=provider, meter_provider=measured.provider, langgraph=False, langchain=False)
    try:
        llama.create_completion(STORY, max_tokens=1, logits_processor=llama_cpp.LogitsProcessorList([looks]))
    finally:
        uninstrument()
    assert seen == [False]
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {"input": (19, 1), "output": (1, 1)}


def test_metrics_equal_the_attributes_of_the_spans(llama, switch_llama_cpp, exporter, measured):
    switch_llama_cpp(meter_provider=measured.provider)
    list(streamed_chat(llama))
    attributes = the_call(exporter).attributes
    assert measured.of(semconv.TOKEN_USAGE, semconv.TOKEN_TYPE) == {
        "input": (attributes["gen_ai.usage.input_tokens"], 1),
        "output": (attributes["gen_ai.usage.output_tokens"], 1),
    }
    assert measured.of(semconv.TIME_TO_FIRST_TOKEN) == {(): (attributes["nodespan.time_to_first_token_s"], 1)}
    assert measured.of(semconv.PREFILL_DURATION) == {(): (attributes["nodespan.prompt_eval_s"], 1)}
    assert measured.of(semconv.DECODE_DURATION) == {(): (attributes["nodespan.decode_s"], 1)}
    assert measured.of(semconv.DECODE_TOKENS) == {(): attributes["gen_ai.usage.output_tokens"] - 1}
    labels = (semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.FINISH_REASON, semconv.ERROR_TYPE)
    assert list(measured.of(semconv.OPERATION_DURATION, *labels)) == [("chat", "llama_cpp", "length", None)]


def test_uninstrument_restores_the_originals_and_instrument_is_idempotent(llama, switch_llama_cpp, exporter, caplog):
    caplog.set_level(logging.WARNING)
    before = [getattr(llama_cpp.Llama, name) for name in METHODS]
    switch_llama_cpp()
    wrapped = [getattr(llama_cpp.Llama, name) for name in METHODS]
    assert not any(a is b for a, b in zip(before, wrapped, strict=True))
    switch_llama_cpp()
    assert [getattr(llama_cpp.Llama, name) for name in METHODS] == wrapped
    pieces = streamed(llama)
    next(pieces)
    uninstrument()
    assert [getattr(llama_cpp.Llama, name) for name in METHODS] == before
    list(pieces)
    assert status(the_call(exporter)) == "ok"
    whole(llama)
    assert len(calls(exporter)) == 1
    assert caplog.records == []


def test_the_measurements_are_added_to_the_span_of_an_enclosing_model_call(
    llama, traced_llama_cpp, tracer_provider, exporter
):
    """Like LangChain's ChatLlamaCpp and LlamaCpp; the latter calls the model once for each prompt."""
    outer = ModelCallSpan(get_tracer(tracer_provider), "chat", "another", "a-name")
    with outer.attached():
        first = whole(llama)["usage"]
        second = llama.create_completion("An apple is", max_tokens=2, seed=5)["usage"]
    outer.finish()
    assert [span["name"].split()[0] for span in span_tree(exporter)] == ["chat"]
    assert [child["name"] for child in span_tree(exporter)[0]["children"]] == [
        "llama_cpp.prefill",
        "llama_cpp.decode",
    ] * 2
    attributes = the_call(exporter).attributes
    assert attributes["gen_ai.usage.input_tokens"] == first["prompt_tokens"] + second["prompt_tokens"]
    assert attributes["gen_ai.usage.output_tokens"] == first["completion_tokens"] + second["completion_tokens"] == 5
    assert attributes["gen_ai.request.model"] == "a-name"
    assert attributes["gen_ai.response.model"] == Path(llama.model_path).stem
    assert attributes["nodespan.tokens_per_s"] == pytest.approx((5 - 2) / attributes["nodespan.decode_s"])


def test_another_model_called_by_a_logits_processor_has_its_own_span(llama, smollm2, traced_llama_cpp, exporter):
    with closing(llama_cpp.Llama(str(smollm2), n_ctx=64, verbose=False)) as judge:

        def asks(input_ids, scores):
            judge.create_completion(" the", max_tokens=2)
            return scores

        llama.create_completion(STORY, max_tokens=1, logits_processor=llama_cpp.LogitsProcessorList([asks]))
    inner, outer = calls(exporter)
    assert inner.parent.span_id == outer.context.span_id
    assert (inner.attributes["gen_ai.usage.output_tokens"], outer.attributes["gen_ai.usage.output_tokens"]) == (2, 1)


@pytest.mark.parametrize("gone", METHODS)
def test_without_one_of_the_methods_the_rest_works_and_a_warning_is_logged(
    llama, monkeypatch, switch_llama_cpp, exporter, caplog, gone
):
    from nodespan.instrumentation._seams import Seams
    from nodespan.instrumentation.llama_cpp import _seam

    monkeypatch.setattr(_seam, "SEAMS", Seams("a llama-cpp-python", _seam.SEAMS._seams))
    names = [seam for seam in _seam.SEAMS._seams if seam.name == gone]
    original = getattr(llama_cpp.Llama, gone)
    monkeypatch.delattr(llama_cpp.Llama, gone)
    switch_llama_cpp()
    setattr(llama_cpp.Llama, gone, original)  # the program still works, it is our seam that is gone
    whole(llama)
    list(streamed_chat(llama))
    assert [span.name.split()[0] for span in calls(exporter)] == [
        "text_completion",
        "text_completion" if gone == "create_chat_completion" else "chat",
    ]
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"llama_cpp.llama.Llama.{gone} not found; {names[0].lost} will not be recorded" in said


def test_an_internal_error_does_not_reach_the_program(llama, switch_llama_cpp, monkeypatch, exporter):
    monkeypatch.delenv("NODESPAN_RAISE_INTERNAL_ERRORS")
    plain = read(whole(llama))
    switch_llama_cpp()

    def breaks(*args, **kwargs):
        raise ZeroDivisionError("ours")

    for name in ("_convert.request", "_convert.choice", "_call.total"):
        llama.reset()
        with monkeypatch.context() as patch:
            patch.setattr(f"nodespan.instrumentation.llama_cpp.{name}", breaks)
            assert read(whole(llama)) == plain
    assert len(calls(exporter)) == 2  # the first was not opened; the others ended


def test_a_library_that_is_absent_is_not_an_error(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    caplog.set_level(logging.INFO)
    instrument(langgraph=False, langchain=False, meter_provider=MeterProvider(shutdown_on_exit=False))
    uninstrument()
    assert caplog.records == []


def test_a_library_that_cannot_be_loaded_is_logged_and_no_error(monkeypatch, caplog):
    def fails(name):
        raise RuntimeError("libllama.so is for another machine")

    monkeypatch.setattr("importlib.import_module", fails)
    LlamaCppInstrumentor().instrument()
    monkeypatch.undo()
    LlamaCppInstrumentor().uninstrument()
    (record,) = caplog.records
    assert record.__dict__["nodespan.code"] == "instrumentation.import_failed"
    assert "libllama.so is for another machine" in record.getMessage()
