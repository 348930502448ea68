"""Models and tools inside graphs: prebuilt agents, span ids of the event stream, interrupts, results."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from inline_snapshot import snapshot
from langchain.agents import create_agent
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import ToolCall
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent, tools_condition
from langgraph.types import Command, interrupt

from nodespan.instrumentation import instrument, uninstrument
from nodespan.testing import span_tree
from nodespan.workflow import ComposerService
from talker import Talker

pytestmark = pytest.mark.filterwarnings("ignore:create_react_agent has been moved")

QUESTION = {"messages": [("human", "What is the weather?")]}


@tool
def weather(place: str) -> str:
    """Tells the weather."""
    return f"rain in {place}"


@tool
def asks(place: str) -> str:
    """Asks a human."""
    return interrupt({"place": place})


def calls(name):
    return [ToolCall(name=name, args={"place": "Graz"}, id="call_1", type="tool_call")]


def hand_made(model, tools, **options):
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(name="Agent", **options)


AGENTS = {
    "create_agent": lambda model, tools, **options: create_agent(model, tools, name="Agent", **options),
    "create_react_agent": lambda model, tools, **options: create_react_agent(model, tools, name="Agent", **options),
    "ToolNode": hand_made,
}


@pytest.fixture
def traced_all(tracer_provider):
    instrument(tracer_provider=tracer_provider, llama_cpp=False)
    yield
    uninstrument()


@pytest.mark.usefixtures("traced_all")
@pytest.mark.parametrize("agent", AGENTS)
def test_model_and_tool_are_below_the_node_that_called_them(run, exporter, agent):
    model = Talker(tool_calls=[calls("weather"), []])
    run(AGENTS[agent](model, [weather]), QUESTION)
    asked = {"name": "chat talker-1"}
    node = "invoke_node agent" if agent == "create_react_agent" else "invoke_node model"
    assert span_tree(exporter, "gen_ai.tool.call.id") == [
        {
            "name": "invoke_workflow Agent",
            "children": [
                {"name": node, "children": [asked]},
                {
                    "name": "invoke_node tools",
                    "children": [{"name": "execute_tool weather", "attributes": {"gen_ai.tool.call.id": "call_1"}}],
                },
                {"name": node, "children": [asked]},
            ],
        }
    ]


@pytest.mark.usefixtures("traced_all")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupt_in_a_tool_is_not_an_error_of_the_tool_the_node_or_the_run(exporter, asynchronous):
    graph = hand_made(Talker(tool_calls=[calls("asks"), []]), [asks], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}

    def run(value):
        return asyncio.run(graph.ainvoke(value, config)) if asynchronous else graph.invoke(value, config)

    run(QUESTION)
    run(Command(resume="sun"))
    interrupted, resumed = span_tree(exporter, "nodespan.status")
    assert [interrupted["attributes"], resumed["attributes"]] == [
        {"nodespan.status": "interrupted"},
        {"nodespan.status": "ok"},
    ]
    assert interrupted["children"][1] == {
        "name": "invoke_node tools",
        "attributes": {"nodespan.status": "interrupted"},
        "children": [{"name": "execute_tool asks", "attributes": {"nodespan.status": "interrupted"}}],
    }
    assert resumed["children"][0]["children"] == [
        {"name": "execute_tool asks", "attributes": {"nodespan.status": "ok"}}
    ]


@pytest.mark.usefixtures("traced_all")
def test_a_model_s_error_is_recorded_where_it_was_raised_and_marks_node_and_run(run, exporter):
    error = ConnectionError("the server is down")

    def asks_a_model(state):
        return {"messages": [Talker(error=error).invoke("hi")]}

    graph = StateGraph(MessagesState).add_node("asks", asks_a_model).add_edge(START, "asks").compile(name="Main")
    with pytest.raises(ConnectionError) as raised:
        run(graph, QUESTION)
    assert raised.value is error
    failed = {"status": "ERROR", "attributes": {"error.type": "ConnectionError"}}
    assert span_tree(exporter, "error.type") == [
        {
            "name": "invoke_workflow Main",
            **failed,
            "children": [
                {
                    "name": "invoke_node asks",
                    **failed,
                    "children": [{"name": "chat talker-1", **failed, "events": ["exception"]}],
                }
            ],
        }
    ]


@pytest.mark.usefixtures("traced_all")
async def test_a_model_that_times_out_in_a_node_ends_under_its_node(exporter):
    async def impatient(state):
        try:
            await asyncio.wait_for(Talker(waits_at=0).ainvoke("hi"), 0.05)
        except TimeoutError:
            return {"messages": [("ai", "no answer")]}

    graph = StateGraph(MessagesState).add_node("impatient", impatient).add_edge(START, "impatient").compile()
    await graph.ainvoke(QUESTION)
    assert span_tree(exporter, "nodespan.status")[0]["children"] == [
        {
            "name": "invoke_node impatient",
            "attributes": {"nodespan.status": "ok"},
            "children": [{"name": "chat talker-1", "attributes": {"nodespan.status": "cancelled"}}],
        }
    ]


@pytest.mark.usefixtures("traced_all")
@pytest.mark.parametrize("agent", AGENTS)
async def test_every_event_of_a_model_or_tool_has_the_id_of_its_span(exporter, tracer_provider, agent):
    model = Talker(tool_calls=[calls("weather"), []])
    composer = ComposerService(tracer_provider=tracer_provider)
    events = [event async for event in composer.execute_workflow(AGENTS[agent](model, [weather]), QUESTION)]
    names = {f"{span.context.span_id:016x}": span.name for span in exporter.get_finished_spans()}
    seen: dict[str, set[str]] = {}
    for event in events:
        seen.setdefault(event["event"], set()).add(names[event["metadata"]["span_id"]])
    assert {kind: where for kind, where in seen.items() if "chain" not in kind} == snapshot(
        {
            "on_chat_model_start": {"chat talker-1"},
            "on_chat_model_stream": {"chat talker-1"},
            "on_chat_model_end": {"chat talker-1"},
            "on_tool_start": {"execute_tool weather"},
            "on_tool_end": {"execute_tool weather"},
        }
    )
    ids = [event["metadata"]["span_id"] for event in events if event["event"] == "on_chat_model_start"]
    assert len(set(ids)) == 2  # each of the two answers has its own
    chats = [span.attributes for span in exporter.get_finished_spans() if span.name == "chat talker-1"]
    # for the event stream, LangChain streams whole answers as well
    assert all(chat["gen_ai.response.time_to_first_chunk"] > 0 for chat in chats)


@pytest.mark.usefixtures("traced_all")
@pytest.mark.parametrize("way", ["stream", "astream", "batch", "llm", "llm-batch", "retriever"])
async def test_events_of_other_calls_have_their_span_s_id_from_the_first(exporter, tracer_provider, way):
    async def asks_models(state, config):
        match way:
            case "stream":
                list(Talker().stream("hi", config))
            case "astream":
                [piece async for piece in Talker().astream("hi", config=config)]
            case "batch":
                await Talker().abatch(["a", "b"], config)
            case "llm":
                await FakeListLLM(responses=["x"]).ainvoke("a", config)
            case "llm-batch":
                await FakeListLLM(responses=["x", "y"]).abatch(["a", "b"], config)
            case "retriever":
                await InMemoryVectorStore(DeterministicFakeEmbedding(size=5)).as_retriever().ainvoke("a", config)
        return {}

    graph = StateGraph(MessagesState).add_node("asks", asks_models).add_edge(START, "asks").compile()
    composer = ComposerService(tracer_provider=tracer_provider)
    events = [event async for event in composer.execute_workflow(graph, QUESTION)]
    names = {f"{span.context.span_id:016x}": span.name for span in exporter.get_finished_spans()}
    of_calls = [event for event in events if re.match("on_(chat_model|llm|retriever)_", event["event"])]
    assert {event["event"].rpartition("_")[2] for event in of_calls} >= {"start", "end"}
    [kind] = {names[event["metadata"]["span_id"]].split()[0] for event in of_calls}
    assert kind == {"llm": "text_completion", "llm-batch": "text_completion", "retriever": "retrieval"}.get(way, "chat")


def _without_ids(value: Any) -> str:
    text = repr(value)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"('timestamp': )\d+", r"\1T", text)


@pytest.mark.parametrize("agent", AGENTS)
def test_instrumentation_does_not_change_results_and_events(run, tracer_provider, exporter, agent):
    def outcome():
        model = Talker(tool_calls=[calls("weather"), []])
        return _without_ids(run(AGENTS[agent](model, [weather]), QUESTION))

    plain = outcome()
    instrument(tracer_provider=tracer_provider, llama_cpp=False)
    try:
        assert outcome() == plain
    finally:
        uninstrument()
    assert exporter.get_finished_spans() != ()
    assert outcome() == plain
