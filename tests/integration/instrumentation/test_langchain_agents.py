"""Agents: their name on every span inside, and calls of tools that they do not have."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent
from opentelemetry.instrumentation.utils import suppress_instrumentation

from nodespan import semconv
from nodespan.instrumentation import instrument, uninstrument
from small_graphs import chain
from talker import Talker

pytestmark = pytest.mark.filterwarnings("ignore:create_react_agent has been moved")

QUESTION: dict[str, Any] = {"messages": [("human", "What is the weather?")]}


@tool
def weather(place: str) -> str:
    """Returns the weather."""
    return f"rain in {place}"


def call_of(name: str) -> ToolCall:
    return ToolCall(name=name, args={"place": "Graz"}, id="call_1", type="tool_call")


@pytest.fixture(autouse=True)
def all_traced(tracer_provider, measured):
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider, llama_cpp=False)
    yield
    uninstrument()


def agents_of(spans: Any) -> dict[str, Any]:
    return {span.name: span.attributes.get(semconv.AGENT_NAME) for span in spans}


both = pytest.mark.parametrize(
    ("create", "asking"), [(create_agent, "model"), (create_react_agent, "agent")], ids=["LangChain", "LangGraph"]
)


@both
def test_every_span_of_an_agent_has_its_name(run, exporter, create, asking):
    agent = create(Talker(tool_calls=[[call_of("weather")], []]), [weather], name="Forecaster")
    run(agent.with_config(run_name="Today"), QUESTION)
    assert agents_of(exporter.get_finished_spans()) == {
        "invoke_workflow Today": "Forecaster",
        f"invoke_node {asking}": "Forecaster",
        "invoke_node tools": "Forecaster",
        "chat talker-1": "Forecaster",
        "execute_tool weather": "Forecaster",
    }


@both
def test_a_graph_around_an_agent_has_no_agent_name_and_a_nested_agent_its_own(run, exporter, create, asking):
    @tool
    def ask_expert(place: str) -> str:
        """Asks an expert."""
        expert = create(Talker(model_name="inner"), [], name="Expert")
        return expert.invoke(QUESTION)["messages"][-1].content

    outer = create(Talker(tool_calls=[[call_of("ask_expert")], []]), [ask_expert], name="Host")
    builder = StateGraph(MessagesState)
    builder.add_node("host", outer)
    builder.add_node("after", lambda state: Talker(model_name="after").invoke("hi") and {})
    builder.add_edge(START, "host")
    builder.add_edge("host", "after")
    run(builder.compile(name="Main"), QUESTION)
    found = agents_of(span for span in exporter.get_finished_spans() if span.name != f"invoke_node {asking}")
    assert found == {
        "invoke_workflow Main": None,
        "invoke_node host": None,
        "invoke_workflow Host": "Host",
        "chat talker-1": "Host",
        "invoke_node tools": "Host",
        "execute_tool ask_expert": "Host",
        "invoke_workflow Expert": "Expert",
        "chat inner": "Expert",
        "invoke_node after": None,
        "chat after": None,
    }


@both
def test_an_unnamed_agent_has_no_agent_name(exporter, create, asking):
    create(Talker(), []).invoke(QUESTION)
    assert set(agents_of(exporter.get_finished_spans()).values()) == {None}


@pytest.fixture(params=["create_agent", "ToolNode"])
def graph(request):
    if request.param == "create_agent":
        return create_agent(Talker(tool_calls=[[call_of("wether")], []]), [weather], name="Agent")

    def asks(state):
        return {"messages": [AIMessage("", tool_calls=[call_of("wether"), {**call_of("weather"), "id": "call_2"}])]}

    builder = StateGraph(MessagesState)
    builder.add_sequence([("asks", asks), ("tools", ToolNode([weather]))])
    builder.add_edge(START, "asks")
    return builder.compile(name="Agent")


def test_a_call_of_a_missing_tool_is_an_error_of_that_call_only(run, graph, exporter, measured):
    run(graph, QUESTION)
    spans = exporter.get_finished_spans()
    [span] = [span for span in spans if span.name == "execute_tool wether"]
    assert span.attributes[semconv.TOOL_NAME] == "wether"
    assert span.attributes[semconv.TOOL_CALL_ID] == "call_1"
    assert span.attributes[semconv.STATUS] == "error"
    assert span.attributes[semconv.ERROR_TYPE] == "_OTHER"
    assert not span.events
    [node] = [span for span in spans if span.name == "invoke_node tools"]
    assert span.parent.span_id == node.context.span_id
    assert node.attributes[semconv.STATUS] == "ok"
    assert [one.attributes[semconv.STATUS] for one in spans if one.name == "execute_tool weather"] in ([], ["ok"])
    # The name is the model's, and so without bounds: no label of a metric.
    calls = measured.of(semconv.TOOL_DURATION, semconv.TOOL_NAME, semconv.STATUS)
    assert calls.pop(("_OTHER", "error"))
    assert set(calls) <= {("weather", "ok")}


@pytest.mark.parametrize("captures", [False, True])
def test_arguments_and_answer_of_a_missing_tool_are_content(graph, exporter, monkeypatch, captures):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY" if captures else "NO_CONTENT")
    graph.invoke(QUESTION)
    [span] = [span for span in exporter.get_finished_spans() if span.name == "execute_tool wether"]
    assert ("Graz" in span.attributes.get(semconv.TOOL_CALL_ARGUMENTS, "")) is captures
    assert ("not a valid tool" in span.attributes.get(semconv.TOOL_CALL_RESULT, "")) is captures


def test_a_tool_that_middleware_adds_exists(exporter):
    @wrap_tool_call
    def adds(request, handler):
        return handler(request.override(tool=weather))

    model = Talker(tool_calls=[[call_of("wether")], []])
    create_agent(model, [weather], middleware=[adds]).invoke(QUESTION)
    assert [span.name for span in exporter.get_finished_spans() if span.name.startswith("execute_tool")] == [
        "execute_tool weather"
    ]


def test_a_suppressed_call_of_a_missing_tool_is_not_recorded(graph, exporter):
    with suppress_instrumentation():
        graph.invoke(QUESTION)
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("name", ["{place}", "x" * 65, "", "\ud800"])
def test_an_invalid_tool_name_is_not_in_the_span_name(exporter, name):
    create_agent(Talker(tool_calls=[[call_of(name)], []]), [weather], name="Agent").invoke(QUESTION)
    [span] = [span for span in exporter.get_finished_spans() if span.name.startswith("execute_tool")]
    assert span.name == "execute_tool"
    assert span.attributes[semconv.TOOL_NAME] == name.encode("utf-8", "replace").decode()


def test_the_message_is_the_same_as_without_instrumentation():
    def answers() -> Any:
        return ToolNode([weather]).invoke([AIMessage("", tool_calls=[call_of("wether")])])

    traced = chain(("tools", lambda state: {"seen": answers()}, {})).invoke({"seen": []})["seen"]
    uninstrument()
    assert traced == chain(("tools", lambda state: {"seen": answers()}, {})).invoke({"seen": []})["seen"]
