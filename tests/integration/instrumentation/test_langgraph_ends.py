"""Invariants 3 and 4: every span ends once, however the run ends; no context stays attached."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest
from langgraph.errors import GraphRecursionError
from langgraph.types import Command

from nodespan.instrumentation.langgraph import _resume
from nodespan.spans.scope import current_scope
from nodespan.testing import span_tree
from small_graphs import chain, fan

pytestmark = pytest.mark.usefixtures("traced")

PATIENCE_S = 60
CANCELLED = {"nodespan.status": "cancelled"}


def step(state):
    return {"seen": [1]}


async def astep(state):
    await asyncio.sleep(0)
    return {"seen": [1]}


def long_chain(body):
    return chain(*((f"n{i}", body, {}) for i in range(4)))


def root_of(exporter):
    (root,) = span_tree(exporter, "nodespan.status")
    return root


def test_a_sync_consumer_that_breaks_ends_the_run(exporter):
    for _ in long_chain(step).stream({"seen": []}):
        break
    gc.collect()
    root = root_of(exporter)
    assert root["attributes"] == CANCELLED
    assert "status" not in root


def test_a_sync_generator_that_is_closed_ends_the_run(exporter):
    steps = long_chain(step).stream({"seen": []})
    next(steps)
    steps.close()
    assert root_of(exporter)["attributes"] == CANCELLED


async def test_an_async_consumer_that_breaks_ends_the_run(exporter):
    async def reads_one():
        async for _ in long_chain(astep).astream({"seen": []}):
            break

    await reads_one()
    gc.collect()
    async with asyncio.timeout(PATIENCE_S):  # the loop closes abandoned generators in a task of its own
        while exporter.get_finished_spans()[-1].name != "invoke_workflow Main":
            await asyncio.sleep(0.01)
    assert root_of(exporter)["attributes"] == CANCELLED


async def test_closing_an_async_stream_stops_running_nodes_before_it_returns(exporter):
    stopped = []

    async def hangs(state):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("hangs")

    steps = fan(astep, hangs).astream({"seen": []})
    await anext(steps)
    await steps.aclose()
    assert stopped == ["hangs"]
    assert root_of(exporter)["attributes"] == CANCELLED
    assert {"name": "invoke_node hangs", "attributes": CANCELLED} in root_of(exporter)["children"]


def test_closing_a_referenced_sync_stream_ends_the_run_before_it_returns(exporter):
    owners = []

    def remembers(state):
        owners.append(current_scope().parent)
        return {}

    steps = long_chain(remembers).stream({"seen": []})
    next(steps)
    steps.close()
    assert root_of(exporter)["attributes"] == CANCELLED


async def test_abandoning_an_event_stream_ends_the_run(exporter):
    blocked = asyncio.Event()

    async def waits(state):
        await blocked.wait()

    events = chain(waits).astream_events({"seen": []}, version="v2")
    async for event in events:
        if event.get("name") == "waits":
            break
    await events.aclose()
    root = root_of(exporter)
    assert root["attributes"] == CANCELLED
    assert root["children"] == [{"name": "invoke_node waits", "attributes": CANCELLED}]


def test_a_generator_that_is_never_read_leaves_no_span(exporter):
    long_chain(step).stream({"seen": []})
    long_chain(astep).astream({"seen": []})
    gc.collect()
    assert exporter.get_finished_spans() == ()


def test_a_generator_that_outlives_its_loop_ends_its_span(exporter):
    kept = []

    async def reads_one():
        kept.append(long_chain(astep).astream({"seen": []}))
        await anext(kept[0])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(reads_one())
    loop.close()
    kept.clear()
    gc.collect()
    assert root_of(exporter)["attributes"] == CANCELLED


CLOSED_LOOP = """
import asyncio, gc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from small_graphs import chain
from nodespan.instrumentation.langgraph import LangGraphInstrumentor

exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
LangGraphInstrumentor().instrument(tracer_provider=provider)

async def starts():
    started = asyncio.Event()

    async def hangs(state):
        started.set()
        await asyncio.Event().wait()

    run = asyncio.create_task(chain(hangs).ainvoke({"seen": []}))
    await started.wait()
    return run

