"""PipelineNode: state entry and span agree, chunks reach the event stream, in every kind of graph."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, RetryPolicy, Send
from opentelemetry import trace

from nodespan.errors import ConfigurationError, UnknownProfileError
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from nodespan.testing import span_tree
from nodespan.types import ModelProfileType, Sampling
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState, node_cache_key
from workflow_graphs import (
    assert_state_and_spans_agree,
    collect,
    echo_factory,
    mirror_of,
    one_node,
)

ANSWER = "one two three"


@pytest.fixture
def composer(tracer_provider):
    return ComposerService(tracer_provider=tracer_provider)


@pytest.fixture
def instrumented(tracer_provider):
    instrumentor = LangGraphInstrumentor()
    instrumentor.instrument(tracer_provider=tracer_provider)
    yield
    instrumentor.uninstrument()


async def run(graph: Any, state: Any, how: str, composer: ComposerService) -> dict[str, Any]:
    """The final state, however the graph is run."""
    if how == "invoke":
        return graph.invoke(state)
    if how == "ainvoke":
        return await graph.ainvoke(state)
    return (await collect(composer, graph, state))[-1]["data"]["output"]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "composer"])
@pytest.mark.parametrize("seam", ["plain", "instrumented"])
async def test_state_and_span_agree_key_by_key(node, composer, exporter, request, how, seam):
    if seam == "instrumented":
        request.getfixturevalue("instrumented")
    graph = one_node(node(node_name="Shown"))
    state = WorkflowState.from_prompt(ANSWER, user_id="u1", conversation_id="c1")
    result = await run(graph, state, how, composer)
    assert_state_and_spans_agree(result["node_metadata"], exporter)
    ((_, entry),) = result["node_metadata"].items()
    assert entry["status"] == "ok"
    assert entry["node_name"] == "Shown"
    assert entry["user_id"] == "u1"
    assert result["messages"][-1].content == ANSWER
    assert result["messages"][-1].usage_metadata["output_tokens"] == entry["output_tokens"] > 0
    names = [span.name for span in exporter.get_finished_spans()]
    assert names.count("invoke_node analyse") == 1
    assert names.count("chat echo") == 1
    is_seen = seam == "instrumented" or how == "composer"
    assert names.count("invoke_workflow LangGraph") == is_seen


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "composer"])
async def test_the_generation_is_below_the_node_with_measured_children(node, composer, exporter, how):
    await run(one_node(node()), WorkflowState.from_prompt(ANSWER), how, composer)
    tree = span_tree(exporter)
    found = tree[0]["children"][0] if how == "composer" else tree[0]
    assert found["name"] == "invoke_node analyse"
    assert [child["name"] for child in found["children"]] == ["chat echo"]
    below = [child["name"] for child in found["children"][0]["children"]]
    assert below[:2] == ["pipeline.queue", "pipeline.load"]


async def test_chunks_reach_the_event_stream_while_they_are_produced(node, composer, exporter):
    events = await collect(composer, one_node(node()), WorkflowState.from_prompt(ANSWER))
    chunks = [event for event in events if event["name"] == "pipeline_chunk"]
    assert {event["event"] for event in chunks} == {"on_custom_event"}
    assert "".join(event["data"]["content"] for event in chunks) == ANSWER
    assert [event["data"]["index"] for event in chunks] == list(range(len(chunks)))
    chat = next(span for span in exporter.get_finished_spans() if span.name == "chat echo")
    owner = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node analyse")
    for event in chunks:
        assert event["data"]["span_id"] == event["metadata"]["span_id"] == f"{chat.context.span_id:016x}"
        assert event["data"]["node_id"] == owner.attributes["nodespan.node_id"]
    assert chunks[-1]["data"]["content"] == ""
    assert chunks[-1]["data"]["metadata"]["output_tokens"] == owner.attributes["nodespan.output_tokens"]
    positions = [events.index(event) for event in chunks]
    ended = next(i for i, event in enumerate(events) if event["event"] == "on_chain_end" and event["name"] == "analyse")
    assert max(positions) < ended


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_stream_mode_custom_shows_the_same_data(node, composer, face):
    graph = one_node(node())
    state = WorkflowState.from_prompt(ANSWER)
    if face == "sync":
        custom = list(graph.stream(state, stream_mode="custom"))
    else:
        custom = [data async for data in graph.astream(state, stream_mode="custom")]
    assert "".join(data["content"] for data in custom) == ANSWER
    assert set(custom[0]) == {"content", "index", "node_id", "span_id"}
    assert custom[-1]["metadata"]["finish_reason"] == "stop"


async def test_stream_false_emits_no_token_events_and_is_in_the_metadata(node, composer):
    graph = one_node(node())
    events = [e async for e in composer.execute_workflow(graph, WorkflowState.from_prompt(ANSWER), stream=False)]
    assert not [event for event in events if event["event"] == "on_custom_event"]
    assert [event["metadata"]["sequence"] for event in events] == list(range(len(events)))
    ((_, entry),) = events[-1]["data"]["node_metadata"].items()
    assert entry["streaming"] is False


async def test_parallel_branches_and_send_each_have_an_entry(node, composer, exporter):
    asks = node(prompt=lambda state: state if isinstance(state, str) else "from the state")
    graph = StateGraph(WorkflowState)
    for name in ("left", "right"):
        graph.add_node(name, asks)
        graph.add_edge(START, name)
    graph.add_node("each", asks)
    graph.add_node("dicts", node(prompt=lambda state: state["question"]))
    graph.add_conditional_edges(
        "left", lambda _state: [Send("each", "a text"), Send("each", "another"), Send("dicts", {"question": "a dict"})]
    )
    state = WorkflowState.from_prompt("x", user_id="u1", conversation_id=7)
    events = await collect(composer, graph.compile(), state)
    entries = events[-1]["data"]["node_metadata"]
    assert len(entries) == 5
    assert_state_and_spans_agree(entries, exporter)
    assert {(entry["user_id"], entry["conversation_id"]) for entry in entries.values()} == {("u1", 7)}
    paths = [s.attributes["langgraph.path"] for s in exporter.get_finished_spans() if s.name == "invoke_node each"]
    assert len(set(paths)) == 2


async def test_a_node_in_a_subgraph_has_its_entry_in_the_outer_state(node, composer, exporter):
    inner = StateGraph(WorkflowState)
    inner.add_node("inside", node())
    inner.add_edge(START, "inside")
    events = await collect(composer, one_node(inner.compile(), "outer"), WorkflowState.from_prompt(ANSWER))
    assert_state_and_spans_agree(events[-1]["data"]["node_metadata"], exporter)


@pytest.mark.parametrize("seam", ["plain", "instrumented"])
async def test_retries_share_one_span_and_one_node_id_under_the_seam(node, composer, exporter, request, seam):
    if seam == "instrumented":
        request.getfixturevalue("instrumented")
    attempts: list[int] = []

    def asks(_state: Any) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return ANSWER

    graph = StateGraph(WorkflowState)
    policy = RetryPolicy(initial_interval=0.01, jitter=False, retry_on=ValueError)
    graph.add_node("analyse", node(prompt=asks), retry_policy=policy)
    graph.add_edge(START, "analyse")
    result = graph.compile().invoke(WorkflowState())
    assert_state_and_spans_agree(result["node_metadata"], exporter)
    nodes = [span for span in exporter.get_finished_spans() if span.name == "invoke_node analyse"]
    if seam == "instrumented":
        (span,) = nodes
        assert [(e.name, e.attributes["nodespan.attempt"]) for e in span.events] == [
            ("nodespan.attempt_failed", 1),
            ("nodespan.attempt_failed", 2),
        ]
        assert span.status.status_code.name == "UNSET"
    else:
        assert [span.status.status_code.name for span in nodes] == ["ERROR", "ERROR", "UNSET"]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "composer"])
async def test_an_error_of_the_model_is_on_the_span_and_raised_unchanged(node, composer, exporter, how):
    factory = echo_factory(error_at=1, error=OSError("model broke"))
    with pytest.raises(OSError, match="model broke"):
        await run(one_node(node(factory=factory)), WorkflowState.from_prompt(ANSWER), how, composer)
    span = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node analyse")
    facts = mirror_of(span)
    assert facts["status"] == "error"
    assert facts["error_type"] == "OSError"
    assert facts["finish_reason"] == "error"
    assert facts["duration_s"] > 0
    assert facts["model_name"] == "echo"
    recorded = [s.name for s in exporter.get_finished_spans() if any(e.name == "exception" for e in s.events)]
    assert recorded == ["chat echo"]


async def test_the_span_of_a_cancelled_execution_has_its_attributes(node, composer, exporter):
    graph = one_node(node(factory=echo_factory(delay_s=0.05)))
    events = composer.execute_workflow(graph, WorkflowState.from_prompt("word " * 200))
    async for event in events:
        if event["name"] == "pipeline_chunk":
            break
    await events.aclose()
    span = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node analyse")
    facts = mirror_of(span)
    assert facts["status"] == "cancelled"
    assert facts["finish_reason"] == "cancelled"
    assert span.status.status_code.name == "UNSET"
    assert 0 < facts["output_tokens"] < 200


class OwnState(TypedDict):
    question: str
    answer: str
    node_metadata: Annotated[dict[str, Any], operator.or_]


async def test_a_custom_state_and_output_key_are_supported(node, composer, exporter):
    graph = one_node(node(prompt=lambda s: s["question"], output_key="answer"), state=OwnState)
    events = await collect(composer, graph, {"question": ANSWER})
    output = events[-1]["data"]["output"]
    assert output["answer"] == ANSWER
    assert_state_and_spans_agree(output["node_metadata"], exporter)


class PoorState(TypedDict):
    question: str
    answer: str


@pytest.mark.parametrize("how", ["invoke", "composer"])
async def test_a_state_without_node_metadata_is_logged_once(node, composer, caplog, how):
    graph = one_node(node(prompt=lambda s: s["question"], output_key="answer"), state=PoorState)
    for _ in range(2):
        result = await run(graph, {"question": ANSWER}, how, composer)
    assert result["answer"] == ANSWER
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert getattr(warning, "nodespan.code") == "workflow.missing_field"
    assert "has no field 'node_metadata'" in warning.getMessage()


async def test_a_system_prompt_precedes_the_conversation(node, composer):
    result = one_node(node(prompt="Be brief.")).invoke(WorkflowState.from_prompt("say this"))
    assert result["messages"][-1].content == "say this"


async def test_a_state_without_a_question_is_an_error(node, composer):
    with pytest.raises(ConfigurationError, match="has no messages"):
        one_node(node()).invoke(WorkflowState())


def test_bad_arguments_are_refused_at_once(node):
    with pytest.raises(ConfigurationError, match="PipelineFactory"):
        PipelineNode(pipeline_factory=object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownProfileError, match="Secondary"):
        node(profile_type=ModelProfileType.Secondary)
    with pytest.raises(ConfigurationError, match="deadline_s"):
        node(deadline_s=0)
    with pytest.raises(ConfigurationError, match="prompt"):
        node(prompt=3)
    with pytest.raises(ConfigurationError, match="temperature"):
        node(sampling=Sampling(temperature=-1))


async def test_a_cached_node_keeps_the_entry_of_its_first_trace(node, exporter):
    graph = StateGraph(WorkflowState)
    graph.add_node("analyse", node(), cache_policy=CachePolicy(key_func=node_cache_key))
    graph.add_edge(START, "analyse")
    compiled = graph.compile(cache=InMemoryCache())
    first = await compiled.ainvoke(WorkflowState.from_prompt(ANSWER))
    second = await compiled.ainvoke(WorkflowState.from_prompt(ANSWER))
    assert first["node_metadata"] == second["node_metadata"]
    assert [span.name for span in exporter.get_finished_spans()].count("invoke_node analyse") == 1


async def test_create_node_metadata_describes_the_execution_it_is_called_in(node, composer, exporter):
    seen: list[Any] = []

    def asks(state: WorkflowState) -> str:
        seen.append(pipeline_node.create_node_metadata(state))
        return ANSWER

    pipeline_node = node(prompt=asks, node_name="Shown")
    events = await collect(composer, one_node(pipeline_node), WorkflowState(user_id="u1"))
    ((node_id, entry),) = events[-1]["data"]["node_metadata"].items()
    assert seen[0].node_id == node_id
    assert seen[0].span_id == entry["span_id"]
    assert seen[0].user_id == "u1"
    outside = pipeline_node.create_node_metadata({"user_id": "u2"})
    assert outside.node_id != node_id
    assert outside.span_id is None
    assert outside.node_name == "Shown"


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000_000, "half \ud83d", {"a": 1}, b"bytes", float("nan")],
    ids=["10 MB", "lone surrogate", "nested", "bytes", "NaN"],
)
async def test_unusual_metadata_values_do_not_raise_and_are_equal_in_state_and_span(node, composer, exporter, value):
    class Loose(TypedDict):
        messages: list[Any]
        user_id: Any
        conversation_id: Any
        node_metadata: Annotated[dict[str, Any], operator.or_]

    state = {"messages": [("user", ANSWER)], "user_id": value, "conversation_id": 2**63}
    events = await collect(composer, one_node(node(), state=Loose), state)
    entries = events[-1]["data"]["node_metadata"]
    assert_state_and_spans_agree(entries, exporter)


async def test_the_state_survives_a_checkpointer(node, composer, exporter):
    graph = one_node(node(), checkpointer=MemorySaver())
    config = {"configurable": {"thread_id": "t1"}}
    await collect(composer, graph, WorkflowState.from_prompt(ANSWER), config=config)
    await collect(composer, graph, WorkflowState.from_prompt("again"), config=config)
    kept = (await graph.aget_state(config)).values["node_metadata"]
    assert len(kept) == 2
    assert_state_and_spans_agree(kept, exporter)


async def test_the_span_of_the_node_is_current_in_its_body(node, composer):
    seen: list[Any] = []

    def asks(_state: Any) -> str:
        seen.append(trace.get_current_span())
        return ANSWER

    graph = one_node(node(prompt=asks))
    events = await collect(composer, graph, WorkflowState())
    ((_, entry),) = events[-1]["data"]["node_metadata"].items()
    assert f"{seen[0].get_span_context().span_id:016x}" == entry["span_id"]


async def test_the_time_of_waiting_for_a_shared_model_is_in_the_metadata(node, composer, exporter):
    factory = echo_factory(delay_s=0.01)
    graph = StateGraph(WorkflowState)
    for number in range(4):
        graph.add_node(f"n{number}", node(factory=factory))
        graph.add_edge(START, f"n{number}")
    events = await asyncio.wait_for(collect(composer, graph.compile(), WorkflowState.from_prompt(ANSWER)), 60)
    entries = events[-1]["data"]["node_metadata"].values()
    assert sorted(entry["cache_status"] for entry in entries) == ["hit", "hit", "hit", "loaded"]
    assert sum(entry["queue_s"] > 0.02 for entry in entries) >= 2


@pytest.mark.usefixtures("instrumented")
async def test_a_pipeline_node_in_a_task_that_outlives_its_node_has_its_own_span(node, exporter):
    late: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()
    inner = node(node_name="late")

    async def after_the_end(state):
        await ended.wait()
        return await inner.ainvoke(state)

    async def starts_it(state):
        late.append(asyncio.create_task(after_the_end(state)))
        return {}

    graph = StateGraph(WorkflowState).add_node("early", starts_it).add_edge(START, "early").compile()
    await graph.ainvoke(WorkflowState.from_prompt("hi"))
    ended.set()
    await late[0]
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["invoke_node late"].attributes["nodespan.node_name"] == "late"
    assert spans["invoke_node early"].attributes["nodespan.node_name"] == "early"
