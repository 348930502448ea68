"""The store's file: one connection, opened when it is needed, closed before a fork, replaced when it is damaged."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakSet

from nodespan.errors import StoreBusyError, StoreError
from nodespan.store.mounts import network_file_system
from nodespan.store.schema import SCHEMA_VERSION, STATEMENTS

MEMORY: Final = Path("memory")
"""Chooses a store that lives as long as the process: ``NODESPAN_STORE=memory``."""

_BUSY_TIMEOUT_S: Final = 1.0
"""Short enough for a process that wants to leave: who finds the store busy keeps what it has and tries again."""
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED: Final = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

_logger = logging.getLogger("nodespan")
_T = TypeVar("_T")


class Database:
    """One connection to the file at ``path``, or to a memory of its own (``MEMORY``). Safe from any thread.

    A file that was removed or replaced is left for the one that is there now; one that is damaged is put aside and a
    new one begun, which is said.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        _alive.add(self)

    def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Does the work in a transaction that no other writer comes between; done twice if the file was damaged.

        Raises:
            StoreBusyError: Somebody else held the file for too long.
            StoreError: The file cannot serve.
        """
        return self._do("BEGIN IMMEDIATE", work)

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Does the work on one state of the file; holds no writer of another connection up.

        Raises:
            StoreError: The file cannot serve.
        """
        return self._do("BEGIN", work)

    def close(self) -> None:
        """Closes the connection; the next call opens it again. What is in memory is then gone."""
        with self._lock:
            self._close()

    def _do(self, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._lock:
            try:
                try:
                    return self._try(begin, work)
                except sqlite3.Error as error:
                    if not self._put_aside(error):
                        raise
                    return self._try(begin, work)
            except sqlite3.Error as error:
                if _code(error) in _BUSY:
                    raise StoreBusyError(f"The store {self.path} is held by somebody else: {error}.") from error
                raise self._cannot(error) from error

    def _try(self, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        connection = self._open()
        connection.execute(begin)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and (self.path == MEMORY or self._file == _identity(self.path)):
            return self._connection
        self._close()
        if self.path == MEMORY:
            connection = _connect(":memory:")
        else:
            self._create()
            connection = _connect(self.path)
            self._file = _identity(self.path)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _create(self) -> None:
        if kind := network_file_system(self.path):
            raise self._cannot(f"it is on a network file system ({kind}), where SQLite's log needs shared memory")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # sqlite3 would let others read it. An existing file is not opened here: closing it again would take away
            # the POSIX locks that other connections of this process hold on it.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise self._cannot(error) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != ("memory" if self.path == MEMORY else "wal"):
            raise self._cannot("its file system has no shared memory for SQLite's log")
        connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut may
        if self._version(connection) == 0:
            connection.execute("BEGIN IMMEDIATE")
            if self._version(connection) == 0:  # nobody was quicker
                for statement in STATEMENTS:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise StoreError(
                f"{self.path} was written by another version of nodespan (schema {version}, this one has "
                f"{SCHEMA_VERSION}). Move it away, or choose another file: NODESPAN_STORE=/path/to/spans.db"
            )
        return version

    def _put_aside(self, error: sqlite3.Error) -> bool:
        """Whether the file was at fault, and another one is there now."""
        # A file that was truncated to nothing under an open connection has no tables.
        if self.path == MEMORY or not (_code(error) in _DAMAGED or "no such table" in str(error)):
            return False
        self._close()
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _identity(self.path) == self._file:  # nobody, in whatever process, was quicker
                self._rename(error)
        finally:
            os.close(handle)
        return True

    def _rename(self, error: sqlite3.Error) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            beside = self.path.with_name(self.path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        _logger.warning("The store %s is damaged (%s): it is kept as %s, and a new one begun.", self.path, error, aside)

    def _cannot(self, error: object) -> StoreError:
        return StoreError(
            f"The store {self.path} cannot be used: {error}. Choose a place that can be written "
            "(NODESPAN_STORE=/path/to/spans.db), or memory (NODESPAN_STORE=memory)."
        )

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def before_fork(self) -> None:
        """Waits until nothing is under way, and closes: a lock that a copied connection holds is never given back."""
        self._lock.acquire()
        if self.path != MEMORY:
            self._close()

    def after_fork(self, *, is_child: bool) -> None:
        """Goes on; a child with a memory of its own."""
        if is_child:
            self._close()
            self._lock = threading.Lock()
        else:
            self._lock.release()


def _connect(place: Path | str) -> sqlite3.Connection:
    # Transactions are begun in words: sqlite3's own way takes the write lock too late to read before writing.
    return sqlite3.connect(place, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says more exactly which


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# One set of handlers for all, since a handler cannot be taken back and would keep its object alive.
_alive: Final[WeakSet[Database]] = WeakSet()
_held: Final[list[Database]] = []


class _Forks:
    """One at a time, so that each gives back what it has held."""

    lock = threading.Lock()


def _before_fork() -> None:
    _Forks.lock.acquire()
    for database in list(_alive):
        database.before_fork()
        _held.append(database)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().after_fork(is_child=False)
    _Forks.lock.release()


def _after_fork_in_child() -> None:
    while _held:
        _held.pop().after_fork(is_child=True)
    _Forks.lock = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
