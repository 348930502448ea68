"""Writes of a node: channels with type, size and keyed hash; values only if content is captured."""

from __future__ import annotations

import json
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send

import nodespan
from nodespan.runner import PipelineFactory
from nodespan.spans.fingerprint import fingerprint, set_hash_key
from nodespan.spans.redaction import set_redaction
from nodespan.testing import EchoPipeline
from nodespan.types import ModelProfile, ModelProfileType
from nodespan.workflow import PipelineNode, WorkflowState
from small_graphs import chain

WRITES, VALUES = "langgraph.writes", "langgraph.written_values"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class State(TypedDict, total=False):
    n: int
    text: str
    any: Any
    messages: Annotated[list[AnyMessage], add_messages]
    seen: Annotated[list, operator.add]


@pytest.fixture
def key():
    set_hash_key(b"k" * 32)


def one(body, **options):
    builder = StateGraph(State)
    builder.add_node("a", body, **options)
    builder.add_edge(START, "a")
    return builder.compile()


def attributes(exporter, name="invoke_node a"):
    return [span.attributes for span in exporter.get_finished_spans() if span.name == name]


@pytest.mark.usefixtures("traced", "key")
def test_each_written_channel_has_type_size_and_hash(run, exporter):
    run(one(lambda state: {"n": 3, "text": "two words", "any": {"b": 1, "a": {2, 1}}}), {"n": 1})
    (found,) = attributes(exporter)
    assert list(found[WRITES]) == [
        f"n {fingerprint(3)}",
        f"text {fingerprint('two words')}",
        f"any {fingerprint({'a': {1, 2}, 'b': 1})}",
    ]
    assert found[WRITES][0].startswith("n int 1 ")
    assert VALUES not in found


@pytest.mark.usefixtures("traced")
def test_without_configure_there_is_a_size_and_no_hash(exporter):
    one(lambda state: {"n": 3}).invoke({"n": 1})
    assert list(attributes(exporter)[0][WRITES]) == ["n int 1 -"]


@pytest.mark.usefixtures("traced", "key")
def test_the_hash_of_a_message_depends_on_its_content_and_not_on_its_id(exporter):
    def messages(text, id_, **more):
        return [
            AIMessage(text, id=id_, tool_calls=[{"name": "f", "args": {"x": 1}, "id": f"call-{id_}"}], **more),
            ToolMessage("done", tool_call_id=f"call-{id_}", id=f"t{id_}"),
        ]

    for made in (
        messages("a", "1"),
        messages("a", "2", response_metadata={"created": 5}, usage_metadata=None),
        messages("b", "1"),
        [HumanMessage("a")],
    ):
        one(lambda state, made=made: {"messages": made}).invoke({"n": 1})
    first, again, other, human = (found[WRITES][0] for found in attributes(exporter))
    assert first == again
    assert len({first, other, human}) == 3
    assert first.startswith("messages list ")


@pytest.mark.usefixtures("traced", "key")
def test_the_hash_of_a_message_has_its_calls_and_its_status(exporter):
    def call(name, **args):
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "c"}])

    made = [call("f", x=1), call("f", x=2), call("g", x=1), call("f", x=1)]
    made += [ToolMessage("no", tool_call_id="c", status=status) for status in ("success", "error")]
    for message in made:
        one(lambda state, message=message: {"any": message}).invoke({"n": 1})
    found = [held[WRITES][0] for held in attributes(exporter)]
    assert found[0] == found[3]
    assert len(set(found)) == len(found) - 1


@pytest.mark.usefixtures("traced", "key")
def test_commands_sends_and_a_state_that_is_not_a_mapping(exporter):
    def goes(state):
        return Command(update={"n": 1}, goto=[Send("a", {"n": 0})] if state["n"] else [])

    one(goes).invoke({"n": 1})
    assert [list(found[WRITES]) for found in attributes(exporter)] == [[f"n {fingerprint(1)}"]] * 2
    exporter.clear()
    builder = StateGraph(Annotated[list, operator.add])
    builder.add_node("a", lambda state: [1])
    builder.add_edge(START, "a")
    builder.compile().invoke([0])
    assert list(attributes(exporter)[0][WRITES]) == [f"__root__ {fingerprint([1])}"]


@pytest.mark.usefixtures("traced", "key")
def test_a_failed_node_and_one_without_writes_have_no_writes(exporter):
    def fails(state):
        raise ValueError("down")

    with pytest.raises(ValueError, match="down"):
        one(fails).invoke({"n": 1})
    one(lambda state: None).invoke({"n": 1})
    assert [WRITES in found for found in attributes(exporter)] == [False, False]


@pytest.mark.usefixtures("traced", "key")
def test_hundreds_of_writes_are_bounded(exporter):
    one(lambda state: [Command(update={"seen": [i]}) for i in range(500)]).invoke({"n": 1})
    assert len(attributes(exporter)[0][WRITES]) == 100


@pytest.mark.usefixtures("traced", "key")
def test_an_unreadable_value_does_not_change_the_run(exporter):
    class Hostile(dict):
        def __iter__(self):
            raise RuntimeError

        items = values = keys = __iter__

    hostile = Hostile(a=1)
    assert one(lambda state: {"any": hostile, "n": 2}).invoke({"n": 1})["any"] is hostile
    assert [text.split()[0] for text in attributes(exporter)[0][WRITES]] == ["any", "n"]


@pytest.mark.usefixtures("traced")
def test_the_metadata_of_pipeline_nodes_is_left_out(exporter):
    profile = ModelProfile(name="echo")
    with PipelineFactory({ModelProfileType.Primary: profile}, create=EchoPipeline) as models:
        builder = StateGraph(WorkflowState)
        builder.add_node("a", PipelineNode(pipeline_factory=models, output_key="messages"))
        builder.add_edge(START, "a")
        builder.compile().invoke(WorkflowState.from_prompt("hi"))
    (found,) = attributes(exporter)
    assert [text.split()[0] for text in found[WRITES]] == ["messages"]


@pytest.mark.usefixtures("traced", "key")
def test_values_are_recorded_redacted_and_cut_if_content_is_enabled(exporter, monkeypatch):
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    set_redaction(lambda text: text.replace("Ann", "***"))
    one(lambda state: {"n": 3, "text": "of Ann", "any": {"k": ["x" * 100_000]}}).invoke({"n": 1})
    (found,) = attributes(exporter)
    number, text, cut = json.loads(found[VALUES])
    assert (number, text) == (3, "of ***")
    assert len(found[VALUES]) <= 32 * 1024
    assert "100000 bytes in all" in cut["k"][0]


def test_equal_writes_have_equal_hashes(exporter, tracer_provider):
    set_hash_key(b"k" * 32)
    nodespan.instrument(tracer_provider=tracer_provider, langchain=False, llama_cpp=False)
    chain(("a", lambda state: {"seen": [0]}, {}), ("b", lambda state: {"seen": [0]}, {})).invoke({"seen": []})
    assert attributes(exporter)[0][WRITES] == attributes(exporter, "invoke_node b")[0][WRITES]
