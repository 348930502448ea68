"""ComposerService: LangGraph's own events, in their order, each with the ids of its span."""

from __future__ import annotations

import asyncio
import copy
import gc
import re
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry import baggage, context, trace

from nodespan.errors import ConfigurationError
from nodespan.testing import span_tree
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState, _enrich
from workflow_graphs import (
    collect,
    echo_factory,
    node_ids,
    one_node,
    spans_by_id,
)

HEX = re.compile(r"[0-9a-f]+")
OURS = _enrich._OURS


@pytest.fixture
def composer(tracer_provider):
    return ComposerService(tracer_provider=tracer_provider)


def diamond() -> Any:
    """first → (left, right in a subgraph) → last"""
    with_name = lambda name: lambda _state: {"user_id": name}  # noqa: E731
    inner = StateGraph(WorkflowState)
    inner.add_node("inside", with_name("inside"))
    inner.add_edge(START, "inside")
    graph = StateGraph(WorkflowState)
    for name in ("first", "left", "last"):
        graph.add_node(name, with_name(name))
    graph.add_node("right", inner.compile(name="Inner"))
    graph.add_edge(START, "first")
    graph.add_edge("first", "left")
    graph.add_edge("first", "right")
    graph.add_edge(["left", "right"], "last")
    return graph.compile(name="Diamond")


async def test_every_event_carries_the_ids_of_its_span(composer, exporter):
    events = await collect(composer, diamond(), WorkflowState())
    spans = spans_by_id(exporter)
    root = next(span for span in spans.values() if span.parent is None)
    for event in events:
        metadata = event["metadata"]
        assert metadata["trace_id"] == f"{root.context.trace_id:032x}"
        assert metadata["trace_flags"] == int(root.context.trace_flags)
        assert metadata["workflow_context"] == "composer_service"
        assert metadata["timestamp"].endswith("+00:00")
        span = spans[metadata["span_id"]]
        if node := metadata.get("langgraph_node"):
            assert span.name == f"invoke_node {node}"
            assert metadata["node_name"] == node
            assert metadata["node_id"] == span.attributes["nodespan.node_id"]
        else:
            assert span is root
            assert "node_id" not in metadata
    assert [event["metadata"]["sequence"] for event in events] == list(range(len(events)))
    assert len(node_ids(events)) == 5


async def test_one_span_per_run_and_node_with_the_right_parents(composer, exporter):
    await collect(composer, diamond(), WorkflowState())
    assert span_tree(exporter) == [
        {
            "name": "invoke_workflow Diamond",
            "children": [
                {"name": "invoke_node first"},
                {"name": "invoke_node left"},
                {
                    "name": "invoke_node right",
                    "children": [{"name": "invoke_workflow Inner", "children": [{"name": "invoke_node inside"}]}],
                },
                {"name": "invoke_node last"},
            ],
        }
    ]


def masked(event: dict[str, Any]) -> dict[str, Any]:
    """The event without nodespan's additions and with ids and times masked."""
    event = copy.deepcopy({**event, "data": {k: v for k, v in event["data"].items() if k != "node_metadata"}})
    event["metadata"] = {key: value for key, value in event["metadata"].items() if key not in OURS}
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "uuid", repr(event))
    text = re.sub(r"'(node_id|trace_id|span_id)': '[0-9a-f]+'", r"'\1': 'id'", text)
    text = re.sub(r"'[0-9a-f]{8}': {", "'node_id': {", text)
    text = re.sub(r"'traceparent': '[^']*'", "'traceparent': '...'", text)
    text = re.sub(r"\d\d\d\d-\d\d-\d\dT[\d:.]+\+00:00", "time", text)
    return {"text": re.sub(r"(_s'?[:=] ?)\d+\.\d+(e-\d+)?", r"\g<1>0", text)}


@pytest.mark.parametrize("kind", ["plain nodes", "a pipeline node"])
async def test_order_and_content_of_langgraphs_events_are_unchanged(composer, tracer_provider, kind):
    def graph() -> Any:
        """With a newly loaded model."""
        if kind == "plain nodes":
            return diamond()
        return one_node(PipelineNode(pipeline_factory=echo_factory(), tracer_provider=tracer_provider))

    state = WorkflowState.from_prompt("one two three", user_id="u1")
    state.messages[0].id = "m1"
    config = {"metadata": {"mine": 1}, "tags": ["t"]}
    with_ids = await collect(composer, graph(), state.model_copy(deep=True), config=config)
    without = [event async for event in graph().astream_events(state.model_copy(deep=True), config, version="v2")]
    if kind == "plain nodes":
        # Parallel branches finish in either order; within a branch the order holds.
        assert sorted(masked(event)["text"] for event in with_ids) == sorted(masked(event)["text"] for event in without)
        for node in ("first", "last"):
            assert [masked(e) for e in with_ids if e["metadata"].get("langgraph_node") == node] == [
                masked(e) for e in without if e["metadata"].get("langgraph_node") == node
            ]
    else:
        assert [masked(event) for event in with_ids] == [masked(event) for event in without]


