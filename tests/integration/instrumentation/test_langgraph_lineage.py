"""A run links to the edited, failed, abandoned or stopped run that it continues; a replay and a fork do not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.errors import GraphRecursionError
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt

from nodespan.workflow import ComposerService
from small_graphs import chain, thread

pytestmark = pytest.mark.usefixtures("traced")

KEY = "nodespan.traceparent"


def asks(state):
    return {"seen": [interrupt("?")]}


def step(state):
    return {"seen": [1]}


class Fails:
    """A node that fails the given number of times."""

    def __init__(self, times=1):
        self.times = times

    def __call__(self, state):
        self.times -= 1
        if self.times >= 0:
            raise ValueError("down")
        return {"seen": ["well"]}


def workflows(exporter):
    spans = [s for s in exporter.get_finished_spans() if s.name.startswith("invoke_workflow") and s.parent is None]
    return sorted(spans, key=lambda span: span.start_time)


def linked(span):
    return [(link.context.span_id, dict(link.attributes)) for link in span.links]


def to(span):
    return [(span.context.span_id, {"nodespan.link": "resumed_from"})]


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("addressed", [False, True])
@pytest.mark.parametrize("kind", ["dynamic", "static", "failure"])
def test_a_run_resumed_after_update_state_links_to_the_interrupted_run(kind, addressed, updates, run, exporter):
    node, options, resume = {
        "dynamic": (asks, {}, Command(resume=1)),
        "static": (step, {"interrupt_before": ["node"]}, None),
        "failure": (Fails(), {}, None),
    }[kind]
    graph = chain(("first", step, {}), ("node", node, {}), checkpointer=InMemorySaver(), **options)
    try:
        run(graph, {"seen": []}, thread())
    except ValueError:
        assert kind == "failure"
    for number in range(updates):
        config = graph.update_state(thread(), {"n": number}, as_node="first")
    run(graph, resume, config if addressed else thread())
    first, second = workflows(exporter)
    assert linked(second) == to(first)
    assert second.attributes["nodespan.status"] == "ok"


def test_a_run_that_continues_after_a_failure_links_to_the_failed_run(run, exporter):
    graph = chain(step, ("fails", Fails(2), {}), checkpointer=InMemorySaver())
    for _ in range(2):
        with pytest.raises(ValueError, match="down"):
            run(graph, {"seen": []} if not workflows(exporter) else None, thread())
    run(graph, None, thread())
    first, second, third = workflows(exporter)
    assert linked(first) == []
    assert linked(second) == to(first)
    assert linked(third) == to(first)  # the second wrote no checkpoint
    assert first.attributes["langgraph.checkpoint.left_id"] == second.attributes["langgraph.checkpoint.id"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_the_link_after_a_failure_holds_for_every_durability_and_for_subgraphs(durability, exporter):
    inner = chain(step, ("fails", Fails(), {}), name="Inner")
    graph = chain(("first", step, {}), ("inner", inner, {}), checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="down"):
        graph.invoke({"seen": []}, thread(), durability=durability)
    graph.invoke(None, thread(), durability=durability)
    first, second = workflows(exporter)
    assert linked(second) == to(first)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_abandoned_run_is_linked(is_async, exporter):
    graph = chain(step, ("second", step, {}), ("third", step, {}), checkpointer=InMemorySaver())

    async def left():
        steps = graph.astream({"seen": []}, thread(), durability="sync")
        await anext(steps)
        await steps.aclose()

    if is_async:
        asyncio.run(left())
    else:
        steps = graph.stream({"seen": []}, thread(), durability="sync")
        next(steps)
        steps.close()
    graph.invoke(None, thread())
    first, second = workflows(exporter)
    assert first.attributes["nodespan.status"] == "cancelled"
    assert linked(second) == to(first)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_that_reached_its_recursion_limit_is_linked(is_async, exporter):
    graph = chain(step, ("second", step, {}), ("third", step, {}), checkpointer=InMemorySaver())
    config = {**thread(), "recursion_limit": 2}
    with pytest.raises(GraphRecursionError):
        asyncio.run(graph.ainvoke({"seen": []}, config)) if is_async else graph.invoke({"seen": []}, config)
    graph.invoke(None, thread())
    first, second = workflows(exporter)
    assert linked(second) == to(first)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_workflow_of_the_functional_api_is_linked(is_async, exporter):
    fails = Fails()

    @task
    def work(value):
        return fails(value)

    @entrypoint(checkpointer=InMemorySaver())
    def job(value):
        return work(value).result()

    def call(value):
        return asyncio.run(job.ainvoke(value, thread())) if is_async else job.invoke(value, thread())

    with pytest.raises(ValueError, match="down"):
        call({"x": 1})
    call(None)
    first, second = workflows(exporter)
    assert linked(second) == to(first)


@pytest.mark.parametrize("addressed", [False, True])
@pytest.mark.parametrize("what", ["replay", "fork"])
def test_a_replay_and_a_fork_of_a_finished_run_have_no_link(what, addressed, run, exporter):
    graph = chain(step, ("second", step, {}), ("third", step, {}), checkpointer=InMemorySaver())
    run(graph, {"seen": []}, thread())
    old = list(graph.get_state_history(thread()))[2].config
    if what == "fork":
        old = graph.update_state(old, {"n": 7})
        run(graph, None, old if addressed else thread())
    elif addressed:
        run(graph, None, old)
    else:
        run(graph, {"seen": []}, thread())
    assert [linked(span) for span in workflows(exporter)] == [[], []]


@pytest.mark.parametrize("kind", ["dynamic", "failure", "fork"])
async def test_a_composed_run_has_the_same_links(kind, tracer_provider, exporter):
    composer = ComposerService(tracer_provider=tracer_provider)
    node = {"dynamic": asks, "failure": Fails(), "fork": step}[kind]
    graph = chain(("first", step, {}), ("node", node, {}), ("last", step, {}), checkpointer=InMemorySaver())

    async def call(value):
        async for _ in composer.execute_workflow(graph, value, config=thread()):
            pass

    try:
        await call({"seen": []})
    except ValueError:
        assert kind == "failure"
    if kind == "fork":
        await graph.aupdate_state([s async for s in graph.aget_state_history(thread())][2].config, {"n": 1})
    else:
        await graph.aupdate_state(thread(), {"n": 1}, as_node="first")
    await call(Command(resume=1) if kind == "dynamic" else None)
    first, second = workflows(exporter)
    assert linked(second) == ([] if kind == "fork" else to(first))


async def test_parent_checkpoints_are_read_through_an_asynchronous_saver(exporter, tmp_path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.db")) as saver:
        graph = chain(asks, step, checkpointer=saver)
        await graph.ainvoke({"seen": []}, thread())
        await graph.aupdate_state(thread(), {"n": 1}, as_node="__start__")
        await graph.ainvoke(Command(resume=1), thread())
    first, second = workflows(exporter)
    assert linked(second) == to(first)


def test_with_a_saver_that_cannot_list_only_the_link_is_missing(exporter, caplog, monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")

    class Saver(InMemorySaver):
        def list(self, *args, **kwargs):
            raise OSError("gone")

    graph = chain(asks, step, checkpointer=Saver())
    graph.invoke({"seen": []}, thread())
    graph.update_state(thread(), {"n": 1}, as_node="__start__")
    assert graph.invoke(Command(resume=2), thread())["seen"] == [2, 1]
    assert linked(workflows(exporter)[1]) == []


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
path, config, kind, what = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]

def first(state):
    return {"seen": [0]}

def node(state):
    if kind == "dynamic":
        return {"seen": [interrupt("?")]}
    if kind == "failure" and what == "start":
        raise ValueError("down")
    return {"seen": [1]}

options = {"interrupt_before": ["node"]} if kind == "static" else {}
with SqliteSaver.from_conn_string(path) as saver:
    graph = chain(first, node, checkpointer=saver, **options)
    if what == "start":
        try:
            graph.invoke({"seen": []}, config)
        except ValueError:
            assert kind == "failure"
    else:
        if what == "edit":
            graph.update_state(config, {"n": 1}, as_node="first")
        graph.invoke(Command(resume=1) if kind == "dynamic" else None, config)
span = exporter.get_finished_spans()[-1]
print(json.dumps({"id": span.context.span_id, "links": [link.context.span_id for link in span.links]}))
"""


