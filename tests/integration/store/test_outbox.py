"""The outbox on disk: bounds, states, destinations, and the outcomes of each writer."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from nodespan.errors import ConfigurationError, StoreBusyError
from nodespan.otlp import Encoded
from nodespan.store import EXPORTED, MEMORY, SqliteStore, StoreLimits, open_store
from nodespan.store import outbox as outbox_module

HERE = "http://here:4318"
THERE = "http://there:4318"


def batch(size: int = 100, spans: int = 1) -> Encoded:
    return Encoded(b"x" * size, spans)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spans.db"


@pytest.fixture
def store(path):
    store = SqliteStore(path)
    yield store
    store.close()


def ids(store: SqliteStore, destination: str = HERE, after: int = 0) -> list[int]:
    return [found.id for found in store.unsent(destination, after)[0]]


def kept(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        found = [row[0] for row in connection.execute("SELECT id FROM batch ORDER BY id")]
    connection.close()
    return found


def test_batches_are_read_in_order_by_their_destination(store):
    first, second, third = (store.append(batch(), to) for to in (HERE, THERE, HERE))
    store.append(batch(), None)
    assert ids(store) == [first, third]
    assert ids(store, after=first) == [third]
    assert ids(store, THERE) == [second]
    assert store.unsent(HERE, third) == ([], 4)


def test_a_page_ends_after_a_few_megabytes(store, monkeypatch):
    monkeypatch.setattr(outbox_module, "_PAGE_BYTES", 250)
    made = [store.append(batch(100), HERE) for _ in range(5)]
    page, until = store.unsent(HERE)
    assert [found.id for found in page] == made[:3]
    assert until == made[2]
    assert ids(store, after=until) == made[3:]


def test_the_oldest_batches_are_evicted_and_those_without_a_destination_first(path):
    store = SqliteStore(path, StoreLimits(max_bytes=1600))
    unsent = [store.append(batch(), HERE, "me") for _ in range(4)]
    settled = [store.append(batch(), HERE, "me") for _ in range(4)]
    for found in [b for b in store.unsent(HERE)[0] if b.id in settled]:
        store.settle([found], {EXPORTED: 1})
    local = [store.append(batch(), None) for _ in range(8)]
    assert kept(path) == unsent + settled + local
    last = store.append(batch(), HERE, "me")
    assert kept(path) == [
        *unsent,
        *settled[2:],
        *local,
        last,
    ]  # a sixteenth more, so that not every write checks the limit
    for _ in range(16):
        last = store.append(batch(), HERE, "me")
    assert unsent[0] not in kept(path)
    assert not set(kept(path)) & {*settled, *local}
    outbox = store.stats()
    assert outbox.size_bytes <= 1600
    assert store.take_outcomes("me") == {EXPORTED: 4, "store_full": 21 - outbox.waiting}
    assert outbox.outcomes == {EXPORTED: 4, "store_full": 21 - outbox.waiting}
    assert last in kept(path)
    store.close()


def test_old_batches_are_deleted_and_unsent_ones_counted(path, monkeypatch):
    store = SqliteStore(path, StoreLimits(max_age_s=3600))
    store.append(batch(spans=3), HERE, "me")
    store.append(batch(spans=5), None, "me")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3601 * 10**9)
    later = SqliteStore(path, StoreLimits(max_age_s=3600))  # each process checks at its start and every minute
    last = later.append(batch(), HERE, "me")
    assert kept(path) == [last]
    assert later.take_outcomes("me") == {"store_age": 3}
    store.close()
    later.close()


def test_a_running_process_deletes_old_batches_every_minute(path, monkeypatch):
    store = SqliteStore(path, StoreLimits(max_age_s=3600))
    store.append(batch(), HERE, "me")
    wall_ns, clock_s = time.time_ns(), time.monotonic()
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns + 3601 * 10**9)
    second = store.append(batch(), HERE, "me")
    assert len(kept(path)) == 2  # the last check was less than a minute ago
    monkeypatch.setattr(time, "monotonic", lambda: clock_s + 61)
    third = store.append(batch(), HERE, "me")
    assert kept(path) == [second, third]
    store.close()


def test_a_power_cut_cannot_damage_the_file(store):
    """In WAL mode ``synchronous=NORMAL`` (1) may lose the last transactions, ``OFF`` may damage the file."""
    assert store.database.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (1,)
    assert store.database.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


def test_limits_come_from_the_environment(path, monkeypatch):
    monkeypatch.setenv("NODESPAN_STORE", str(path))
    monkeypatch.setenv("NODESPAN_STORE_MAX_BYTES", "1000")
    store = open_store()
    for _ in range(30):
        store.append(batch(), None)
    assert store.stats().size_bytes <= 1000
    store.close()
    monkeypatch.setenv("NODESPAN_STORE_MAX_AGE_S", "a week")
    with pytest.raises(ConfigurationError, match=r"NODESPAN_STORE_MAX_AGE_S is 'a week'.*604800"):
        open_store()


def test_memory_is_bounded_too(monkeypatch):
    monkeypatch.setattr(outbox_module, "_MEMORY_MAX_BYTES", 1000)
    store = SqliteStore(MEMORY)
    for _ in range(30):
        store.append(batch(), HERE)
    assert store.stats().size_bytes <= 1000
    assert store.stats().outcomes["store_full"] > 0
    store.close()


def test_a_batch_larger_than_the_store_is_counted_and_the_store_stays_usable(path):
    store = SqliteStore(path, StoreLimits(max_bytes=1000))
    store.append(batch(5000, spans=7), HERE, "me")
    assert store.take_outcomes("me") == {"store_full": 7}
    last = store.append(batch(), HERE, "me")
    assert kept(path) == [last]
    store.close()


def test_outcomes_are_reported_to_the_writing_process_and_once(store):
    store.append(batch(spans=5), HERE, "mine")
    store.append(batch(spans=3), HERE, "yours")
    mine, yours = store.unsent(HERE)[0]
    store.settle([mine], {EXPORTED: 4, "rejected": 1})
    store.settle([yours], {"400": 3})
    assert store.take_outcomes("mine") == {EXPORTED: 4, "rejected": 1}
    assert store.take_outcomes("mine") == {}
    assert store.take_outcomes("yours") == {"400": 3}
    assert store.stats().outcomes == {EXPORTED: 4, "rejected": 1, "400": 3}


def test_settling_twice_counts_once(store):
    store.append(batch(spans=5), HERE, "me")
    found = store.unsent(HERE)[0]
    store.settle(found, {EXPORTED: 5})
    store.settle(found, {"400": 5})
    assert store.take_outcomes("me") == {EXPORTED: 5}
    store.append(batch(spans=2), HERE, "me")
    both = [*found, *store.unsent(HERE)[0]]
    store.settle(both, {EXPORTED: 7})
    assert store.take_outcomes("me") == {EXPORTED: 2}


def test_an_evicted_batch_that_was_sent_counts_as_sent(path):
    store = SqliteStore(path, StoreLimits(max_bytes=1000))
    store.append(batch(), HERE, "me")
    store.settle(store.unsent(HERE)[0], {EXPORTED: 1})
    for _ in range(20):
        store.append(batch(), None)
    assert 1 not in kept(path)
    assert store.take_outcomes("me") == {EXPORTED: 1}
    store.close()


def test_only_the_batches_of_one_destination_are_readdressed(store):
    for destination in (HERE, THERE, None):
        store.append(batch(), destination, label=f"label {destination}")
    assert store.readdress(THERE, HERE, "here") == 1
    assert (store.waiting_for(HERE), store.waiting_for(THERE), store.waiting_for(None)) == (2, 0, 1)
    assert store.readdress(None, HERE, "here") == 1
    assert [(each.identity, each.label, each.spans) for each in store.waiting()] == [(HERE, f"label {HERE}", 3)]
    assert store.stats().waiting == 3


def test_the_last_error_of_a_destination_is_kept_until_it_accepts_spans(store):
    store.append(batch(), HERE, label="here")
    store.set_last_error(HERE, "401 no")
    assert [each.last_error for each in store.waiting()] == ["401 no"]
    store.set_last_error(HERE, None)
    assert [each.last_error for each in store.waiting()] == [None]


def test_a_locked_store_is_an_error_and_the_operation_can_be_repeated(store, path):
    store.append(batch(), HERE)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        store.append(batch(), HERE)
    assert store.stats().spans == 1  # reading does not wait for a lock
    blocker.execute("ROLLBACK")
    store.append(batch(), HERE)
    assert store.stats().spans == 2
    blocker.close()


def test_the_sums_equal_those_of_the_batches(store):
    for number in range(20):
        store.append(batch(50 + number, spans=number), [HERE, THERE, None][number % 3])
    store.settle(store.unsent(HERE)[0][:2], {EXPORTED: 3})
    store.readdress(HERE, THERE, "there")
    store.readdress(None, THERE, "there")
    outbox = store.stats()
    connection = sqlite3.connect(store.path)
    whole = connection.execute("SELECT sum(spans), sum(bytes) FROM batch").fetchone()
    waiting = connection.execute("SELECT sum(spans) FROM batch WHERE state = 0 AND destination IS NOT NULL").fetchone()
    connection.close()
    assert (outbox.spans, outbox.size_bytes, outbox.waiting) == (*whole, *waiting)
    assert [each.identity for each in outbox.destinations] == [THERE]


def test_the_time_of_a_write_does_not_depend_on_the_size_of_the_store(path):
    """Counted in the steps of SQLite's machine, which no other program disturbs."""

    def steps(store: SqliteStore) -> int:
        count = 0

        def count_one() -> int:
            nonlocal count
            count += 1
            return 0

        def watch(connection: sqlite3.Connection) -> None:
            connection.set_progress_handler(count_one, 1)

        store.database.read(watch)
        store.append(batch(), HERE)
        store.database.read(lambda connection: connection.set_progress_handler(None, 0))
        return count

    store = SqliteStore(path)
    store.append(batch(), HERE)
    few = steps(store)
    for _ in range(2000):
        store.append(batch(), HERE)
    assert steps(store) <= few * 1.2
    store.close()
