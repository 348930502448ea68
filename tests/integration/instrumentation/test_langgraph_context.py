"""Invariant 2: the node's span is current in the node, and no span of nodespan is current in the consumer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import pytest
from langgraph.func import entrypoint, task
from langgraph.types import Send
from opentelemetry import baggage, trace
from opentelemetry import context as context_api

from nodespan.testing import span_tree
from small_graphs import State, chain, fan

pytestmark = pytest.mark.usefixtures("traced")


def current():
    return getattr(trace.get_current_span(), "name", None)


def sees(state):
    return {"seen": [current()]}


async def asees(state):
    await asyncio.sleep(0)
    return {"seen": [current()]}


def in_thread(state):
    return {"seen": [current(), threading.current_thread() is threading.main_thread()]}


def test_the_span_of_a_sync_node_is_current_in_it(run):
    seen = []

    def looks(state):
        seen.append(current())
        return {}

    run(chain(looks), {"seen": []})
    run(fan(looks, sees), {"seen": []})
    assert seen == ["invoke_node looks"] * 2


def test_a_run_in_a_background_event_loop_is_below_the_node_that_waits_for_it(run, exporter):
    """Runs a loop in a background thread, as notebooks and synchronous wrappers do."""
    inner = chain(asees, name="Inner")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def waits(state):
        return asyncio.run_coroutine_threadsafe(inner.ainvoke({"seen": []}), loop).result(10)

    try:
        run(chain(waits), {"seen": []})
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert span_tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "children": [
                {
                    "name": "invoke_node waits",
                    "children": [{"name": "invoke_workflow Inner", "children": [{"name": "invoke_node asees"}]}],
                }
            ],
        }
    ]


def test_the_span_of_an_async_node_is_current_in_it(arun):
    seen = []

    async def looks(state):
        seen.append(current())
        await asyncio.sleep(0)
        seen.append(current())
        return {}

    arun(chain(looks), {"seen": []})
    arun(fan(looks, asees), {"seen": []})
    assert seen == ["invoke_node looks"] * 4


def test_the_spans_of_send_branches_and_functional_tasks_are_current_in_them():
    @task
    def work(n):
        return current()

    @entrypoint()
    def flow(n):
        return [current(), work(n).result(), current()]

    assert flow.invoke(1) == ["invoke_node flow", "invoke_node work", "invoke_node flow"]


def test_parallel_sync_nodes_have_their_own_current_span(exporter):
    barrier = threading.Barrier(2, timeout=10)  # both are running at once, so they are in two threads

    def left(state):
        barrier.wait()
        return {"seen": [current()]}

    def right(state):
        barrier.wait()
        return {"seen": [current()]}

    assert sorted(fan(left, right).invoke({"seen": []})["seen"]) == ["invoke_node left", "invoke_node right"]


def test_spans_and_log_records_of_the_program_belong_to_the_node(run, exporter, tracer, caplog):
    class Ids(logging.Filter):
        def filter(self, record):
            record.span_id = trace.get_current_span().get_span_context().span_id
            return True

    logger = logging.getLogger("user")
    logger.addFilter(ids := Ids())

    def works(state):
        with tracer.start_as_current_span("query"):
            pass
        logger.warning("a line of the user's")
        return {}

    run(chain(works), {"seen": []})
    logger.removeFilter(ids)
    assert span_tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "children": [{"name": "invoke_node works", "children": [{"name": "query"}]}],
        }
    ]
    node = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node works")
    assert [r.span_id for r in caplog.records if r.name == "user"] == [node.context.span_id]


def _own(n):
    """A context of the consumer's own for one step."""
    return baggage.set_baggage("step", n)


def test_a_sync_consumer_keeps_its_span_context_and_baggage_between_chunks(tracer, exporter):
    with tracer.start_as_current_span("consumer"):
        steps = chain(sees, ("again", sees, {})).stream({"seen": []})
        for n in range(2):
            token = context_api.attach(mine := _own(n))
            next(steps)
            assert context_api.get_current() is mine
            context_api.detach(token)
            with tracer.start_as_current_span(f"between {n}"):
                pass
        assert list(steps) == []
        assert current() == "consumer"
    (consumer,) = span_tree(exporter)
    assert [child["name"] for child in consumer["children"]] == ["invoke_workflow Main", "between 0", "between 1"]