async def test_dicts_of_langgraph_are_not_modified(composer, monkeypatch):
    graph = diamond()
    handed_out: list[tuple[dict[str, Any], dict[str, Any]]] = []
    original = type(graph).astream_events

    async def watched(self, *args, **kwargs):
        async for event in original(self, *args, **kwargs):
            handed_out.append((event, {**event, "data": dict(event["data"]), "metadata": dict(event["metadata"])}))
            yield event

    monkeypatch.setattr(type(graph), "astream_events", watched)
    events = await collect(composer, graph, WorkflowState())
    assert len(handed_out) == len(events)
    assert all(event == before for event, before in handed_out)


async def test_metadata_of_the_user_with_reserved_names_is_renamed(composer):
    config = {"metadata": {"span_id": "mine", "sequence": "my own", "other": 1}}
    events = await collect(composer, diamond(), WorkflowState(), config=config)
    for event in events:
        assert event["metadata"]["user_metadata"] == {"span_id": "mine", "sequence": "my own"}
        assert event["metadata"]["other"] == 1
        assert HEX.fullmatch(event["metadata"]["span_id"])


async def test_a_failing_enrichment_yields_the_original_event_and_is_counted(composer, monkeypatch, caplog):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setattr(_enrich, "_node_metadata_of", lambda _data: 1 / 0)
    events = await collect(composer, diamond(), WorkflowState())
    assert events[0]["event"] == "on_chain_start"
    assert all("sequence" not in event["metadata"] for event in events)
    assert "failed to enrich an event" in caplog.text


async def test_a_failing_run_yields_one_last_event_and_raises_the_original_exception(composer, exporter):
    error = ValueError("broken")

    def fails(_state: WorkflowState) -> None:
        raise error

    events: list[dict[str, Any]] = []
    with pytest.raises(ValueError, match="broken") as caught:
        async for event in composer.execute_workflow(one_node(fails), WorkflowState()):
            events.append(event)
    assert caught.value is error
    last = events[-1]
    assert last["event"] == "workflow_error"
    assert set(last) == set(events[0])
    assert last["data"]["error_type"] == "ValueError"
    assert [event["event"] for event in events].count("workflow_error") == 1
    span = spans_by_id(exporter)[last["metadata"]["span_id"]]
    assert span.name == "invoke_node analyse"
    assert last["metadata"]["node_id"] == span.attributes["nodespan.node_id"]
    assert last["run_id"] == events[0]["run_id"]
    tree = span_tree(exporter, "error.type", "nodespan.status")
    assert tree[0]["attributes"] == {"error.type": "ValueError", "nodespan.status": "error"}
    assert "events" not in tree[0]
    assert tree[0]["children"][0]["events"] == ["exception"]


@pytest.mark.parametrize("leave", ["aclose", "cancel", "drop"])
async def test_closing_early_ends_the_workflow_span_once_as_cancelled(composer, exporter, leave):
    started, stopped = asyncio.Event(), asyncio.Event()

    async def slow(_state: WorkflowState) -> None:
        started.set()
        try:
            await asyncio.sleep(60)  # until it is cancelled
        finally:
            stopped.set()

    events = composer.execute_workflow(one_node(slow), WorkflowState())
    await anext(events)
    if leave == "cancel":
        task = asyncio.ensure_future(anext(events))
        while not started.is_set():
            await asyncio.sleep(0)
            if task.done():
                task = asyncio.ensure_future(anext(events))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await anext(events)
        await started.wait()
        if leave == "aclose":
            await events.aclose()
        else:
            del events
            gc.collect()
    await asyncio.wait_for(stopped.wait(), 60)
    async with asyncio.timeout(60):
        while len(exporter.get_finished_spans()) < 2:
            await asyncio.sleep(0.01)
    assert span_tree(exporter, "nodespan.status") == [
        {
            "name": "invoke_workflow LangGraph",
            "attributes": {"nodespan.status": "cancelled"},
            "children": [{"name": "invoke_node analyse", "attributes": {"nodespan.status": "cancelled"}}],
        }
    ]


