"""The read model: records for JSON, found, got and followed without a lock of the writer."""

from __future__ import annotations

import gc
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from batches import SECOND, encoded, span, trace_id, write
from nodespan.errors import StoreError
from nodespan.spans.log import CODE_FIELD
from nodespan.store import SqliteStore, StoreReader, TraceFilter, index_path

NOBODY = 65534


@pytest.fixture
def store(tmp_path):
    with closing(SqliteStore(tmp_path / "store.db")) as store:
        yield store


@pytest.fixture
def reader(store):
    with StoreReader(store) as reader:
        yield reader


def codes_of(caplog) -> list[str]:
    return [getattr(record, CODE_FIELD) for record in caplog.records if record.name == "nodespan"]


def ids(found) -> list[int]:
    return [int(trace["trace_id"], 16) for trace in found]


def test_records_can_be_dumped_as_json(store, reader):
    odd = span(1, 0, 10, 12, node="a", workflow="w")
    for key, value in {"nan": float("nan"), "inf": float("inf")}.items():
        odd.attributes.add(key=key).value.double_value = value
    odd.attributes.add(key="raw").value.bytes_value = b"\x00\xff"
    odd.events.add(name="e", time_unix_nano=11 * SECOND).attributes.add(key="n").value.int_value = 2**62
    odd.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8)
    cursor = reader.cursor()
    write(store, odd, span(1, 1, 11, 12, failed=True))
    (found,) = reader.find()
    content = reader.get(found["trace_id"])
    changes = reader.follow(cursor)
    for record in (found, content, changes, reader.status()):
        assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert found == content["trace"]
    assert found == {
        "trace_id": trace_id(1),
        "name": "span 0 of 1",
        "service": "app",
        "start_ns": 10 * SECOND,
        "end_ns": 12 * SECOND,
        "duration_s": 2.0,
        "state": "ended",
        "spans": 2,
        "errors": 1,
        "running": 0,
        "lost": 0,
        "phase": None,
        "tokens_in": None,
        "tokens_out": None,
        "decode_s": None,
        "is_interrupted": False,
        "resumes": None,
        "labels": {"node": ["a"], "service": ["app"], "workflow": ["w"]},
    }
    root, child = content["spans"]
    assert root["attributes"]["nan"] == "NaN"
    assert root["attributes"]["inf"] == "Infinity"
    assert root["attributes"]["raw"] == "AP8="
    assert root["events"] == [{"name": "e", "time_ns": 11 * SECOND, "attributes": {"n": 2**62}}]
    assert root["links"] == [{"trace_id": "01" * 16, "span_id": "02" * 8, "attributes": {}}]
    assert (root["state"], root["phase"], root["process"], root["duration_s"]) == ("ended", None, None, 2.0)
    assert (child["parent_span_id"], child["status_code"]) == (root["span_id"], "ERROR")


def test_a_filter_by_the_beginning_of_an_id(store, reader):
    for first in (0x1A, 0x1B, 0x2A):
        one = span(1, 0, 1, 2, node="a")
        one.trace_id = bytes([first]) * 16
        write(store, one)
    assert len(reader.find(TraceFilter(trace_id="1"))) == 2
    assert len(reader.find(TraceFilter(trace_id="1A", node="a"))) == 1


def test_a_reader_works_while_the_write_lock_is_held_and_never_acquires_it(store):
    """Also if the reader must fill the whole index."""
    for number in range(1, 101):
        write(store, span(number, 0, number, number + 1))
    index_path(store.path).unlink(missing_ok=True)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with StoreReader(store) as reader:
            assert len(reader.find(limit=1000)) == 100
            assert len(reader.get(trace_id(1))["spans"]) == 1
            reader.follow(reader.cursor())
        blocker.execute("ROLLBACK")


def test_readers_do_not_change_the_outbox(store):
    for number in range(1, 101):
        write(store, span(number, 0, number, number + 1))
    store.close()  # the log is in the file then
    before = store.path.read_bytes()
    with StoreReader(store) as reader:
        reader.find()
        reader.get(trace_id(1))
        with pytest.raises(StoreError, match="for reading"):
            reader._outbox.write(lambda connection: None)
    assert store.path.read_bytes() == before


def test_the_newest_are_indexed_first_and_a_budget_ends_the_filling(store):
    for number in range(1, 201):
        write(store, span(number, 0, number, number + 1))
    with StoreReader(store, fill_s=0.0) as reader:
        assert ids(reader.find(limit=3)) == [200, 199, 198]
        assert reader.status()["indexed_spans"] == 32
        write(store, span(201, 0, 201, 202))
        assert ids(reader.find(limit=3)) == [201, 200, 199]
        assert reader.get(trace_id(1))["spans"]  # not in the index so far: looked for until it is
        assert reader.status()["indexed_spans"] == 201
        assert reader.fill()
        assert ids(reader.find(limit=1000)) == list(range(201, 0, -1))


def test_a_batch_deleted_during_its_indexing_is_not_found(store, reader, monkeypatch):
    from nodespan.store import index

    write(store, span(1, 0, 1, 2))
    real = index._by_trace

    def delete_meanwhile(batches):
        found = real(batches)
        store.database.write(lambda connection: connection.execute("DELETE FROM batch WHERE id = 1"))
        return found

    monkeypatch.setattr(index, "_by_trace", delete_meanwhile)
    reader.find()
    monkeypatch.undo()
    assert reader.find() == []
    with pytest.raises(StoreError, match="No trace"):
        reader.get(trace_id(1))


def test_a_span_that_was_stored_twice_is_returned_once(store, reader):
    batch = encoded(span(1, 0, 1, 2))
    store.append(batch, None)
    store.append(batch, None)
    assert len(reader.get(trace_id(1))["spans"]) == 1


def test_connections_of_dropped_stores_and_readers_are_closed(tmp_path):
    """Python 3.13 warns of each that is not; the test session makes it an error. Older ones: by open files."""

    def open_files() -> list[str]:
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [link for link in links if str(tmp_path) in link]

    store = SqliteStore(tmp_path / "store.db")
    write(store, span(1, 0, 1, 2))
    reader = StoreReader(store)
    assert ids(reader.find()) == [1]
    assert open_files()
    reader.cycle = reader  # as in an exception's frames: the garbage collector chooses the order then
    reader._index.database.cycle = reader
    del store, reader
    gc.collect()
    assert open_files() == []
