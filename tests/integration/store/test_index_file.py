"""The index beside the store, where it cannot be written, and copies without a writer."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from batches import span, trace_id, write
from nodespan.spans.log import CODE_FIELD
from nodespan.store import SqliteStore, StoreReader, index_path
from nodespan.store.database import Database, DatabaseReader
from nodespan.store.index import INDEX, Index, indexed_spans
from nodespan.store.schema import OUTBOX

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


def as_nobody(work):
    """Runs as a user without write permission; root always has it."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        return work()
    finally:
        os.seteuid(me)


@pytest.fixture
def closed_folder():
    """Readable and not writable, for others than root."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        Path(name).chmod(0o755)


def read_all(path: Path):
    with StoreReader(SqliteStore(path)) as reader:
        return ids(reader.find()), [len(reader.get(trace_id(1))["spans"])], reader.status()


def test_a_copy_in_a_folder_without_write_permission_is_read(store, closed_folder, caplog):
    write(store, span(1, 0, 1, 2), span(2, 0, 2, 3))
    store.close()
    copy = closed_folder / "copy.db"
    shutil.copy(store.path, copy)
    copy.chmod(0o444)
    closed_folder.chmod(0o555)
    found, spans, status = as_nobody(lambda: read_all(copy))
    assert (found, spans) == ([2, 1], [1])
    assert (status["is_copy"], status["is_index_temporary"], status["sees_running"]) == (True, True, False)
    assert [file.name for file in closed_folder.iterdir()] == ["copy.db"]
    assert codes_of(caplog) == []


def test_a_copy_beside_a_log_is_read_without_it_and_a_warning_is_logged(store, closed_folder, caplog):
    write(store, span(1, 0, 1, 2))
    store.close()
    write(store, span(2, 0, 2, 3))  # is in the log
    for suffix in ("", "-wal"):
        shutil.copy(f"{store.path}{suffix}", closed_folder / f"copy.db{suffix}")
        (closed_folder / f"copy.db{suffix}").chmod(0o444)
    closed_folder.chmod(0o555)
    found, _, _ = as_nobody(lambda: read_all(closed_folder / "copy.db"))
    assert found == [1]
    assert set(codes_of(caplog)) == {"store.copy_with_log"}


def test_an_index_that_cannot_be_written_is_temporary(store, caplog):
    write(store, span(1, 0, 1, 2))
    index_path(store.path).write_bytes(b"This is another program's file.")
    for _ in range(2):
        found, _, status = read_all(store.path)
        assert (found, status["is_index_temporary"], status["is_copy"]) == ([1], True, False)
    assert index_path(store.path).read_bytes() == b"This is another program's file."
    assert set(codes_of(caplog)) == {"store.index_unavailable"}


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "another version", "deleted"])
def test_a_damaged_index_is_rebuilt(store, damage):
    for number in range(1, 101):
        write(store, span(number, 0, number, number + 1))
    with StoreReader(store) as reader:
        before = reader.find()
    path = index_path(store.path)
    if damage == "cut off":
        os.truncate(path, 5_000)
    elif damage == "overwritten":
        with path.open("r+b") as file:
            for page in range(1, path.stat().st_size // 4096):
                file.seek(page * 4096)
                file.write(b"\xab" * 4096)
    elif damage == "another version":
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA user_version = 99")
    else:
        path.unlink()
    with StoreReader(store) as reader:
        assert reader.find() == before
        assert not reader.status()["is_index_temporary"]
    assert [file.name for file in store.path.parent.glob("*damaged*")] == []


def test_the_index_is_readable_only_by_its_owner(store, reader):
    before = os.umask(0)
    try:
        write(store, span(1, 0, 1, 2))
        reader.find()
    finally:
        os.umask(before)
    assert index_path(store.path).stat().st_mode & 0o777 == 0o600


class LateDatabase(Database):
    """An index of a reader that is overtaken by another one before its first write.

    Attributes:
        spans_left: Indexed spans after each of its writes.
    """

    def __init__(self, path: Path, overtake) -> None:
        super().__init__(path, INDEX)
        self._overtake = overtake
        self.spans_left: list[int] = []

    def write(self, work, timeout_s=None):
        overtake, self._overtake = self._overtake, None
        if overtake is not None:
            overtake()
        result = super().write(work, timeout_s)
        self.spans_left.append(self.read(indexed_spans))
        return result


def test_two_readers_that_create_an_index_at_once_share_it(store):
    write(store, span(1, 0, 1, 2), span(2, 0, 1, 2))
    outbox = DatabaseReader(store.path, OUTBOX)
    first = Database(index_path(store.path), INDEX)
    second = LateDatabase(index_path(store.path), lambda: Index(outbox, first).fill())
    with closing(outbox), closing(first), closing(second):
        Index(outbox, second).fill()
        assert set(second.spans_left) == {2}
