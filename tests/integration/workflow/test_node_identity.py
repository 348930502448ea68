"""User and conversation of a PipelineNode's execution: from its state, else those of the run."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt

from nodespan.workflow import ComposerService, WorkflowState
from workflow_graphs import collect


@pytest.fixture
def composer(tracer_provider):
    return ComposerService(tracer_provider=tracer_provider)


async def test_a_resumed_run_and_its_send_branches_keep_user_and_conversation(node, composer, exporter):
    graph = StateGraph(WorkflowState)
    graph.add_node("asks", lambda _state: {"messages": [("user", interrupt("?"))]})
    graph.add_node("each", node())
    graph.add_edge(START, "asks")
    graph.add_conditional_edges("asks", lambda _state: [Send("each", "a text"), Send("each", "another")])
    compiled = graph.compile(checkpointer=MemorySaver())
    config = {"configurable": {"thread_id": "t1"}}
    await collect(composer, compiled, WorkflowState.from_prompt("x", user_id="u1", conversation_id=7), config=config)
    events = await collect(composer, compiled, Command(resume="yes"), config=config)
    entries = events[-1]["data"]["node_metadata"].values()
    assert [(entry["user_id"], entry["conversation_id"]) for entry in entries] == [("u1", 7)] * 2
    spans = exporter.get_finished_spans()
    carry = [span for span in spans if span.name.startswith(("invoke_", "chat "))]
    assert {(s.attributes["user.id"], s.attributes["gen_ai.conversation.id"]) for s in carry} == {("u1", "7")}
    assert len([span for span in spans if span.name == "chat echo"]) == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_for_an_unreadable_state_only_the_ids_are_missing(node, is_async):
    class Detached:
        messages = "hi"

        @property
        def user_id(self):
            raise RuntimeError("detached")

    update = await node().ainvoke(Detached()) if is_async else node().invoke(Detached())
    [entry] = update["node_metadata"].values()
    assert "user_id" not in entry