async def test_an_iterator_that_is_never_started_leaves_no_span(composer, exporter):
    events = composer.execute_workflow(diamond(), WorkflowState())
    await events.aclose()
    assert exporter.get_finished_spans() == ()


async def test_the_context_at_the_call_is_the_parent_and_the_consumers_context_does_not_change(
    composer, tracer_provider, exporter
):
    tracer = tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("request") as request:
        events = composer.execute_workflow(diamond(), WorkflowState())
    with tracer.start_as_current_span("elsewhere") as elsewhere:
        token = context.attach(baggage.set_baggage("who", "consumer"))
        async for _ in events:
            assert trace.get_current_span() is elsewhere
            assert baggage.get_baggage("who") == "consumer"
        context.detach(token)
    root = next(span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow Diamond"))
    assert root.parent.span_id == request.get_span_context().span_id


async def test_a_hundred_concurrent_runs_have_separate_spans(composer, tracer_provider, exporter):
    tracer = tracer_provider.get_tracer("app")
    graph = diamond()

    async def run(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}") as request:
            expected = f"{request.get_span_context().trace_id:032x}"
            events = await collect(composer, graph, WorkflowState(user_id=str(number)))
            assert {event["metadata"]["trace_id"] for event in events} == {expected}

    await asyncio.gather(*(run(number) for number in range(100)))
    assert len(exporter.get_finished_spans()) == 100 * 8


async def test_without_a_provider_the_ids_are_none_and_the_run_is_the_same():
    events = await collect(ComposerService(), diamond(), WorkflowState())
    assert events
    for event in events:
        assert event["metadata"]["trace_id"] is None
        assert event["metadata"]["span_id"] is None
        assert event["metadata"]["trace_flags"] is None


async def test_an_interrupt_is_not_an_error_and_the_resumed_run_links_to_it(composer, exporter):
    from langgraph.checkpoint.memory import MemorySaver

    graph = one_node(lambda _state: {"user_id": interrupt("who?")}, "ask", checkpointer=MemorySaver())
    config = {"configurable": {"thread_id": "t1"}}
    await collect(composer, graph, WorkflowState(), config=config)
    first = exporter.get_finished_spans()
    exporter.clear()
    events = await collect(composer, graph, Command(resume="jane"), config=config)
    resumed = next(span for span in exporter.get_finished_spans() if span.parent is None)
    interrupted = next(span for span in first if span.parent is None)
    assert interrupted.attributes["nodespan.status"] == "interrupted"
    assert [link.context.span_id for link in resumed.links] == [interrupted.context.span_id]
    assert resumed.attributes["nodespan.status"] == "ok"
    assert events[-1]["data"]["output"]["user_id"] == "jane"
    assert all("nodespan.traceparent" not in event["metadata"] for event in events)


@pytest.mark.parametrize("config", [None, {"configurable": {"thread_id": "t1"}}], ids=["no config", "no checkpointer"])
async def test_resuming_without_a_checkpoint_has_no_link_and_no_internal_error(composer, exporter, config):
    graph = one_node(lambda _state: {"user_id": "x"})
    await collect(composer, graph, Command(update={"user_id": "y"}, goto="analyse"), config=config)
    assert all(not span.links for span in exporter.get_finished_spans())


class PlainState(TypedDict):
    value: int


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((StateGraph(PlainState), {}), "graph.compile"),
        ((object(), {}), "StateGraph.compile"),
        ((diamond(), "hello"), "from_prompt"),
        ((diamond(), {}, True, "thread-1"), "configurable"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(composer, arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        composer.execute_workflow(*arguments)


async def test_commands_updates_and_per_node_chunks_show_their_entries(composer, tracer_provider):
    node = PipelineNode(pipeline_factory=echo_factory(), tracer_provider=tracer_provider)

    async def goes_on(state: WorkflowState, config: RunnableConfig) -> Command[Any]:
        return Command(update=await node.ainvoke(state, config), goto=END)

    events = await collect(composer, one_node(goes_on), WorkflowState.from_prompt("one"))
    shown = [(event["event"], event["name"]) for event in events if "node_metadata" in event["data"]]
    assert ("on_chain_end", "analyse") in shown
    assert ("on_chain_stream", "LangGraph") in shown
    assert ("on_chain_end", "LangGraph") in shown
