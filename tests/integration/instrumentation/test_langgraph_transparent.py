"""Invariants 9 and 12, and how instrumentation is switched on and off."""

from __future__ import annotations

import asyncio
import logging
import traceback

import pytest
from langgraph.pregel import Pregel, _loop, _retry, _runner
from langgraph.types import Command, Send
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, SpanContext, TraceFlags

from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from nodespan.spans.scope import current_scope
from nodespan.testing import span_tree
from small_graphs import chain, without_ids

SEAMS = [
    (Pregel, "stream"),
    (Pregel, "astream"),
    (_runner, "run_with_retry"),
    (_runner, "arun_with_retry"),
    (_retry, "_should_retry_on"),
    (_retry, "patch_configurable"),
    (_loop.PregelLoop, "_suppress_interrupt"),
    (_loop.PregelLoop, "_first"),
]


def step(state):
    return {"seen": [1]}


def hops(state):
    return Command(update={"seen": ["hop"]}, goto=[Send("leaf", {"n": 1})])


def leaf(state):
    return {"seen": [state["n"]]}


def fails(state):
    raise RuntimeError("down")


@pytest.fixture
def switch(tracer_provider):
    """Switches instrumentation on; off again at the end."""
    yield lambda: instrument(tracer_provider=tracer_provider, langchain=False, llama_cpp=False)
    uninstrument()


def graphs():
    from langgraph.graph import START, StateGraph

    from small_graphs import State

    builder = StateGraph(State)
    builder.add_node("hops", hops, destinations=("leaf",))
    builder.add_node("leaf", leaf)
    builder.add_node("inner", chain(step, name="Inner"))
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "hops")
    return builder.compile(name="Main")


def test_instrumentation_does_not_change_results_and_events(run, switch, exporter):
    graph = graphs()
    plain = run(graph, {"seen": []})
    switch()
    assert without_ids(run(graph, {"seen": []})) == without_ids(plain)
    assert exporter.get_finished_spans()


def _user_frames(error):
    return [(f.name, f.line) for f in traceback.extract_tb(error.__traceback__) if f.filename == __file__]


@pytest.mark.parametrize("nodes", [(fails,), (step, ("inner", chain(fails, name="Inner"), {}))])
def test_instrumentation_does_not_change_exceptions_and_their_frames(nodes, run, switch):
    graph = chain(*nodes)
    seen = []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="down") as raised:
            run(graph, {"seen": []})
        error = raised.value
        notes = [note.partition(" and id ")[0] for note in getattr(error, "__notes__", [])]
        seen.append((type(error), error.args, notes, error.__cause__, _user_frames(error)[-1]))
        switch()
    assert seen[0] == seen[1]


def test_errors_of_the_call_itself_are_raised_at_the_call(switch):
    switch()
    with pytest.raises(TypeError):
        chain(step).stream()
    with pytest.raises(TypeError):
        chain(step).astream()


def test_instrument_is_idempotent_and_uninstrument_restores_the_originals(switch, caplog, exporter):
    caplog.set_level(logging.WARNING)
    before = [getattr(owner, name) for owner, name in SEAMS]
    graph = chain(step)  # compiled before
    switch()
    wrapped = [getattr(owner, name) for owner, name in SEAMS]
    assert not any(a is b for a, b in zip(before, wrapped, strict=True))
    switch()
    assert [getattr(owner, name) for owner, name in SEAMS] == wrapped
    graph.invoke({"seen": []})
    assert len(exporter.get_finished_spans()) == 2
    uninstrument()
    uninstrument()
    assert [getattr(owner, name) for owner, name in SEAMS] == before
    graph.invoke({"seen": []})
    assert len(exporter.get_finished_spans()) == 2
    assert caplog.records == []
    switch()
    graph.invoke({"seen": []})
    assert len(exporter.get_finished_spans()) == 4


