"""Stored data of graph runs: writes hashed with the store's key, and labels for searches."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

import nodespan
from nodespan.errors import ConfigurationError
from nodespan.store import StoreReader, TraceFilter, join_edges, open_store
from small_graphs import chain

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
KEYS = "NODESPAN_METADATA_KEYS"


class State(TypedDict, total=False):
    n: int
    text: str
    any: Any


def step(state):
    return {"seen": [0]}


def writing(body):
    builder = StateGraph(State)
    builder.add_node("a", body)
    builder.add_edge(START, "a")
    return builder.compile()


def stored_span(body, **configuration):
    with nodespan.configure(**configuration) as telemetry:
        nodespan.instrument(langchain=False, llama_cpp=False)
        writing(body).invoke({"n": 1})
        assert telemetry.force_flush()
    nodespan.uninstrument()
    with StoreReader(open_store()) as reader:
        (trace, *_) = reader.find()
        return next(span for span in reader.get(trace["trace_id"])["spans"] if span["name"] == "invoke_node a")


def test_the_read_model_has_the_writes_under_the_key_of_the_store(monkeypatch):
    def body(state):
        return {"n": 3, "any": object(), "text": "x" * 70_000}

    first, again = stored_span(body)["writes"], stored_span(body)["writes"]
    assert first == again
    number, any_, text = first
    assert {key: value for key, value in number.items() if key != "hmac"} == {
        "channel": "n", "type": "int", "size_bytes": 1, "is_large": False, "value": None,
    }  # fmt: skip
    assert len(number["hmac"]) == 16
    assert (any_["size_bytes"], any_["is_large"], any_["hmac"]) == (None, False, None)
    assert (text["size_bytes"], text["is_large"], text["hmac"]) == (None, True, None)
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    assert [write["value"] for write in stored_span(lambda state: {"n": 3, "text": "t"})["writes"]] == ["3", '"t"']


def test_two_stores_have_different_keys_unless_a_variable_sets_one(monkeypatch, tmp_path):
    def hmac(name):
        monkeypatch.setenv("NODESPAN_STORE", str(tmp_path / name / "store.db"))
        return stored_span(lambda state: {"n": 3})["writes"][0]["hmac"]

    own = hmac("a")
    assert own == hmac("a") != hmac("b")
    monkeypatch.setenv("NODESPAN_HASH_KEY", "a secret of sixteen characters")
    assert hmac("c") == hmac("d") != own
    monkeypatch.setenv("NODESPAN_HASH_KEY", "short")
    with pytest.raises(ConfigurationError, match="NODESPAN_HASH_KEY"):
        nodespan.configure()


def test_a_store_finds_traces_by_labels(monkeypatch):
    monkeypatch.setenv(KEYS, "plan,paid")
    with nodespan.configure() as telemetry:
        nodespan.instrument(langchain=False, llama_cpp=False)
        for user, tags, metadata in (
            ("u1", ["a"], {"plan": "free"}),
            ("u2", ["a", "b"], {"plan": "pro", "paid": True}),
        ):
            chain(step).invoke({"seen": []}, {"tags": tags, "metadata": {"user_id": user, **metadata}})
        assert telemetry.force_flush()

    def users(**wanted):
        return [user for trace in reader.find(TraceFilter(**wanted)) for user in trace["labels"]["user"]]

    with StoreReader(open_store()) as reader:
        assert users(tags=("a",)) == ["u2", "u1"]
        assert users(tags=("a", "b")) == ["u2"]
        assert users(metadata=("plan=free",)) == ["u1"]
        assert users(metadata=("plan=pro", "paid=true")) == ["u2"]
        assert users(user="u1", tags=("b",)) == []


def test_taken_edges_are_joined_to_executions_by_step():
    """A loop of two rounds, in each of which one node fans out to two executions of another."""

    def fan_out(state):
        return [Send("work", {"n": 0}), Send("work", {"n": 1})]

    builder = StateGraph(State)
    builder.add_node("plan", lambda state: {"n": state.get("n", 0) + 1})
    builder.add_node("work", lambda state: {})
    builder.add_node("check", lambda state: {})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", fan_out, ["work"])
    builder.add_edge("work", "check")
    builder.add_conditional_edges("check", lambda state: "plan" if state["n"] < 2 else END, ["plan", END])
    with nodespan.configure() as telemetry:
        nodespan.instrument(langchain=False, llama_cpp=False)
        builder.compile(name="loop").invoke({"n": 0})
        assert telemetry.force_flush()
    nodespan.uninstrument()
    with StoreReader(open_store()) as reader:
        spans = reader.get(reader.find()[0]["trace_id"])["spans"]
    names = {
        span["span_id"]: f"{span['name'].split()[1]} {span['attributes'].get('langgraph.step', 0)}" for span in spans
    }
    joined = sorted(
        (names[one["source"]], one["edge"]["target"], [names[execution] for execution in one["executions"]])
        for one in join_edges(spans)
    )
    assert joined == [
        ("check 3", "plan", ["plan 4"]),
        ("check 6", "__end__", []),
        ("loop 0", "plan", ["plan 1"]),
        ("plan 1", "work", ["work 2", "work 2"]),
        ("plan 4", "work", ["work 5", "work 5"]),
        ("work 2", "check", ["check 3"]),
        ("work 2", "check", ["check 3"]),
        ("work 5", "check", ["check 6"]),
        ("work 5", "check", ["check 6"]),
    ]
    executed = {execution for one in join_edges(spans) for execution in one["executions"]}
    assert executed == {span["span_id"] for span in spans} - {root_of(spans)}


def root_of(spans):
    return next(span["span_id"] for span in spans if not span["parent_span_id"])


def test_spans_whose_parents_are_a_circle_are_joined_to_nothing():
    with nodespan.configure() as telemetry:
        nodespan.instrument(langchain=False, llama_cpp=False)
        builder = StateGraph(State)
        builder.add_node("a", lambda state: {"n": 1})
        builder.add_edge(START, "a")
        builder.add_edge("a", END)
        builder.compile().invoke({"n": 1})
        assert telemetry.force_flush()
    nodespan.uninstrument()
    with StoreReader(open_store()) as reader:
        spans = reader.get(reader.find()[0]["trace_id"])["spans"]
    (node,) = [span for span in spans if span["parent_span_id"]]
    node["parent_span_id"] = node["span_id"]
    assert [one["executions"] for one in join_edges([node])] == [[]]