loop = asyncio.new_event_loop()
run = loop.run_until_complete(starts())
loop.close()
del run
gc.collect()
print(sorted(span.name for span in exporter.get_finished_spans()))  # garbage is collected in no order
"""


def test_a_node_ends_its_span_when_its_loop_is_closed():
    """In a separate process: LangChain leaves coroutines unawaited when it is torn down in this way."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_LOOP],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['invoke_node hangs', 'invoke_workflow Main']"
    assert "detach" not in done.stderr


async def test_wait_for_around_a_run_ends_run_and_node(exporter):
    started = asyncio.Event()

    async def hangs(state):
        started.set()
        await asyncio.Event().wait()

    patience_s = 0.05
    while not started.is_set():  # on a busy machine the time may be over before the node begins
        exporter.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(chain(hangs).ainvoke({"seen": []}), patience_s)
        patience_s *= 2
    assert root_of(exporter) == {
        "name": "invoke_workflow Main",
        "attributes": CANCELLED,
        "children": [{"name": "invoke_node hangs", "attributes": CANCELLED}],
    }


async def test_a_failing_sibling_cancels_async_nodes(exporter):
    async def fails(state):
        await asyncio.sleep(0.01)  # the other node has started by then
        raise RuntimeError("down")

    async def hangs(state):
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="down"):
        await fan(fails, hangs).ainvoke({"seen": []})
    nodes = {node["name"]: node for node in root_of(exporter)["children"]}
    assert nodes["invoke_node fails"]["status"] == "ERROR"
    assert nodes["invoke_node hangs"] == {"name": "invoke_node hangs", "attributes": CANCELLED}


def test_a_failing_sibling_does_not_stop_sync_nodes(exporter):
    failed = threading.Event()

    def fails(state):
        failed.set()
        raise RuntimeError("down")

    def goes_on(state):
        assert failed.wait(10)
        return {}

    with pytest.raises(RuntimeError, match="down"):
        fan(fails, goes_on).invoke({"seen": []})
    nodes = {span.name: span.attributes["nodespan.status"] for span in exporter.get_finished_spans()}
    assert nodes == {"invoke_node fails": "error", "invoke_node goes_on": "ok", "invoke_workflow Fan": "error"}


def test_the_recursion_limit_is_an_error_of_the_run_only(run, exporter):
    def loops(state):
        return Command(goto="loops")

    with pytest.raises(GraphRecursionError):
        run(chain(loops), {"seen": []}, {"recursion_limit": 3})
    (root,) = span_tree(exporter, "error.type")
    assert root["status"] == "ERROR"
    assert root["attributes"] == {"error.type": "langgraph.errors.GraphRecursionError"}
    assert root["events"] == ["exception"]
    assert {tuple(node) for node in root["children"]} == {("name",)}


def test_an_error_in_the_consumer_ends_the_run_as_cancelled(exporter):
    def reads():
        for _ in long_chain(step).stream({"seen": []}):
            raise KeyError("the consumer's own")

    with pytest.raises(KeyError):
        reads()
    gc.collect()
    root = root_of(exporter)
    assert root["attributes"] == CANCELLED
    assert "events" not in root


async def test_a_thousand_cancelled_runs_leave_no_open_span(exporter, open_spans):
    async def hangs(state):
        await asyncio.Event().wait()

    owners = weakref.WeakSet()

    async def remembers(state):
        owners.update((current_scope(), current_scope().parent))
        await hangs(state)

    graph = chain(remembers)
    for _ in range(10):
        runs = [asyncio.create_task(graph.ainvoke({"seen": []})) for _ in range(100)]
        while len(open_spans.open) < 200:
            await asyncio.sleep(0)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        assert open_spans.open == {}
    assert len(exporter.get_finished_spans()) == 2000
    del runs, run
    gc.collect()
    assert len(owners) == 0
    assert len(_resume._unfinished) <= _resume.MAX_UNFINISHED


def test_a_generator_closed_in_another_thread_ends_its_span(exporter):
    steps = [long_chain(step).stream({"seen": []})]
    next(steps[0])
    thread = threading.Thread(target=steps.clear)
    thread.start()
    thread.join()
    assert root_of(exporter)["attributes"] == CANCELLED


async def test_an_async_generator_abandoned_during_a_step_ends_run_and_node(exporter):
    started = asyncio.Event()

    async def hangs(state):
        started.set()
        await asyncio.Event().wait()

    steps = chain(hangs).astream({"seen": []})
    reading = asyncio.create_task(anext(steps))
    await started.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    root = root_of(exporter)
    assert root["attributes"] == CANCELLED
    assert root["children"][0]["attributes"] == CANCELLED