def _process(path, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.extended
@pytest.mark.parametrize("what", ["resume", "edit"])
@pytest.mark.parametrize("kind", ["dynamic", "static", "failure"])
def test_an_opted_in_run_is_linked_from_another_process(kind, what, tmp_path):
    config = json.dumps(thread("t1", **{KEY: ""}))
    first = _process(tmp_path / "c.db", config, kind, "start")
    second = _process(tmp_path / "c.db", config, kind, what)
    assert second["links"] == [first["id"]]


def test_a_nested_graph_with_its_own_thread_opts_in(exporter):
    inner = chain(asks, name="Inner", checkpointer=InMemorySaver())

    def calls(state):
        inner.invoke({"seen": []}, thread("inner", **{KEY: ""}))
        return {}

    chain(calls).invoke({"seen": []})
    [span] = [span for span in exporter.get_finished_spans() if span.name == "invoke_workflow Inner"]
    assert f"{span.context.span_id:016x}" in inner.get_state(thread("inner")).metadata[KEY]


async def test_without_a_provider_a_composed_run_does_not_change_its_checkpoints():
    from nodespan.instrumentation import uninstrument

    uninstrument()
    graph = chain(step, checkpointer=InMemorySaver())
    async for _ in ComposerService().execute_workflow(graph, {"seen": []}, config=thread()):
        pass
    assert KEY not in graph.get_state(thread()).metadata


async def test_iterators_over_earlier_checkpoints_are_closed_before_the_run_ends(exporter):
    """An async generator that is left open is closed later, perhaps when the saver's connection is closed."""
    opened, closed = [], []

    class Watched(InMemorySaver):
        async def alist(self, *args, **kwargs):
            opened.append(True)
            try:
                async for saved in super().alist(*args, **kwargs):
                    yield saved
            finally:
                await asyncio.sleep(0.05)  # closing that is not awaited ends later than the run
                closed.append(True)

    graph = chain(("first", step, {}), ("node", asks, {}), checkpointer=Watched())
    await graph.ainvoke({"seen": []}, thread())
    await graph.aupdate_state(thread(), {"n": 1}, as_node="first")
    await graph.ainvoke(Command(resume=1), thread())
    assert linked(workflows(exporter)[1])
    assert opened
    assert len(closed) == len(opened)
