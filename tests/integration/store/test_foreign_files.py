"""Files that nodespan did not make are neither written nor renamed, for any content."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nodespan.errors import StoreForeignError
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore, StoreReader, default_path, old_stores
from nodespan.store.database import Database
from nodespan.store.index import INDEX
from nodespan.store.schema import OUTBOX

BATCH = Encoded(b"x" * 3_000, 1)
CRASH = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("DELETE FROM checkpoints")
connection.commit()
os._exit(0)
"""
PROBE = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("PRAGMA journal_mode = DELETE")
"""


def database_of_somebody(path: Path, *, version: int = 0, application_id: int = 0, mode: str = "DELETE") -> None:
    """Such as a checkpoint database of LangGraph."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE checkpoints (thread_id TEXT, checkpoint BLOB)")
        connection.execute("INSERT INTO checkpoints VALUES ('a', 'b')")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute(f"PRAGMA application_id = {application_id}")


def old_store(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("batch", "fate", "fact"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)")
        connection.execute("PRAGMA user_version = 2")


MAKERS = {
    "another program's database": database_of_somebody,
    "one in WAL mode": lambda path: database_of_somebody(path, mode="WAL"),
    "one with a version": lambda path: database_of_somebody(path, version=7),
    "one with an application id": lambda path: database_of_somebody(path, application_id=0x1234),
    "an index of nodespan": lambda path: Database(path, INDEX).read(lambda connection: None),
    "a store of an older schema": old_store,
    "a text": lambda path: path.write_bytes(b"Dear reader, this is not a database." * 200),
    "a short text": lambda path: path.write_bytes(b"hello"),
    "a broken database": lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5_000),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_foreign_file_is_neither_written_nor_renamed(kind, tmp_path):
    path = tmp_path / "given.db"
    MAKERS[kind](path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreForeignError, match=r"given\.db.*NODESPAN_STORE=") as raised:
            store.append(BATCH, None)
        assert raised.value.code == "store.foreign_file"
    with StoreReader(store) as reader, pytest.raises(StoreForeignError):
        reader.find()
    store.close()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_foreign_write_ahead_log_is_not_checkpointed(tmp_path):
    """The log of a crashed process, which the last connection checkpoints at its close, nodespan's too."""
    path = tmp_path / "given.db"
    database_of_somebody(path, mode="WAL")
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=True)
    log = tmp_path / "given.db-wal"
    before = path.read_bytes(), log.read_bytes()
    assert before[1]
    with closing(SqliteStore(path)) as store, pytest.raises(StoreForeignError):
        store.append(BATCH, None)
    assert (path.read_bytes(), log.read_bytes()) == before


def test_a_foreign_database_at_the_default_path_is_not_modified(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    default_path().parent.mkdir()
    database_of_somebody(default_path())
    with pytest.raises(StoreForeignError):
        SqliteStore(default_path()).append(BATCH, None)
    assert [file.name for file in default_path().parent.iterdir()] == [default_path().name]


def test_a_store_of_an_older_schema_in_the_default_folder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert old_stores() == []
    default_path().parent.mkdir()
    old_store(default_path().with_name("spans.db"))
    before = default_path().with_name("spans.db").read_bytes()
    with closing(SqliteStore(default_path())) as store:
        store.append(BATCH, None)
    (found,) = old_stores()
    assert found.name == "spans.db"
    assert found.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path):
    path = tmp_path / "given.db"
    path.touch()
    with closing(SqliteStore(path)) as store:
        store.append(BATCH, None)
        assert store.stats().spans == 1


def test_the_application_id_is_in_the_header_while_the_log_is_not_yet_in_the_file(tmp_path):
    path = tmp_path / "store.db"
    with closing(SqliteStore(path)) as store:
        store.append(BATCH, None)
        assert path.read_bytes()[68:72] == OUTBOX.application_id.to_bytes(4, "big")


def test_reading_the_header_does_not_release_the_locks_of_the_process(tmp_path):
    """POSIX locks are released when any handle of the file is closed in the process, unless SQLite closes it."""
    path = tmp_path / "store.db"
    with closing(SqliteStore(path)) as store:
        store.append(BATCH, None)
        with closing(SqliteStore(path)) as second:
            assert second.stats().spans == 1
        done = subprocess.run([sys.executable, "-c", PROBE, str(path)], check=False, capture_output=True, text=True)
        assert "database is locked" in done.stderr
