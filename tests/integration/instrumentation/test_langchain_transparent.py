"""Invariants 9 and 12 for LangChain, and how its instrumentation is switched on and off."""

from __future__ import annotations

import asyncio
import importlib
import traceback

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, SpanContext, TraceFlags

from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.langchain import LangChainInstrumentor
from nodespan.instrumentation.langchain._seam import EVENT_STREAMS, SEAMS
from talker import Talker


@pytest.fixture
def switch(tracer_provider):
    """Switches LangChain's instrumentation on; off again at the end."""

    def on(provider=tracer_provider):
        instrument(tracer_provider=provider, langgraph=False, llama_cpp=False)

    yield on
    uninstrument()


def _seams():
    for seam in (*SEAMS._seams, *EVENT_STREAMS._seams):
        yield getattr(importlib.import_module(seam.module), seam.class_name), seam.name
    for name in ("embed_documents", "embed_query"):
        yield DeterministicFakeEmbedding, name
    for name in ("aembed_documents", "aembed_query"):
        yield Embeddings, name


def test_uninstrument_restores_every_seam_and_both_are_idempotent(switch, exporter):
    before = [vars(owner)[name] for owner, name in _seams()]
    switch()
    switch()
    during = [vars(owner)[name] for owner, name in _seams()]
    assert all(one is not other for one, other in zip(before, during, strict=True))
    Talker().invoke("hi")
    assert len(exporter.get_finished_spans()) == 1
    uninstrument()
    uninstrument()
    assert [vars(owner)[name] for owner, name in _seams()] == before
    assert "__init_subclass__" not in vars(Embeddings)
    Talker().invoke("hi")
    assert len(exporter.get_finished_spans()) == 1


def test_a_stream_started_before_uninstrument_ends_its_span(switch, exporter):
    switch()
    pieces = Talker().stream("hi")
    read = [next(pieces).content]
    uninstrument()
    assert "".join(read + [piece.content for piece in pieces]) == "good day"
    assert len(exporter.get_finished_spans()) == 1


def test_a_missing_seam_is_logged_once_with_what_is_not_recorded(switch, exporter, caplog, monkeypatch):
    monkeypatch.delattr(BaseChatModel, "_agenerate_with_cache")
    switch()
    uninstrument()
    switch()
    [said] = [record.getMessage() for record in caplog.records]
    assert "langchain_core.language_models.chat_models.BaseChatModel._agenerate_with_cache not found" in said
    assert "spans of several conversations in one call will not be recorded" in said
    assert Talker().invoke("hi").content == "good day"
    assert len(exporter.get_finished_spans()) == 1


@tool
def doubles(n: int) -> int:
    """Doubles."""
    assert trace.get_current_span().get_span_context().trace_flags == TraceFlags(0)
    return 2 * n


def test_without_an_sdk_provider_calls_work_and_no_span_stays_current(switch):
    switch(NoOpTracerProvider())
    before = context.get_current()
    assert Talker().invoke("hi").content == "good day"
    assert len(list(Talker().stream("hi"))) >= 2
    assert asyncio.run(Talker().ainvoke("hi")).content == "good day"
    assert doubles.invoke({"n": 1}) == 2
    assert context.get_current() == before


def test_an_unsampled_parent_is_propagated_and_no_span_is_recorded(switch, exporter):
    switch()
    parent = SpanContext(trace_id=7, span_id=8, is_remote=True, trace_flags=TraceFlags(0))
    seen = []

    class Propagating(Talker):
        def _generate(self, *args, **kwargs):
            seen.append(trace.get_current_span().get_span_context())
            return super()._generate(*args, **kwargs)

    with trace.use_span(NonRecordingSpan(parent)):
        Propagating().invoke("hi")
        assert doubles.invoke({"n": 1}) == 2
    assert exporter.get_finished_spans() == ()
    assert (seen[0].trace_id, seen[0].trace_flags) == (7, TraceFlags(0))


def _frames(error):
    return [
        (frame.name, frame.line)
        for frame in traceback.extract_tb(error.__traceback__)
        if "nodespan/instrumentation" not in frame.filename
    ]


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke"])
def test_an_error_has_the_frames_that_it_has_without_instrumentation(switch, way):
    def ask():
        model = Talker(error=ConnectionError("down"))
        if way == "ainvoke":
            return asyncio.run(model.ainvoke("hi"))
        return list(model.stream("hi")) if way == "stream" else model.invoke("hi")

    with pytest.raises(ConnectionError) as plain:
        ask()
    switch()
    with pytest.raises(ConnectionError) as traced:
        ask()
    # the last frames are those of the model; LangChain's are above them
    assert _frames(traced.value)[-3:] == _frames(plain.value)[-3:]
    assert _frames(traced.value)[:2] == _frames(plain.value)[:2]


def test_the_wrapped_methods_have_the_metadata_of_the_originals(switch):
    import inspect

    before = [inspect.signature(vars(owner)[name]) for owner, name in _seams()]
    switch()
    assert [inspect.signature(vars(owner)[name]) for owner, name in _seams()] == before


def test_the_instrumentor_is_found_by_opentelemetry():
    from importlib.metadata import entry_points

    [found] = [one for one in entry_points(group="opentelemetry_instrumentor") if one.name == "nodespan_langchain"]
    assert found.load() is LangChainInstrumentor
