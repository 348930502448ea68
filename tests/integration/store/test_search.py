"""The search index: filled from batches by readers, exact, and without blocking others."""

from __future__ import annotations

import sqlite3
import threading
import time

import pytest

from batches import SECOND, span, write
from nodespan.errors import StoreError
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore, StoreLimits, StoreReader, TraceFilter, index_path


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "spans.db")
    yield store
    store.close()


def numbers(store: SqliteStore, limit: int = 100, **wanted) -> list[int]:
    return [int(found["trace_id"], 16) for found in StoreReader(store).find(TraceFilter(**wanted), limit)]


def test_a_trace_has_name_and_start_of_its_root_that_ends_last(store):
    write(store, span(1, 1, 12, 13, node="first"))
    write(store, span(2, 0, 11, 20, node="only"))
    assert numbers(store) == [1, 2]
    write(store, span(1, 2, 13, 14, node="second"), span(1, 0, 10, 15))
    assert numbers(store) == [2, 1]  # by start, the newest first
    assert numbers(store, node="first") == numbers(store, node="second") == [1]
    assert numbers(store, node="first", since_ns=11 * SECOND) == []
    (found,) = StoreReader(store).find(TraceFilter(node="first"), 10)
    assert (found["name"], found["start_ns"], found["end_ns"]) == ("span 0 of 1", 10 * SECOND, 15 * SECOND)
    assert (found["spans"], found["errors"]) == (3, 0)


def test_a_trace_has_the_name_of_its_first_span_or_of_the_root_if_two_started_at_once(store):
    write(store, span(1, 1, 10, 12), span(1, 0, 10, 15))
    write(store, span(2, 1, 10, 12))
    write(store, span(2, 0, 10, 15))
    assert {found["name"] for found in StoreReader(store).find(TraceFilter(), 9)} == {"span 0 of 1", "span 0 of 2"}


def test_a_trace_of_two_services_is_found_by_both(store):
    write(store, span(1, 0, 10, 20), service="front")
    write(store, span(1, 1, 11, 12, failed=True), service="back")
    assert numbers(store, service="front") == numbers(store, service="back", is_error=True) == [1]
    assert StoreReader(store).find(TraceFilter(), 1)[0]["service"] == "front"


def test_the_newest_traces_are_first_and_the_limit_excludes_the_oldest(store):
    for number in range(50):
        write(store, span(number, 0, 100 + number, 200, node="a" if number % 2 else "b"))
    assert numbers(store, limit=3) == [49, 48, 47]
    assert numbers(store, limit=3, node="b") == [48, 46, 44]
    assert numbers(store, limit=3, node="b", service="app", since_ns=146 * SECOND) == [48, 46]
    assert numbers(store, min_duration_s=98) == [2, 1, 0]


def test_evicted_spans_are_not_found_and_the_rest_of_a_trace_is(tmp_path):
    store = SqliteStore(tmp_path / "spans.db", StoreLimits(max_bytes=2_000))
    write(store, span(1, 1, 10, 11, node="early", failed=True))
    write(store, span(2, 0, 11, 12, node="gone"))
    assert numbers(store) == [2, 1]
    last = write(store, span(1, 0, 9, 12))
    while numbers(store, node="gone"):
        assert numbers(store)[-1] in {1, 2}
        last = write(store, span(last, 0, 20 + last, 40))
        write(store, span(1, last, 10, 11))
    batches = store.database.read(lambda c: c.execute("SELECT count(*) FROM batch").fetchone()[0])
    kept = StoreReader(store).find(TraceFilter(), 99)
    assert sum(trace["spans"] for trace in kept) == batches < last
    assert 2 not in [int(trace["trace_id"], 16) for trace in kept]
    assert numbers(store, node="gone") == []
    (found,) = [f for f in StoreReader(store).find(TraceFilter(), 99) if int(f["trace_id"], 16) == 1]
    assert found["errors"] == 0  # the batch with the error is gone
    assert len(StoreReader(store).get(found["trace_id"])["spans"]) == found["spans"]
    with pytest.raises(StoreError, match="No trace"):
        StoreReader(store).get((2).to_bytes(16, "big").hex())
    store.close()


def test_a_deleted_index_is_rebuilt(store):
    for number in range(100):
        write(store, span(number, 0, number, number + 1, node="a"))
    before = StoreReader(store).find(TraceFilter(node="a"), 1000)
    index_path(store.path).unlink()
    reported: list[tuple[int, int]] = []
    reader = StoreReader(store, progress=lambda done, total: reported.append((done, total)))
    assert reader.find(TraceFilter(node="a"), 1000) == before
    assert reported == [(32, 100), (64, 100), (96, 100), (100, 100)]
    reported.clear()
    reader.find(TraceFilter(), 1)
    assert reported == []


def test_readers_that_fill_at_once_count_each_span_once(store):
    for number in range(300):
        write(store, *(span(number % 40, number * 10 + one, one, one + 1) for one in range(5)))
    found: list[int] = []

    def read() -> None:
        found.append(sum(trace["spans"] for trace in StoreReader(store).find(TraceFilter(), 1000)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1500] * 4


def test_an_unreadable_batch_is_skipped_and_counted(store, monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    store.append(Encoded(b"\xff" * 50, 3), None)
    assert numbers(store) == []
    write(store, span(1, 0, 1, 2))
    store.append(Encoded(b"\xff" * 50, 3), None)
    assert numbers(store) == [1]


def test_a_writer_waits_for_no_reader(store):
    """A read transaction is open all the while, as in a long search."""
    write(store, span(1, 0, 1, 2))
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM batch").fetchone() == (1,)
    started = time.monotonic()
    for number in range(2, 102):
        write(store, span(number, 0, 1, 2))
    assert store.stats().spans == 101
    assert reader.execute("SELECT count(*) FROM batch").fetchone() == (1,)
    assert time.monotonic() - started < 30
    reader.close()


def test_the_time_of_a_search_does_not_depend_on_the_size_of_the_store(store):
    """Counted in the steps of SQLite's machine, which no other program disturbs; the index is filled."""

    def steps(**wanted) -> int:
        count = 0

        def count_one() -> int:
            nonlocal count
            count += 1
            return 0

        reader = StoreReader(store)
        reader.find(TraceFilter(), 1)
        reader._index.database.read(lambda connection: connection.set_progress_handler(count_one, 1))
        reader.find(TraceFilter(**wanted), 20)
        return count

    wanted = [{}, {"service": "app"}, {"node": "a"}, {"model": "b"}, {"node": "a", "model": "b", "is_error": True}]
    for number in range(1_500):
        write(store, span(number, 0, number, number + 1, node="a", model="b", failed=True))
    few = [steps(**each) for each in wanted]
    for number in range(1_500, 6_000):
        write(store, span(number, 0, number, number + 1, node="a", model="b", failed=True))
    many = [steps(**each) for each in wanted]
    assert [after <= before * 1.2 for before, after in zip(few, many, strict=True)] == [True] * 5, (few, many)