async def test_an_async_consumer_keeps_its_span_context_and_baggage_between_chunks(tracer, exporter):
    with tracer.start_as_current_span("consumer"):
        steps = chain(asees, ("again", asees, {})).astream({"seen": []})
        for n in range(2):
            token = context_api.attach(mine := _own(n))
            await anext(steps)
            assert context_api.get_current() is mine
            context_api.detach(token)
            with tracer.start_as_current_span(f"between {n}"):
                pass
        assert [step async for step in steps] == []
        assert current() == "consumer"
    (consumer,) = span_tree(exporter)
    assert [child["name"] for child in consumer["children"]] == ["invoke_workflow Main", "between 0", "between 1"]


def test_a_node_has_the_baggage_of_the_consumer_at_that_step():
    def reads(state):
        return {"seen": [baggage.get_baggage("step")]}

    steps = chain(reads, ("again", reads, {})).stream({"seen": []}, stream_mode="updates")
    seen = []
    for n in range(2):
        token = context_api.attach(_own(n))
        seen += next(iter(next(steps).values()))["seen"]
        context_api.detach(token)
    steps.close()
    assert seen == [0, 1]


@pytest.mark.filterwarnings("ignore:.*(is deprecated|experimental|beta)")
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_consumer_of_events_keeps_its_context(version, tracer):
    with tracer.start_as_current_span("consumer"):
        mine = context_api.get_current()
        async for _ in chain(asees).astream_events({"seen": []}, version=version):
            assert context_api.get_current() is mine


def test_a_generator_can_continue_and_end_in_another_thread(exporter, tracer):
    with tracer.start_as_current_span("request"):
        steps = chain(sees, ("again", sees, {})).stream({"seen": []})
        next(steps)
    left_in_thread = []

    def goes_on():
        left_in_thread.extend(steps)
        left_in_thread.append(current())

    thread = threading.Thread(target=goes_on)
    thread.start()
    thread.join()
    assert left_in_thread == [{"again": {"seen": ["invoke_node again"]}}, None]
    (request,) = span_tree(exporter)
    assert [node["name"] for node in request["children"][0]["children"]] == ["invoke_node sees", "invoke_node again"]


async def test_an_async_generator_can_continue_and_be_closed_in_another_task(exporter, tracer):
    with tracer.start_as_current_span("request"):
        steps = chain(asees, ("again", asees, {}), ("third", asees, {})).astream({"seen": []})
        await asyncio.create_task(anext(steps))

    async def goes_on():
        await anext(steps)
        await steps.aclose()
        return current()

    assert await asyncio.create_task(goes_on()) is None
    (request,) = span_tree(exporter, "nodespan.status")
    assert request["children"][0]["attributes"] == {"nodespan.status": "cancelled"}


def test_a_user_span_around_single_steps_does_not_become_the_parent(exporter, tracer):
    """The parent of a run is the span at its call; another span may be current when the consumer reads a step."""
    steps = chain(sees).stream({"seen": []})
    with tracer.start_as_current_span("reading"):
        list(steps)
    assert sorted(root["name"] for root in span_tree(exporter)) == ["invoke_workflow Main", "reading"]


def test_a_context_that_a_node_leaves_attached_is_not_current_in_the_next_node(leaks):
    def careless(state):
        context_api.attach(baggage.set_baggage("leak", "1"))
        leaks.forget(trace.get_current_span())
        return {}

    def reads(state):
        return {"seen": [baggage.get_baggage("leak"), current()]}

    assert chain(careless, reads).invoke({"seen": []})["seen"] == [None, "invoke_node reads"]


async def test_in_a_task_that_outlives_its_node_the_span_of_the_node_is_current():
    done = asyncio.Event()
    seen = []

    async def background():
        await done.wait()
        seen.append(current())

    async def starts(state):
        seen.append(asyncio.create_task(background()))
        return {}

    await chain(starts).ainvoke({"seen": []})
    done.set()
    await seen[0]
    assert seen[1] == "invoke_node starts"


def test_each_send_branch_has_its_own_current_span():
    from langgraph.graph import START, StateGraph

    def branch(state):
        span = trace.get_current_span()
        return {"seen": [(span.name, span.get_span_context().span_id)]}

    builder = StateGraph(State)
    builder.add_node("branch", branch)
    builder.add_conditional_edges(START, lambda state: [Send("branch", {"n": n}) for n in range(5)], ["branch"])
    seen = builder.compile().invoke({"seen": []})["seen"]
    assert {name for name, _ in seen} == {"invoke_node branch"}
    assert len({span_id for _, span_id in seen}) == 5


async def test_aclosing_does_not_change_the_consumers_context(tracer):
    with tracer.start_as_current_span("consumer"):
        async with contextlib.aclosing(chain(asees, ("again", asees, {})).astream({"seen": []})) as steps:
            async for _ in steps:
                break
        assert current() == "consumer"
