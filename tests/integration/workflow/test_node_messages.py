"""A PipelineNode's tokens where user interfaces read them: messages mode and chat model events."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.tracers.event_stream import _AstreamEventsCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Send

from nodespan.errors import ConfigurationError
from nodespan.instrumentation import instrument, uninstrument
from nodespan.workflow import ComposerService, WorkflowState
from workflow_graphs import collect, echo_factory, one_node

ANSWER = "one two three"
WORDS = ["one", " two", " three"]
THREAD = {"configurable": {"thread_id": "t1"}}
has_v3 = pytest.mark.skipif("stream_events" not in vars(Pregel), reason="this LangGraph has no v3 event stream")


def state() -> WorkflowState:
    return WorkflowState.from_prompt(ANSWER)


def stream(graph: Any, is_async: bool, mode: Any, given: Any = None, **options: Any) -> list[Any]:
    given = state() if given is None else given
    if not is_async:
        return list(graph.stream(given, THREAD, stream_mode=mode, **options))

    async def reads() -> list[Any]:
        return [item async for item in graph.astream(given, THREAD, stream_mode=mode, **options)]

    return asyncio.run(reads())


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both
def test_messages_mode_has_each_token_once_with_the_final_messages_id(node, is_async, exporter):
    graph = one_node(node(), checkpointer=InMemorySaver())
    items = stream(graph, is_async, "messages")
    assert all(isinstance(message, AIMessageChunk) for message, _ in items)
    assert [message.content for message, _ in items] == [*WORDS, ""]
    final = graph.get_state(THREAD).values["messages"][-1]
    assert final.content == ANSWER
    assert {message.id for message, _ in items} == {final.id}
    assert {metadata["langgraph_node"] for _, metadata in items} == {"analyse"}
    whole = sum((message for message, _ in items[1:]), items[0][0])
    assert whole.content == ANSWER
    assert whole.usage_metadata == final.usage_metadata
    assert whole.response_metadata == final.response_metadata
    assert len([span for span in exporter.get_finished_spans() if span.name == "chat echo"]) == 1


@both
@pytest.mark.parametrize(
    ("emit", "messages", "custom"), [("both", True, True), ("messages", True, False), ("custom", False, True)]
)
def test_emit_selects_the_form_of_sent_tokens(node, is_async, emit, messages, custom):
    graph = one_node(node(emit=emit), checkpointer=InMemorySaver())
    items = stream(graph, is_async, ["messages", "custom"])
    tokens = [data[0].content for mode, data in items if mode == "messages" and isinstance(data[0], AIMessageChunk)]
    assert tokens == ([*WORDS, ""] if messages else [])
    whole = [data[0].content for mode, data in items if mode == "messages" and not isinstance(data[0], AIMessageChunk)]
    assert whole == ([] if messages else [ANSWER])
    assert [data["content"] for mode, data in items if mode == "custom"] == ([*WORDS, ""] if custom else [])


@both
def test_a_node_that_does_not_stream_sends_only_the_whole_message(node, is_async):
    items = stream(one_node(node(stream=False), checkpointer=InMemorySaver()), is_async, ["messages", "custom"])
    assert [(mode, data[0].content) for mode, data in items] == [("messages", ANSWER)]


def test_an_unknown_form_is_refused(node):
    with pytest.raises(ConfigurationError, match=r"emit='tokens'.*'both', 'messages' or 'custom'"):
        node(emit="tokens")


@pytest.mark.filterwarnings("ignore:.*(is deprecated|experimental|beta)")
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_event_streams_have_chat_model_events(node, version):
    graph = one_node(node())
    events = [event async for event in graph.astream_events(state(), version=version)]
    model = [event for event in events if event["event"].startswith("on_chat_model")]
    kinds = [event["event"].removeprefix("on_chat_model_") for event in model]
    assert kinds == ["start", *["stream"] * 4, "end"]
    assert len({event["run_id"] for event in model}) == 1
    assert {event["name"] for event in model} == {"PipelineNode"}
    assert [event["data"]["chunk"].content for event in model[1:-1]] == [*WORDS, ""]
    output = model[-1]["data"]["output"]
    message = output if version == "v2" else output["generations"][0][0]["message"]
    ends = [event for event in events if event["event"] == "on_chain_end" and event["name"] == "analyse"]
    final = ends[0]["data"]["output"]["messages"][-1]
    assert (message.content, message.id) == (ANSWER, final.id)
    parents = {tuple(event.get("parent_ids") or ()) for event in model}
    analyse = next(event for event in events if event["name"] == "analyse")
    assert version == "v1" or {ids[-1] for ids in parents} == {analyse["run_id"]}
    assert version == "v1" or len([event for event in events if event["event"] == "on_custom_event"]) == 4


@has_v3
@pytest.mark.filterwarnings("ignore:.*(is deprecated|experimental|beta)")
@both
def test_event_streams_of_version_v3_have_one_message_with_its_text_in_pieces(node, is_async):
    graph = one_node(node(), checkpointer=InMemorySaver())

    async def reads() -> tuple[list[Any], Any]:
        run = await graph.astream_events(state(), THREAD, version="v3")
        found = []
        async for message in run.messages:
            found.append([piece async for piece in message.text])
        return found, None

    if is_async:
        texts, _ = asyncio.run(reads())
    else:
        run = graph.stream_events(state(), THREAD, version="v3")
        texts = [list(message.text) for message in run.messages]
    assert texts == [WORDS]


async def test_events_of_composed_runs_have_the_id_of_the_chat_span(node, tracer_provider, exporter):
    composer = ComposerService(tracer_provider=tracer_provider)
    events = await collect(composer, one_node(node()), state())
    [chat] = [span for span in exporter.get_finished_spans() if span.name == "chat echo"]
    model = [event for event in events if event["event"].startswith("on_chat_model")]
    assert {event["metadata"]["span_id"] for event in model} == {f"{chat.context.span_id:016x}"}
    assert {event["metadata"]["node_name"] for event in model} == {"analyse"}
    without = await collect(composer, one_node(node()), state(), stream=False)
    assert not [event for event in without if event["event"].startswith(("on_chat_model", "on_custom"))]


class Watches(BaseCallbackHandler):
    """A tracer of another library."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append("start")

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append("token")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append("end")


