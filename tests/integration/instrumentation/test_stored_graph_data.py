"""Stored data of graph runs: writes hashed with the store's key, and labels for searches."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

import nodespan
from nodespan.errors import ConfigurationError
from nodespan.store import StoreReader, TraceFilter, open_store
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
