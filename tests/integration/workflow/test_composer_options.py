"""Options of ``execute_workflow`` reach LangGraph, and the first error is the one that is raised."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from nodespan.errors import ConfigurationError
from nodespan.testing import span_tree
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from workflow_graphs import collect, echo_factory

THREAD = {"configurable": {"thread_id": "t1"}}


@dataclass
class Context:
    user_id: str
    prefix: str


@pytest.fixture
def composer(tracer_provider):
    return ComposerService(tracer_provider=tracer_provider)


def two_nodes(tracer_provider: Any, **options: Any) -> Any:
    graph = StateGraph(WorkflowState, context_schema=Context)
    graph.add_node("first", PipelineNode(pipeline_factory=echo_factory(), tracer_provider=tracer_provider))

    def second(state: WorkflowState, runtime: Runtime[Context]) -> dict[str, Any]:
        prefix = runtime.context.prefix if runtime.context else "none"
        return {"messages": [("ai", prefix)]}

    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    return graph.compile(**options)


def state() -> WorkflowState:
    return WorkflowState.from_prompt("one two")


async def test_the_context_is_passed_to_the_nodes_and_sets_the_user(composer, tracer_provider, exporter):
    context = Context(user_id="u-1", prefix="given")
    events = await collect(composer, two_nodes(tracer_provider), state(), context=context)
    assert events[-1]["data"]["output"]["messages"][-1].content == "given"
    assert {s.attributes.get("user.id") for s in exporter.get_finished_spans() if s.name.startswith("invoke")} == {
        "u-1"
    }


@pytest.mark.parametrize(("durability", "kept"), [("exit", 1), ("sync", 4)])
async def test_the_durability_is_passed_to_the_checkpointer(composer, tracer_provider, durability, kept):
    graph = two_nodes(tracer_provider, checkpointer=InMemorySaver())
    await collect(composer, graph, state(), config=THREAD, durability=durability)
    assert len([snapshot async for snapshot in graph.aget_state_history(THREAD)]) == kept


@pytest.mark.parametrize("option", [{"interrupt_before": ["second"]}, {"interrupt_after": ["first"]}])
async def test_a_run_stops_at_the_given_nodes(composer, tracer_provider, exporter, option):
    graph = two_nodes(tracer_provider, checkpointer=InMemorySaver())
    await collect(composer, graph, state(), config=THREAD, **option)
    assert (await graph.aget_state(THREAD)).next == ("second",)
    root = next(span for span in exporter.get_finished_spans() if span.parent is None)
    assert root.attributes["nodespan.status"] == "interrupted"
    await collect(composer, graph, None, config=THREAD, interrupt_before=[])
    assert (await graph.aget_state(THREAD)).next == ()


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ({"include_names": ["second"]}, {"second"}),
        ({"include_tags": ["seq:step:1"]}, {"first", "second"}),
        ({"include_types": ["chain"], "exclude_names": ["LangGraph"]}, {"first", "second"}),
        ({"exclude_names": ["first"]}, {"LangGraph", "second"}),
        ({"exclude_types": ["chain"]}, set()),
        ({"exclude_tags": ["mine"]}, set()),
    ],
)
async def test_filters_are_passed_to_the_event_stream(composer, tracer_provider, option, names):
    graph = two_nodes(tracer_provider)
    config = {"tags": ["mine"]}
    plain = [event async for event in graph.astream_events(state(), config, version="v2", **option)]
    events = await collect(composer, graph, state(), config=config, **option)
    assert [(e["event"], e["name"]) for e in events] == [(e["event"], e["name"]) for e in plain]
    assert {event["name"] for event in events if event["event"].startswith("on_chain")} - names <= set()
    assert [event["metadata"]["sequence"] for event in events] == list(range(len(events)))


async def test_chunks_of_several_stream_modes_have_their_entries(composer, tracer_provider):
    events = await collect(composer, two_nodes(tracer_provider), state(), stream_mode=["updates", "values"])
    chunks = [event for event in events if event["event"] == "on_chain_stream" and event["name"] == "LangGraph"]
    modes = {event["data"]["chunk"][0] for event in chunks}
    assert modes == {"updates", "values"}
    with_entries = [event["data"]["chunk"][0] for event in chunks if event["data"].get("node_metadata")]
    assert set(with_entries) == modes


async def test_chunks_of_one_stream_mode_have_their_entries(composer, tracer_provider):
    events = await collect(composer, two_nodes(tracer_provider), state(), stream_mode="values")
    chunks = [event for event in events if event["event"] == "on_chain_stream" and event["name"] == "LangGraph"]
    assert isinstance(chunks[-1]["data"]["chunk"], dict)
    assert len(chunks[-1]["data"]["node_metadata"]) == 1


async def test_the_error_event_has_the_id_of_the_run_with_any_filter(composer):
    def fails(_state: WorkflowState) -> None:
        raise ValueError("broken")

    graph = StateGraph(WorkflowState)
    graph.add_node("fails", fails)
    graph.add_edge(START, "fails")
    events: list[Any] = []
    with pytest.raises(ValueError, match="broken"):
        async for event in composer.execute_workflow(graph.compile(), state(), include_names=["fails"]):
            events.append(event)
    assert events[0]["name"] == "fails"
    assert events[-1]["run_id"] == events[0]["parent_ids"][0]


def test_the_version_is_not_a_parameter(composer, tracer_provider):
    with pytest.raises(TypeError, match="version"):
        composer.execute_workflow(two_nodes(tracer_provider), state(), version="v1")


async def test_options_work_for_a_runnable_around_a_graph(composer, tracer_provider, exporter):
    graph = two_nodes(tracer_provider).with_retry(stop_after_attempt=1)
    events = await collect(composer, graph, state(), config={"run_name": "Given"})
    assert events[-1]["data"]["output"]["messages"][-1].content == "none"
    assert span_tree(exporter)[0]["name"] == "invoke_workflow Given"


class NoEvents:
    """As RemoteGraph, whose ``astream_events`` must be awaited and has no version v2."""

    checkpointer = None

    def get_name(self) -> str:
        return "remote"

    async def astream_events(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("only version v3")


class HiddenCoroutine(NoEvents):
    def astream_events(self, *args: Any, **kwargs: Any) -> Any:
        return super().astream_events(*args, **kwargs)


def test_a_workflow_without_an_event_stream_is_refused_at_the_call(composer, exporter):
    with pytest.raises(ConfigurationError, match=r"NoEvents.*astream_events"):
        composer.execute_workflow(NoEvents(), {})
    assert exporter.get_finished_spans() == ()


async def test_a_workflow_that_returns_no_event_stream_is_refused_at_the_first_step(composer, exporter):
    events: list[Any] = []
    with pytest.raises(ConfigurationError, match="HiddenCoroutine"):
        async for event in composer.execute_workflow(HiddenCoroutine(), {}):
            events.append(event)
    assert [event["event"] for event in events] == ["workflow_error"]
    assert [span.attributes["nodespan.status"] for span in exporter.get_finished_spans()] == ["error"]


class RefusesOptions(NoEvents):
    def astream_events(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("no such option")


async def test_a_workflow_that_refuses_an_option_ends_its_span(composer, exporter):
    with pytest.raises(TypeError, match="no such option"):
        async for _ in composer.execute_workflow(RefusesOptions(), {}, durability="sync"):
            pass
    assert [span.attributes["error.type"] for span in exporter.get_finished_spans()] == ["TypeError"]


class BadAtClosing(NoEvents):
    """Event streams whose closing fails, as when a node's ``finally`` raises."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def astream_events(self, *args: Any, **kwargs: Any) -> Any:
        return BadStream(self.error)


