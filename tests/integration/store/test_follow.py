"""Following a store: every change once, and one statement if there is none."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from batches import SECOND, span, trace_id, write
from nodespan.errors import StoreError
from nodespan.spans.log import CODE_FIELD
from nodespan.store import MEMORY, SqliteStore, StoreReader, TraceFilter

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


def test_pages_have_no_gap_and_no_repetition(store, reader):
    for number in range(1, 26):
        write(store, span(number, 0, 100 + number // 3, 200, node="a"))  # three start at once
    for wanted in (TraceFilter(), TraceFilter(node="a"), TraceFilter(node="a", service="app")):
        seen: list[int] = []
        before = None
        while page := reader.find(TraceFilter(**{**_fields(wanted), "before": before}), limit=4):
            seen += ids(page)
            before = page[-1]["trace_id"]
        assert sorted(seen) == list(range(1, 26))
        assert [number // 3 for number in seen] == sorted((number // 3 for number in seen), reverse=True)
    assert sorted(ids(reader.find(TraceFilter(until_ns=101 * SECOND)))) == [1, 2]
    assert sorted(ids(reader.find(TraceFilter(until_ns=102 * SECOND, since_ns=101 * SECOND)))) == [3, 4, 5]


def _fields(wanted: TraceFilter) -> dict[str, object]:
    return {name: getattr(wanted, name) for name in TraceFilter.__slots__}


def test_follow_returns_each_span_once_in_the_order_of_storing(store, reader):
    write(store, span(1, 1, 10, 11))
    cursor = reader.cursor()
    assert reader.follow(cursor) == {
        "cursor": cursor,
        "is_reset": False,
        "has_more": False,
        "traces": [],
        "spans": [],
        "running": None,
    }
    write(store, span(2, 0, 12, 13))
    write(store, span(1, 0, 10, 14))
    changes = reader.follow(cursor)
    assert [(each["name"], each["state"]) for each in changes["spans"]] == [
        ("span 0 of 2", "ended"),
        ("span 0 of 1", "ended"),
    ]
    assert [(trace["name"], trace["spans"]) for trace in changes["traces"]] == [("span 0 of 1", 2), ("span 0 of 2", 1)]
    assert reader.follow(changes["cursor"])["spans"] == []
    assert reader.follow(cursor)["spans"] == changes["spans"]  # a cursor stays valid
    with StoreReader(store) as another:
        assert another.follow(cursor)["spans"] == changes["spans"]


def test_follow_returns_many_changes_in_parts(store, reader):
    cursor = reader.cursor()
    for number in range(1, 101):
        write(store, span(number, 0, number, number + 1))
    seen: list[str] = []
    while True:
        changes = reader.follow(cursor)
        cursor = changes["cursor"]
        seen += [each["name"] for each in changes["spans"]]
        if not changes["has_more"]:
            break
    assert seen == [f"span 0 of {number}" for number in range(1, 101)]


def test_follow_accepts_a_filter(store, reader):
    cursor = reader.cursor()
    write(store, span(1, 0, 1, 2, node="a"), span(2, 0, 1, 2, node="b"))
    write(store, span(3, 0, 1, 2, failed=True))
    for wanted, expected in [({"node": "a"}, 1), ({"is_error": True}, 3), ({"trace_id": trace_id(2)}, 2)]:
        changes = reader.follow(cursor, TraceFilter(**wanted))
        assert ids(changes["traces"]) == [expected]
        assert [each["trace_id"] for each in changes["spans"]] == [trace_id(expected)]
    assert reader.follow(cursor, TraceFilter(node="absent"))["cursor"] == reader.cursor()


def test_follow_waits_for_a_change(store, reader):
    cursor = reader.cursor()
    started = time.monotonic()
    assert reader.follow(cursor, wait_s=0.2)["spans"] == []
    assert time.monotonic() - started >= 0.2
    writer = threading.Timer(0.2, write, (store, span(1, 0, 1, 2)))
    writer.start()
    changes = reader.follow(cursor, wait_s=60)
    assert [each["name"] for each in changes["spans"]] == ["span 0 of 1"]
    writer.join()


def test_a_poll_without_a_change_runs_one_statement(store, reader):
    write(store, span(1, 0, 1, 2))
    cursor = reader.cursor()
    reader.follow(cursor)
    statements: list[str] = []
    reader._outbox.read(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()  # the end of that transaction
    for _ in range(10):
        reader.follow(cursor)
    assert [one for one in statements if one != "COMMIT"] == ["PRAGMA data_version"] * 10


def test_follow_works_before_a_store_exists(tmp_path):
    path = tmp_path / "later.db"
    with StoreReader(SqliteStore(path)) as reader:
        assert reader.find() == []
        cursor = reader.cursor()
        assert reader.follow(cursor)["traces"] == []
        assert list(tmp_path.iterdir()) == []
        with closing(SqliteStore(path)) as store:
            write(store, span(1, 0, 1, 2))
            changes = reader.follow(cursor)
        assert ([each["name"] for each in changes["spans"]], changes["is_reset"]) == (["span 0 of 1"], False)


def test_a_store_that_was_replaced_resets_a_follower_and_the_index(store, reader, tmp_path):
    write(store, span(1, 0, 1, 2))
    assert ids(reader.find()) == [1]
    cursor = reader.cursor()
    store.close()
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    write(store, span(2, 0, 1, 2), span(2, 1, 1, 2))
    changes = reader.follow(cursor)
    assert (changes["is_reset"], changes["spans"]) == (True, [])
    assert ids(reader.find()) == [2]
    write(store, span(3, 0, 1, 2))
    assert ids(reader.follow(changes["cursor"])["traces"]) == [3]


@pytest.mark.parametrize("cursor", ["", "x", "a.b", "a.1", "1.-2.x", "1.½.x"])
def test_an_invalid_cursor_is_an_error(reader, cursor):
    with pytest.raises(StoreError, match="cursor"):
        reader.follow(cursor)


def test_a_store_in_memory_is_read_and_followed():
    with closing(SqliteStore(MEMORY)) as store, StoreReader(store) as reader:
        write(store, span(1, 0, 1, 2))
        assert ids(reader.find()) == [1]
        cursor = reader.cursor()
        assert reader.follow(cursor)["spans"] == []
        write(store, span(2, 0, 1, 2))
        assert [each["name"] for each in reader.follow(cursor)["spans"]] == ["span 0 of 2"]
        assert not reader.status()["sees_running"]


def test_readers_and_writers_in_threads(store):
    failures: list[BaseException] = []
    seen: list[int] = []

    def follow() -> None:
        try:
            with StoreReader(store) as reader:
                cursor = ".0.0:"
                names: list[str] = []
                deadline = time.monotonic() + 60
                while len(names) < 200 and time.monotonic() < deadline:
                    changes = reader.follow(cursor, wait_s=1)
                    cursor = changes["cursor"]
                    names += [each["name"] for each in changes["spans"]]
                assert names == [f"span 0 of {number}" for number in range(1, 201)], names
                seen.append(len(reader.find(limit=1000)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 201):
        write(store, span(number, 0, number, number + 1))
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen == [200] * 3
