"""Invariant 7: a resumed run links to the run that wrote its checkpoint, and nothing is written unasked."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from nodespan.instrumentation.langgraph import _resume
from small_graphs import State, chain, thread

pytestmark = pytest.mark.usefixtures("traced")

KEY = "nodespan.traceparent"


def asks(state):
    return {"seen": [interrupt("?")]}


def step(state):
    return {"seen": [1]}


def workflows(exporter):
    return [s for s in exporter.get_finished_spans() if s.name.startswith("invoke_workflow") and s.parent is None]


def linked(span):
    return [link.context.span_id for link in span.links]


def test_a_resumed_run_links_to_the_run_that_was_interrupted(run, exporter):
    graph = chain(asks, step, checkpointer=InMemorySaver())
    run(graph, {"seen": []}, thread())
    run(graph, Command(resume="yes"), thread())
    first, second = workflows(exporter)
    assert linked(first) == []
    assert linked(second) == [first.context.span_id]
    assert second.links[0].attributes == {"nodespan.link": "resumed_from"}
    assert first.attributes["langgraph.checkpoint.left_id"] == second.attributes["langgraph.checkpoint.id"]
    assert {s.attributes["langgraph.thread.id"] for s in (first, second)} == {"t1"}


@pytest.mark.parametrize("captures", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_question_and_answer_of_an_interrupt_are_captured_content(inner, captures, run, exporter, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY" if captures else "NO_CONTENT")

    def asks_twice(state):
        return {"seen": [interrupt({"approve": "call 0664 1234"}), interrupt("sure?")]}

    graph = chain(("inner", chain(asks_twice), {}) if inner else asks_twice, checkpointer=InMemorySaver())
    run(graph, {"seen": []}, thread())
    run(graph, Command(resume={"ok": True}), thread())
    run(graph, Command(resume="yes"), thread())
    runs = workflows(exporter)
    names = ("langgraph.interrupt_values", "langgraph.resume_value")
    found = [tuple(span.attributes.get(name) for name in names) for span in runs]
    if captures:
        assert found == [
            ('[{"approve": "call 0664 1234"}]', None),
            ('["sure?"]', '{"ok": true}'),
            (None, "yes"),
        ]
    else:
        assert found == [(None, None)] * 3
        assert "call 0664" not in str([span.to_json() for span in exporter.get_finished_spans()])


def test_questions_of_parallel_nodes_are_all_captured(run, exporter, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    builder = StateGraph(State)
    for question in ("a?", "b?"):
        builder.add_node(question, lambda state, question=question: {"seen": [interrupt(question)]})
        builder.add_edge(START, question)
    run(builder.compile(checkpointer=InMemorySaver()), {"seen": []}, thread())
    [span] = workflows(exporter)
    assert sorted(json.loads(span.attributes["langgraph.interrupt_values"])) == ["a?", "b?"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("inner", [False, True])
def test_the_link_holds_for_every_durability_and_for_subgraphs(durability, inner, exporter):
    node = ("inner", chain(asks, name="Inner"), {}) if inner else asks
    graph = chain(step, node, checkpointer=InMemorySaver())
    graph.invoke({"seen": []}, thread(), durability=durability)
    graph.invoke(Command(resume="yes"), thread(), durability=durability)
    first, second = workflows(exporter)
    assert linked(second) == [first.context.span_id]


def test_a_static_interrupt_is_linked_too(exporter):
    graph = chain(step, ("after", step, {}), checkpointer=InMemorySaver(), interrupt_before=["after"])
    graph.invoke({"seen": []}, thread())
    graph.invoke(None, thread())
    first, second = workflows(exporter)
    assert linked(second) == [first.context.span_id]


def test_a_run_that_is_interrupted_again_links_to_the_run_that_wrote_the_checkpoint(exporter):
    def asks_twice(state):
        return {"seen": [interrupt("1"), interrupt("2")]}

    graph = chain(asks_twice, checkpointer=InMemorySaver())
    graph.invoke({"seen": []}, thread())
    graph.invoke(Command(resume="a"), thread())
    graph.invoke(Command(resume="b"), thread())
    first, second, third = workflows(exporter)
    assert linked(second) == [first.context.span_id]
    assert linked(third) == [first.context.span_id]


def test_threads_of_the_same_name_in_two_graphs_are_not_linked(exporter):
    one = chain(asks, name="One", checkpointer=InMemorySaver())
    two = chain(asks, name="Two", checkpointer=InMemorySaver())
    one.invoke({"seen": []}, thread())
    two.invoke({"seen": []}, thread())
    one.invoke(Command(resume=1), thread())
    first, _, third = workflows(exporter)
    assert linked(third) == [first.context.span_id]


def test_a_new_input_on_an_interrupted_thread_is_not_a_resume(exporter):
    graph = chain(asks, checkpointer=InMemorySaver())
    graph.invoke({"seen": []}, thread())
    graph.invoke({"seen": []}, thread())
    assert [linked(span) for span in workflows(exporter)] == [[], []]


def test_the_table_of_interrupted_runs_is_bounded(exporter, monkeypatch):
    monkeypatch.setattr(_resume, "MAX_UNFINISHED", 3)
    graph = chain(asks, checkpointer=InMemorySaver())
    for n in range(10):
        graph.invoke({"seen": []}, thread(f"t{n}"))
    assert len(_resume._unfinished) == 3
    graph.invoke(Command(resume=1), thread("t9"))
    graph.invoke(Command(resume=1), thread("t0"))
    *_, kept, forgotten = workflows(exporter)
    assert (len(kept.links), len(forgotten.links)) == (1, 0)


def _everything_kept(graph, config):
    return repr([(s.values, s.metadata, s.config) for s in graph.get_state_history(config)])


def test_checkpoints_of_other_programs_are_not_modified(run):
    graph = chain(asks, step, checkpointer=InMemorySaver())
    config = thread()
    run(graph, {"seen": []}, config)
    run(graph, Command(resume="yes"), config)
    assert "nodespan" not in _everything_kept(graph, config)
    assert config == thread()


PROGRAM = """
import json, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command, interrupt
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from small_graphs import chain
from nodespan.instrumentation.langgraph import LangGraphInstrumentor

exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
LangGraphInstrumentor().instrument(tracer_provider=provider)

def asks(state):
    return {"seen": [interrupt("?")]}

path, config, resume = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
with SqliteSaver.from_conn_string(path) as saver:
    chain(asks, checkpointer=saver).invoke(Command(resume=1) if resume == "resume" else {"seen": []}, config)
span = exporter.get_finished_spans()[-1]
print(json.dumps({"id": span.context.span_id, "links": [link.context.span_id for link in span.links]}))
"""


def _process(path, config, what):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), json.dumps(config), what],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_with_the_opt_in_a_run_is_linked_in_another_process(tmp_path):
    config = thread("t1", **{KEY: ""})
    first = _process(tmp_path / "c.db", config, "start")
    second = _process(tmp_path / "c.db", config, "resume")
    assert second["links"] == [first["id"]]


@pytest.mark.extended
def test_without_the_opt_in_a_run_is_not_linked_in_another_process(tmp_path):
    _process(tmp_path / "c.db", thread(), "start")
    assert _process(tmp_path / "c.db", thread(), "resume")["links"] == []


@pytest.mark.parametrize("how", ["config", "with_config", "positional"])
def test_the_opt_in_does_not_modify_the_users_config(how, exporter):
    graph = chain(asks, checkpointer=InMemorySaver())
    config = thread("t1", mine="kept", **{KEY: ""})
    if how == "with_config":
        asyncio.run(graph.with_config(metadata={KEY: ""}).ainvoke({"seen": []}, thread("t1", mine="kept")))
    elif how == "config":
        graph.invoke({"seen": []}, config=config)
    else:
        list(graph.stream({"seen": []}, config))
    assert config == thread("t1", mine="kept", **{KEY: ""})
    metadata = graph.get_state(thread()).metadata
    (span,) = workflows(exporter)
    assert metadata["mine"] == "kept"
    assert metadata[KEY].startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
