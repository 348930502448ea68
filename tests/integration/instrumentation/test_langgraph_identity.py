"""Conversation, user and name of a run: from the effective config and the state that the run has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypedDict
from uuid import UUID

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from nodespan.instrumentation.langchain import LangChainInstrumentor
from nodespan.otlp import decode_batch, encode_spans
from nodespan.workflow import ComposerService
from small_graphs import thread
from talker import Talker

pytestmark = pytest.mark.usefixtures("traced")

IDS = {"user_id": "u-7", "conversation_id": "conv-7"}
WHOLE = ("conv-7", "u-7")


class State(TypedDict, total=False):
    x: int
    user_id: str
    conversation_id: str


class Model(BaseModel):
    x: int = 0
    user_id: str | None = None
    conversation_id: str | None = None


@tool
def look(text: str) -> str:
    """Looks something up."""
    return text


def asks(state):
    return {"x": interrupt("?")}


def step(state):
    return {"x": 1}


def works(state):
    Talker().invoke("hi")
    look.invoke({"text": "a"})
    return {"x": 1}


def graph(*nodes, state=State, **options):
    builder = StateGraph(state)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(**options)


@pytest.fixture
def with_langchain(tracer_provider):
    LangChainInstrumentor().instrument(tracer_provider=tracer_provider)
    yield
    LangChainInstrumentor().uninstrument()


def ids_of(span):
    return span.attributes.get("gen_ai.conversation.id"), span.attributes.get("user.id")


def runs(exporter):
    return [span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow")]


def identities(exporter):
    return {ids_of(span) for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("state", [State, Model])
def test_a_resumed_run_has_the_identity_of_the_run_it_resumes(run, state, exporter):
    g = graph(asks, state=state, checkpointer=InMemorySaver())
    run(g, {"x": 0, **IDS}, thread())
    run(g, Command(resume=1), thread())
    assert [ids_of(span) for span in runs(exporter)] == [WHOLE, WHOLE]
    assert identities(exporter) == {WHOLE}


def test_the_next_question_of_a_thread_has_the_identity_of_its_state(run, exporter):
    g = graph(step, checkpointer=InMemorySaver())
    run(g, {"x": 0, **IDS}, thread())
    run(g, {"x": 1}, thread())
    run(g, {"x": 1, "user_id": "u-8"}, thread())
    run(g, {"x": 2}, thread())
    assert [ids_of(span) for span in runs(exporter)] == [WHOLE, WHOLE, ("conv-7", "u-8"), ("conv-7", "u-8")]


@pytest.mark.parametrize("how", ["Command", "update_state"])
def test_an_updated_state_gives_the_identity(how, run, exporter):
    g = graph(asks, checkpointer=InMemorySaver())
    run(g, {"x": 0}, thread())
    if how == "update_state":
        g.update_state(thread(), IDS)
        run(g, Command(resume=1), thread())
    else:
        run(g, Command(resume=1, update=IDS), thread())
    assert [ids_of(span) for span in runs(exporter)] == [("t1", None), WHOLE]


def can_store(value):
    """Whether checkpoints may have the value; LangGraph 0.6 rejects half a surrogate."""
    try:
        InMemorySaver().serde.dumps_typed({"thread_id": value})
    except TypeError:
        return False
    return True


ODD = {
    "half a surrogate": ("\ud800", "?"),
    "emoji": ("\U0001f999", "\U0001f999"),
    "NUL": ("a\0b", "a\0b"),
    "long": ("x" * 70_000, "x" * 100),
    "UUID": (UUID(int=7), str(UUID(int=7))),
    "tuple": (("a", 1), ""),  # not of a plain type: omitted
}


@pytest.mark.parametrize(("odd", "start"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("field", ["user_id", "conversation_id"])
def test_an_unusual_id_is_recorded_in_an_encodable_form(odd, start, field, exporter):
    assert graph(step).invoke({"x": 0, field: odd}) == {"x": 1, field: odd}
    saver = InMemorySaver() if can_store(odd) else None
    graph(step, checkpointer=saver).invoke({"x": 0}, {"configurable": {"thread_id": odd, field: odd}})
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["invoke_node step", "invoke_workflow LangGraph"] * 2
    for each in decode_batch(encode_spans(spans)[0].data):
        value = each.attributes.get("user.id" if field == "user_id" else "gen_ai.conversation.id", "")
        assert value.startswith(start)
        assert bool(value) == bool(start)


def test_nodes_models_and_tools_have_the_identity(with_langchain, run, exporter):
    inner = graph(works, name="Inner")

    def calls(state):
        inner.invoke({"x": 0})
        return {}

    def spreads(state):
        return Command(goto=[Send("works", {"x": 1}), Send("calls", {"x": 2})])

    builder = StateGraph(State).add_node("spreads", spreads).add_node("works", works).add_node("calls", calls)
    builder.add_edge(START, "spreads")
    g = builder.compile(checkpointer=InMemorySaver(), name="Main")
    run(g, {"x": 0, **IDS}, thread())
    assert {span.name for span in exporter.get_finished_spans()} == {
        "invoke_workflow Main", "invoke_workflow Inner", "invoke_node spreads", "invoke_node works",
        "invoke_node calls", "chat talker-1", "execute_tool look",
    }  # fmt: skip
    assert identities(exporter) == {WHOLE}


CONFIGS = {
    "configurable": ({"configurable": IDS}, {}),
    "metadata": ({"metadata": IDS}, {}),
    "the graph's configurable": ({}, {"configurable": IDS}),
    "the graph's metadata": ({}, {"metadata": IDS}),
    "both": ({"metadata": {"user_id": "u-7"}}, {"metadata": {"user_id": "other", "conversation_id": "conv-7"}}),
}


@pytest.mark.parametrize("source", list(CONFIGS))
def test_the_effective_config_gives_the_identity(source, run, exporter):
    call, own = CONFIGS[source]
    run(graph(step).with_config(own), {"x": 0}, call)
    assert identities(exporter) == {WHOLE}


@dataclass
class Context:
    user_id: str
    conversation_id: str


def test_the_context_of_the_call_gives_the_identity(exporter):
    g = StateGraph(State, context_schema=Context).add_node(step).add_edge(START, "step").compile()
    g.invoke({"x": 0}, context=Context(**IDS))
    asyncio.run(g.ainvoke({"x": 0}, context=IDS))
    assert identities(exporter) == {WHOLE}


def test_the_state_takes_precedence_over_the_config(run, exporter):
    run(graph(step), {"x": 0, **IDS}, {"configurable": {"user_id": "other", "thread_id": "t1"}})
    assert identities(exporter) == {WHOLE}


def test_a_graph_that_a_chain_calls_inherits_the_chains_config(exporter):
    g = graph(step, checkpointer=InMemorySaver())
    chain = RunnableLambda(lambda value: g.invoke(value))
    chain.invoke({"x": 0}, {"configurable": {"thread_id": "t9", "user_id": "u-7"}})
    assert identities(exporter) == {("t9", "u-7")}
    assert runs(exporter)[0].attributes["langgraph.thread.id"] == "t9"


def test_the_graphs_own_config_gives_name_thread_and_conversation(run, exporter):
    g = graph(step, checkpointer=InMemorySaver()).with_config(run_name="Given", configurable={"thread_id": "t5"})
    run(g, {"x": 0})
    [span] = runs(exporter)
    assert span.name == "invoke_workflow Given"
    assert span.attributes["gen_ai.workflow.name"] == "Given"
    assert span.attributes["langgraph.thread.id"] == "t5"
    assert identities(exporter) == {("t5", None)}
    run(g, {"x": 0}, {"run_name": "Called", **thread("t6")})
    assert runs(exporter)[-1].name == "invoke_workflow Called"
    assert ids_of(runs(exporter)[-1]) == ("t6", None)


def test_a_nested_graph_with_its_own_thread_has_its_own_conversation(exporter):
    inner = graph(step, name="Inner", checkpointer=InMemorySaver())

    def calls(state):
        inner.invoke({"x": 0}, thread("inner thread"))
        inner.invoke({"x": 0, "user_id": "u-9"}, thread("inner thread"))
        return {}

    graph(calls, checkpointer=InMemorySaver()).invoke({"x": 0, **IDS}, thread("outer"))
    spans = {ids_of(span) for span in exporter.get_finished_spans() if "Inner" in span.name or "step" in span.name}
    assert spans == {("inner thread", "u-7"), ("inner thread", "u-9")}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_workflow_of_the_functional_api_keeps_its_identity(is_async, exporter):
    @entrypoint(checkpointer=InMemorySaver())
    def job(given: dict[str, Any]):
        return interrupt("?")

    def call(given):
        return asyncio.run(job.ainvoke(given, thread())) if is_async else job.invoke(given, thread())

    call({"x": 0, **IDS})
    call(Command(resume=1))
    assert [ids_of(span) for span in runs(exporter)] == [WHOLE, WHOLE]
    assert identities(exporter) == {WHOLE}


@pytest.mark.parametrize("is_async", [False, True])
def test_the_next_call_of_a_functional_workflow_has_the_identity_that_the_last_one_saved(is_async, exporter):
    @entrypoint(checkpointer=InMemorySaver())
    def job(given: dict[str, Any], *, previous: Any = None):
        return entrypoint.final(value=1, save=previous or {"user_id": given["user_id"], "conversation_id": "conv-7"})

    def call(given):
        return asyncio.run(job.ainvoke(given, thread())) if is_async else job.invoke(given, thread())

    call(IDS)
    call({"x": 1})
    call({"x": 1, "user_id": "u-8"})
    assert [ids_of(span) for span in runs(exporter)] == [WHOLE, WHOLE, ("conv-7", "u-8")]


def test_a_graph_without_ids_has_none(run, exporter):
    run(graph(step), {"x": 0})
    assert identities(exporter) == {(None, None)}


async def test_a_composed_run_has_the_same_identity(tracer_provider, exporter):
    g = graph(asks, checkpointer=InMemorySaver()).with_config(run_name="Given")
    composer = ComposerService(tracer_provider=tracer_provider)
    for value in ({"x": 0, **IDS}, Command(resume=1)):
        async for _ in composer.execute_workflow(g, value, config=thread()):
            pass
    assert [ids_of(span) for span in runs(exporter)] == [WHOLE, WHOLE]
    assert identities(exporter) == {WHOLE}
    assert {span.name for span in runs(exporter)} == {"invoke_workflow Given"}


class Broken:
    """A state value that cannot be read as an id."""

    def __str__(self):
        raise RuntimeError("no text")


def test_for_a_value_that_is_not_a_scalar_only_its_attribute_is_missing(run, exporter):
    run(graph(step), {"x": 0, "user_id": Broken(), "conversation_id": "conv-7"})
    assert identities(exporter) == {("conv-7", None)}