def test_a_run_that_continues_after_uninstrument_ends_its_spans(switch, exporter, open_spans):
    switch()
    steps = chain(step, ("again", step, {})).stream({"seen": []})
    next(steps)
    uninstrument()
    list(steps)
    assert open_spans.open == {}
    assert [span.name for span in exporter.get_finished_spans()] == ["invoke_node step", "invoke_workflow Main"]


def test_instrument_works_again_after_another_library_wrapped_the_wrapper(switch, exporter):
    switch()
    ours = Pregel.stream

    def theirs(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    Pregel.stream = theirs
    try:
        uninstrument()
        assert Pregel.stream is theirs
        chain(step).invoke({"seen": []})
        assert exporter.get_finished_spans() == ()
        switch()
        chain(step).invoke({"seen": []})
        assert [span.name for span in exporter.get_finished_spans()] == ["invoke_node step", "invoke_workflow Main"]
    finally:
        Pregel.stream = ours
    uninstrument()
    assert Pregel.stream is not ours


def test_without_a_provider_no_span_is_opened_and_the_parent_is_propagated():
    seen, owners = [], set()

    def looks(state):
        seen.append(trace.get_current_span().get_span_context().span_id)
        owners.add(current_scope())
        return {}

    instrument(tracer_provider=NoOpTracerProvider(), langchain=False, llama_cpp=False)
    try:
        chain(looks).invoke({"seen": []})
        remote = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1))
        with trace.use_span(NonRecordingSpan(remote)):
            chain(looks).invoke({"seen": []})
            asyncio.run(chain(looks).ainvoke({"seen": []}))
    finally:
        uninstrument()
    assert seen == [0, 8, 8]
    assert owners == {None}


def test_an_unsampled_parent_is_propagated_unsampled(run):
    seen = []

    def looks(state):
        context = trace.get_current_span().get_span_context()
        seen.append((context.trace_id, context.trace_flags.sampled, trace.get_current_span().is_recording()))
        return {}

    instrument(tracer_provider=TracerProvider(ParentBased(ALWAYS_OFF)), langchain=False, llama_cpp=False)
    try:
        with trace.use_span(NonRecordingSpan(SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(0)))):
            run(chain(looks), {"seen": []})
    finally:
        uninstrument()
    assert seen == [(7, False, False)]


def test_a_sampler_receives_name_kind_and_attributes(exporter):
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    class NoNodesNamedStep(Sampler):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, *args, **kwargs):
            dropped = attributes["gen_ai.operation.name"] == "invoke_node" and attributes["langgraph.node"] == "step"
            assert attributes["gen_ai.workflow.name"] == "Main"
            return SamplingResult(Decision.DROP if dropped else Decision.RECORD_AND_SAMPLE, attributes)

        def get_description(self):
            return "no nodes named step"

    provider = TracerProvider(NoNodesNamedStep(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(tracer_provider=provider, langchain=False, llama_cpp=False)
    try:
        chain(step, ("other", step, {})).invoke({"seen": []})
    finally:
        uninstrument()
    assert span_tree(exporter) == [{"name": "invoke_workflow Main", "children": [{"name": "invoke_node other"}]}]


def test_an_internal_error_does_not_reach_the_program(switch, monkeypatch, caplog):
    monkeypatch.delenv("NODESPAN_RAISE_INTERNAL_ERRORS")
    switch()

    def breaks(*args, **kwargs):
        raise ZeroDivisionError("ours")

    for name in ("node_attributes", "workflow_attributes", "node_template"):
        monkeypatch.setattr(f"nodespan.instrumentation.langgraph._convert.{name}", breaks)
        assert chain(step).invoke({"seen": []}) == {"seen": [1]}
        assert asyncio.run(chain(step).ainvoke({"seen": []})) == {"seen": [1]}
    assert len([record for record in caplog.records if "failed to open a LangGraph span" in record.message]) <= 1


def test_instrumentation_is_a_base_instrumentor():
    assert LangGraphInstrumentor() is LangGraphInstrumentor()
    assert LangGraphInstrumentor().instrumentation_dependencies() == ()