@both
def test_tracers_and_usage_counters_receive_no_second_model_call(node, tracer_provider, measured, exporter, is_async):
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider)
    watches, usage = Watches(), UsageMetadataCallbackHandler()
    config = {"callbacks": [watches, usage]}
    graph = one_node(node(meter_provider=measured.provider))

    async def reads() -> None:
        async for _ in graph.astream_events(state(), config, version="v2"):
            pass

    try:
        asyncio.run(reads()) if is_async else list(graph.stream(state(), config, stream_mode="messages"))
    finally:
        uninstrument()
    assert watches.seen == []
    assert usage.usage_metadata == {}
    assert len([span for span in exporter.get_finished_spans() if span.name.startswith("chat")]) == 1
    assert measured.of("gen_ai.client.token.usage", "gen_ai.token.type")["output"] == (3, 1)


@both
def test_without_a_reader_the_message_has_no_id_of_nodespan(node, is_async):
    update = asyncio.run(node().ainvoke(state())) if is_async else node().invoke(state())
    assert update["messages"][0].id is None


@both
def test_a_failing_generation_ends_its_message(node, is_async, caplog):
    caplog.set_level(logging.WARNING)
    graph = one_node(node(factory=echo_factory(error=ValueError("down"), error_at=2)), checkpointer=InMemorySaver())
    items: list[Any] = []

    async def reads() -> None:
        async for item in graph.astream(state(), THREAD, stream_mode="messages"):
            items.append(item)

    with pytest.raises(ValueError, match="down"):
        if is_async:
            asyncio.run(reads())
        else:
            items.extend(iter([]))
            for item in graph.stream(state(), THREAD, stream_mode="messages"):
                items.append(item)
    assert [message.content for message, _ in items] == WORDS[:2]
    assert not [record for record in caplog.records if "callback" in record.getMessage()]


@both
def test_parallel_branches_and_subgraphs_have_their_own_messages(node, is_async):
    inner = StateGraph(WorkflowState)
    inner.add_node("inside", node())
    inner.add_edge(START, "inside")
    graph = StateGraph(WorkflowState)
    graph.add_node("spreads", lambda _state: {})
    graph.add_node("each", node())
    graph.add_node("inner", inner.compile())
    graph.add_edge(START, "spreads")
    sends = [Send("each", "a b"), Send("each", "c d"), Send("inner", state())]
    graph.add_conditional_edges("spreads", lambda _state: sends)
    compiled = graph.compile(checkpointer=InMemorySaver())
    items = stream(compiled, is_async, "messages", subgraphs=True)
    texts: dict[str, str] = {}
    for _, (message, _metadata) in items:
        if message.type != "human":  # LangGraph 0.6 sends the input of a subgraph, too
            texts[message.id] = texts.get(message.id, "") + message.content
    answers = [m for m in compiled.get_state(THREAD).values["messages"] if m.type == "ai"]
    assert sorted(texts.values()) == sorted(m.content for m in answers) == ["a b", "c d", ANSWER]
    assert set(texts) == {m.id for m in answers}


@both
def test_a_node_tagged_nostream_sends_no_messages(node, is_async):
    graph = one_node(node().with_config(tags=["nostream"]), checkpointer=InMemorySaver())
    items = stream(graph, is_async, "messages")
    assert not [message for message, _ in items if isinstance(message, AIMessageChunk)]


@both
def test_a_text_as_output_is_sent_as_messages_too(node, is_async):
    class WithText(WorkflowState):
        answer: str = ""

    graph = one_node(node(output_key="answer"), state=WithText, checkpointer=InMemorySaver())
    items = stream(graph, is_async, "messages", WithText.from_prompt(ANSWER))
    assert [message.content for message, _ in items] == [*WORDS, ""]
    assert graph.get_state(THREAD).values["answer"] == ANSWER


async def test_abandoning_the_stream_ends_the_message(node):
    graph = one_node(node(factory=echo_factory(delay_s=0.05)))
    steps = graph.astream(state(), stream_mode="messages")
    message, _ = await anext(steps)
    assert message.content == "one"
    await steps.aclose()


async def test_a_coroutine_of_a_node_can_be_closed_between_two_chunks(node):
    """As at the close of the event loop, when a coroutine cannot await."""
    events = _AstreamEventsCallbackHandler()
    steps = node(factory=echo_factory(delay_s=0.05)).ainvoke(state(), {"callbacks": [events]})
    seen: list[str] = []
    reader = aiter(events)
    while "on_chat_model_stream" not in seen:
        pending = steps.send(None)
        if pending is not None:
            pending._asyncio_future_blocking = False  # as a task does that waits for it
            await pending
        while not events.receive_stream._queue.empty():
            seen.append((await anext(reader))["event"])
    steps.close()


async def test_a_node_outside_of_a_graph_has_chat_model_events(node):
    events = [event["event"] async for event in node().astream_events(state(), version="v2")]
    assert events == ["on_chat_model_start", *["on_chat_model_stream"] * 4, "on_chat_model_end"]