class BadStream:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        if self.error is not None:
            raise self.error
        return {"event": "on_chain_start", "name": "x", "run_id": "r", "tags": [], "metadata": {}, "data": {}}

    async def aclose(self) -> None:
        raise OSError("while closing")


async def test_an_error_of_closing_does_not_replace_the_first(composer, exporter, caplog):
    with pytest.raises(ValueError, match="first"):
        async for _ in composer.execute_workflow(BadAtClosing(ValueError("first")), {}):
            pass
    [span] = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "ValueError"
    [logged] = [
        record for record in caplog.records if getattr(record, "nodespan.code", None) == "workflow.close_failed"
    ]
    assert "while closing" in str(logged.exc_info[1])


@pytest.mark.parametrize("how", ["aclose", "cancel"])
async def test_an_error_of_closing_does_not_replace_a_cancellation(composer, exporter, how):
    events = composer.execute_workflow(BadAtClosing(None), {})
    if how == "aclose":
        await anext(events)
        await events.aclose()
    else:

        async def reads() -> None:
            async for _ in events:
                await asyncio.sleep(0)

        task = asyncio.ensure_future(reads())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await events.aclose()
    [span] = exporter.get_finished_spans()
    assert span.attributes["nodespan.status"] == "cancelled"


async def test_a_command_may_resume_with_a_context(composer, tracer_provider):
    graph = two_nodes(tracer_provider, checkpointer=InMemorySaver(), interrupt_before=["second"])
    await collect(composer, graph, state(), config=THREAD)
    events = await collect(
        composer, graph, Command(resume=1), config=THREAD, context=Context(user_id="u", prefix="again")
    )
    assert events[-1]["data"]["output"]["messages"][-1].content == "again"


async def test_a_runnable_that_is_not_a_graph_can_be_executed(composer, exporter):
    events = await collect(composer, RunnableLambda(lambda value: value + 1), 1)
    assert events[-1]["data"]["output"] == 2
    assert [span.name for span in exporter.get_finished_spans()] == ["invoke_workflow RunnableLambda"]
