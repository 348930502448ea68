"""A PipelineNode sends the whole conversation, tool calls and images included, or raises an error."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from nodespan import ModelProfile, ModelProfileType, PipelineFactory, PipelineNode
from nodespan.errors import ConfigurationError
from nodespan.testing import FakeServer

IMAGE = "data:image/png;base64,AAAA"
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "day"}'}}


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


class Raw(TypedDict):
    messages: list[Any]


def ask(profile, messages, state: Any = Raw):
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        node = PipelineNode(pipeline_factory=factory)
        graph = StateGraph(state).add_node("ask", node).add_edge(START, "ask").compile()
        return graph.invoke({"messages": messages})


def sent(messages, kind="openai", state: Any = Raw):
    with FakeServer(kind) as server:
        ask(ModelProfile(base_url=server.url, name="m"), messages, state)
        [body] = [request.body for request in server.received if request.body and "messages" in request.body]
    return body["messages"]


TALK = [
    SystemMessage("Be short."),
    HumanMessage("What is a day?", name="ann"),
    AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": "day"}, "id": "call_1"}]),
    ToolMessage("24 hours", tool_call_id="call_1"),
]
DICTS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is a day?", "name": "ann"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "24 hours", "tool_call_id": "call_1"},
]


@pytest.mark.parametrize("messages", [TALK, DICTS], ids=["objects", "dicts"])
@pytest.mark.parametrize("state", [State, Raw])
def test_tool_calls_and_their_results_are_sent(messages, state):
    assert sent(messages, state=state) == DICTS


IMAGES = {
    "openai": {"type": "image_url", "image_url": {"url": IMAGE}},
    "langchain": {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
    "langchain 0.3": {"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"},
    "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
}


@pytest.mark.parametrize("form", IMAGES)
def test_an_image_is_sent(form):
    [message] = sent([HumanMessage([{"type": "text", "text": "What is it?"}, IMAGES[form]])])
    assert message == {
        "role": "user",
        "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
    }


def test_an_image_is_sent_to_ollama_in_its_form():
    content = [{"type": "text", "text": "What is it?"}, IMAGES["openai"]]
    assert sent([HumanMessage(content)], "ollama") == [{"role": "user", "content": "What is it?", "images": ["AAAA"]}]


def test_an_image_at_an_address_is_an_error_for_ollama():
    with pytest.raises(ConfigurationError, match="data URLs only"):
        sent([HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])], "ollama")


def test_text_blocks_are_joined_and_reasoning_blocks_omitted():
    blocks = [{"type": "reasoning", "reasoning": "hm"}, "good", {"type": "text", "text": " day"}]
    assert sent([AIMessage(blocks), HumanMessage("hi")])[0] == {"role": "assistant", "content": "good day"}


def test_content_that_cannot_be_sent_is_an_error():
    with pytest.raises(ConfigurationError, match="types: image_url"):
        sent([HumanMessage([{"type": "image_url"}])])


def test_an_unknown_type_of_content_is_sent_unchanged():
    [message] = sent([HumanMessage([{"type": "hologram", "data": 3}])])
    assert message["content"] == [{"type": "hologram", "data": 3}]


def test_a_model_that_reads_text_only_refuses_an_image(smollm2):
    with pytest.raises(ConfigurationError, match=r"reads text only.*image_url"):
        ask(ModelProfile(model_path=smollm2, n_ctx=256), [HumanMessage([IMAGES["openai"]])])


def test_the_image_is_a_stub_in_captured_content(monkeypatch, exporter, tracer_provider):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    with FakeServer("openai") as server:
        profile = ModelProfile(base_url=server.url, name="m")
        with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
            node = PipelineNode(pipeline_factory=factory, tracer_provider=tracer_provider)
            graph = StateGraph(Raw).add_node("ask", node).add_edge(START, "ask").compile()
            graph.invoke({"messages": [HumanMessage([IMAGES["openai"]])]})
    [call] = [span for span in exporter.get_finished_spans() if span.name == "chat m"]
    [message] = json.loads(call.attributes["gen_ai.input.messages"])
    assert message["parts"][0]["type"] == "blob"
