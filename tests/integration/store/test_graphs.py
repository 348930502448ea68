"""Declared graphs in the store: kept beside the batches, as long as a stored run may refer to them."""

from __future__ import annotations

import json
import time

from opentelemetry.sdk.trace import TracerProvider

from nodespan import semconv
from nodespan.otlp import encode_spans
from nodespan.store import SqliteStore, StoreReader, graphs
from nodespan.store.outbox import StoreLimits


def batch(graph_hash: str, topology: str | None = None):
    """A batch with one run of a graph."""
    provider = TracerProvider(shutdown_on_exit=False)
    span = provider.get_tracer("test").start_span("invoke_workflow g")
    span.set_attribute(semconv.LANGGRAPH_GRAPH_HASH, graph_hash)
    if topology is not None:
        span.set_attribute(semconv.LANGGRAPH_GRAPH_TOPOLOGY, topology)
    span.end()
    (encoded,) = encode_spans([span])
    return encoded


def stored(store):
    return store.database.read(
        lambda connection: [row[0] for row in connection.execute("SELECT hash FROM graph ORDER BY hash")]
    )


def test_a_graph_is_kept_after_its_batch_was_deleted(tmp_path):
    store = SqliteStore(tmp_path / "s.db", StoreLimits(max_bytes=4096))
    store.append(batch("aa", json.dumps({"name": "g"})), None)
    for _ in range(50):
        store.append(batch("aa"), None)
    with StoreReader(store) as reader:
        assert store.stats().spans < 50
        (trace, *_) = reader.find()
        assert reader.get(trace["trace_id"])["graphs"] == {"aa": {"hash": "aa", "topology": {"name": "g"}}}
        assert reader.get_graph("a")["topology"] == {"name": "g"}


def test_an_invalid_topology_is_not_stored(tmp_path):
    store = SqliteStore(tmp_path / "s.db")
    for graph_hash, text in (("cut", '{"name": "g'), ("list", "[1]"), ("long", json.dumps({"name": "x" * 40_000}))):
        store.append(batch(graph_hash, text), None)
    assert stored(store) == []


def test_graphs_are_deleted_a_day_after_the_last_run_that_refers_to_them(tmp_path):
    store = SqliteStore(tmp_path / "s.db")
    store.append(batch("aa", "{}"), None)
    now = time.time_ns()
    store.database.write(lambda connection: graphs.remove_unused(connection, now))
    assert stored(store) == ["aa"]
    store.database.write(lambda connection: graphs.remove_unused(connection, now + 25 * 3600 * 10**9))
    assert stored(store) == []


def test_the_store_deletes_unused_graphs_with_its_old_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("nodespan.store.outbox._AGE_CHECK_S", 0.0)
    store = SqliteStore(tmp_path / "s.db")
    store.append(batch("aa", "{}"), None)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 400 * 24 * 3600 * 10**9)
    store.append(batch("bb", "{}"), None)
    assert stored(store) == ["bb"]


def test_the_number_of_graphs_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    store = SqliteStore(tmp_path / "s.db")
    for graph_hash in ("aa", "bb", "cc"):
        store.append(batch(graph_hash, "{}"), None)
    store.database.write(lambda connection: graphs.remove_unused(connection, 0))
    assert stored(store) == ["bb", "cc"]
