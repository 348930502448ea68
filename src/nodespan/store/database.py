"""SQLite files: opened when needed, closed before a fork, replaced when damaged, not changed when foreign."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakSet, finalize

from nodespan.errors import StoreBusyError, StoreError, StoreForeignError
from nodespan.spans.log import warn
from nodespan.store.mounts import network_file_system
from nodespan.store.posix import locked
from nodespan.store.sqlite_file import (
    BUSY_TIMEOUT_S,
    Content,
    Schema,
    connect,
    content_of,
    error_code,
    has_header_of,
    identity,
    in_memory,
    number,
)

MEMORY: Final = Path("memory")
"""Selects a store that exists as long as the process: ``NODESPAN_STORE=memory``."""

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED: Final = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_UNREADABLE: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)

_T = TypeVar("_T")


class Database:
    """One connection to a file, or to a private database in memory (``MEMORY``). Safe from any thread and across forks.

    If the file was removed or replaced, the file that is now at its path is used. A file that nodespan did not make
    is never written or renamed. A damaged file of nodespan is renamed and a new one created; so is a file without a
    valid SQLite header at the default path.

    Args:
        path: The file, or ``MEMORY``.
        schema: Its tables.
        may_replace: The path belongs to nodespan: also a file without a valid header is renamed.

    Attributes:
        opened: Number of times that the file was opened; if it is unchanged, so is the file.
    """

    def __init__(self, path: Path, schema: Schema, *, may_replace: bool = False) -> None:
        self.path = path
        self._schema = schema
        self._may_replace = may_replace
        self._lock = threading.RLock()  # a signal handler may interrupt a call and make another
        self._is_in_call = False
        self._connection: sqlite3.Connection | None = None
        self._finalizer: finalize[..., Database] | None = None
        self._file: tuple[int, int] | None = None
        self._ours: tuple[int, int] | None = None  # the last file whose header was nodespan's
        self.opened = 0
        _alive.add(self)

    def write(self, work: Callable[[sqlite3.Connection], _T], timeout_s: float | None = None) -> _T:
        """Runs the work in a write transaction; runs it a second time if the file was damaged.

        Args:
            work: Called with the connection.
            timeout_s: Longest time to wait for the write lock; 1 s if not given.

        Raises:
            StoreBusyError: Another process or thread holds the write lock for longer.
            StoreError: The file cannot be used.
        """
        return self._do("BEGIN IMMEDIATE", work, timeout_s)

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Runs the work on one state of the file; does not block writers.

        Raises:
            StoreError: The file cannot be used.
        """
        return self._do("BEGIN", work)

    def version(self) -> object:
        """Returns a value that differs from the one before if the file may have changed since. Costs some µs.

        Raises:
            StoreError: The file cannot be used.
        """

        def look(connection: sqlite3.Connection) -> object:
            return self.opened, number(connection, "data_version"), connection.total_changes

        return self._do(None, look)

    def close(self) -> None:
        """Closes the connection; the next call opens it again. The content of a database in memory is then gone."""
        with self._lock:
            if not self._is_in_call:  # else a signal handler has interrupted a call, which continues
                self._close()

    def copy_to(self, path: Path, prepare: Callable[[sqlite3.Connection], object]) -> None:
        """Writes a copy of the file into a new one of mode 0600, of one state, without blocking writers.

        Args:
            path: The new file.
            prepare: Called with a connection to the copy.

        Raises:
            StoreError: There is a file already, it cannot be written, or this one cannot be read.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}. Give the name of a new file.") from error
        try:
            with closing(connect(path)) as target:
                self._do(None, lambda connection: connection.backup(target))
                prepare(target)
                target.execute(
                    "PRAGMA journal_mode = DELETE"
                )  # can then be read from a folder without write permission
        except BaseException as error:  # also an interrupt: no half of a copy remains
            path.unlink()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"{path} cannot be written: {error}.") from error
            raise

    def _do(self, begin: str | None, work: Callable[[sqlite3.Connection], _T], timeout_s: float | None = None) -> _T:
        lock = self._lock
        if not lock.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0.0)):
            raise StoreBusyError(f"The store {self.path} is in use by another thread.")
        if self._is_in_call:
            lock.release()
            raise StoreBusyError(f"The store {self.path} is in use by the code that this signal handler interrupts.")
        self._is_in_call = True
        try:
            try:
                return self._try(begin, work, timeout_s)
            except sqlite3.Error as error:
                if not self._recovered_from(error):
                    raise
                return self._try(begin, work, timeout_s)
        except sqlite3.Error as error:
            if error_code(error) in _BUSY:
                raise StoreBusyError(f"The store {self.path} is locked by another process: {error}.") from error
            raise self._cannot(error) from error
        finally:
            self._is_in_call = False
            lock.release()

    def _try(self, begin: str | None, work: Callable[[sqlite3.Connection], _T], timeout_s: float | None = None) -> _T:
        connection = self._open()
        if begin is None:
            return work(connection)
        if timeout_s is not None:
            connection.execute(f"PRAGMA busy_timeout = {max(round(timeout_s * 1e3), 0)}")
        try:
            connection.execute(begin)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:  # also an interrupt: the transaction ends
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            if timeout_s is not None:
                connection.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1e3)}")
        return result

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and (self.path == MEMORY or self._file == identity(self.path)):
            return self._connection
        self._close()
        self._connection = connection = self._connect()
        # Not __del__: in a reference cycle the connection may be finalized first, and would warn.
        self._finalizer = finalize(self, connection.close)
        self._finalizer.atexit = False
        self.opened += 1
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if self.path == MEMORY:
            return in_memory(self._schema)
        self._create()
        self._file = identity(self.path)
        content = self._content()
        if content == "other_version" and self._schema.is_derived:
            with locked(self.path.parent):
                self._take_away("its schema is another one")
            return self._connect()
        if content not in ("ours", "empty"):
            raise self._foreign(content)
        connection = connect(self.path)
        try:
            self._prepare(connection, content)
        except BaseException:
            connection.close()
            raise
        self._ours = self._file
        return connection

    def _create(self) -> None:
        if kind := network_file_system(self.path):
            raise self._cannot(f"it is on a network file system ({kind}), where SQLite's log needs shared memory")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # sqlite3 would create it readable for others. An existing file is not opened here: closing it would release
            # the POSIX locks that other connections of this process hold on it.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise self._cannot(error) from error

    def _prepare(self, connection: sqlite3.Connection, content: Content) -> None:
        # The tables are created before the log: with a log the file's header would have no application id at first.
        if content == "empty":
            with locked(self.path.parent):
                self._schema.create(connection)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise self._cannot("its file system has no shared memory for SQLite's log")
        connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut may

    def _content(self) -> Content:
        try:
            return content_of(self.path, self._schema)
        except sqlite3.Error:
            with locked(self.path.parent):  # until another process has created the tables
                return content_of(self.path, self._schema)

    def _foreign(self, content: Content) -> StoreError:
        what = {
            "other_version": "was written by another version of nodespan",
            "foreign": "is not a store of nodespan and is not changed",
        }[content]
        return StoreForeignError(
            f"The file {self.path} {what}. Choose another file (NODESPAN_STORE=/path/to/nodespan.db), or memory "
            "(NODESPAN_STORE=memory)."
        )

    def _recovered_from(self, error: sqlite3.Error) -> bool:
        """Whether the file was damaged, and another one is at its path now."""
        # A file that was truncated to nothing under an open connection has no tables.
        if self.path == MEMORY or not (error_code(error) in _DAMAGED or "no such table" in str(error)):
            return False
        self._close()
        with locked(self.path.parent):
            if identity(self.path) != self._file:  # another thread or process has replaced it
                return True
            if not (self._may_replace or self._file == self._ours or has_header_of(self.path, self._schema)):
                raise self._foreign("foreign") from error
            self._take_away(error)
        return True

    def _take_away(self, why: object) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-journal", "-wal", "-shm"):
            beside = self.path.with_name(self.path.name + suffix)
            if not beside.exists():
                continue
            if self._schema.is_derived:
                beside.unlink()
            else:
                beside.rename(aside.with_name(aside.name + suffix))
        if not self._schema.is_derived:
            message = "The store %s is damaged (%s). It was renamed to %s, and a new store was created."
            warn("store.damaged", message, self.path, why, aside)

    def _cannot(self, error: object) -> StoreError:
        return StoreError(
            f"The store {self.path} cannot be used: {error}. Choose a file that can be written "
            "(NODESPAN_STORE=/path/to/nodespan.db), or memory (NODESPAN_STORE=memory)."
        )

    def _close(self) -> None:
        if self._connection is not None:
            if self._finalizer is not None:
                self._finalizer.detach()
            self._connection.close()
            self._connection = None

    def before_fork(self) -> None:
        """Waits for the running transaction and closes: the lock of a copied connection would never be released."""
        self._lock.acquire()
        if self.path != MEMORY:
            self._close()

    def after_fork(self, *, is_child: bool) -> None:
        """Continues; in a child, a database in memory is empty."""
        if is_child:
            self._close()
            self._lock = threading.RLock()
        else:
            self._lock.release()


class DatabaseReader(Database):
    """A read-only connection to a file of nodespan; never creates, writes, renames or locks it for writing.

    An absent or empty file reads as an empty store. A file that cannot be opened with locks, such as a copy in a folder
    without write permission, is read with ``immutable=1``.

    Attributes:
        is_copy: The file is read with ``immutable=1``: later changes of it are not seen.
        is_absent: There is no file, or an empty one.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        super().__init__(path, schema)
        self.is_copy = self.is_absent = False

    def write(self, work: Callable[[sqlite3.Connection], _T], timeout_s: float | None = None) -> _T:
        """Raises ``StoreError``."""
        del work, timeout_s
        raise self._cannot("it was opened for reading")

    def _open(self) -> sqlite3.Connection:
        if self.is_absent and self._file is not None:
            self._close()  # it was empty, and may have tables by now
        return super()._open()

    def _connect(self) -> sqlite3.Connection:
        self.is_copy = False
        self._file = identity(self.path)
        content = "empty" if self._file is None else self._content()
        self.is_absent = content == "empty"
        if self.is_absent:
            return in_memory(self._schema)
        if content != "ours":
            raise self._foreign(content)
        if network_file_system(self.path) is None:
            connection = connect(self.path, "mode=ro")
            try:
                connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
            except sqlite3.Error as error:
                connection.close()
                if error_code(error) not in _UNREADABLE:
                    raise
            else:
                return connection
        return self._connect_to_copy()

    def _connect_to_copy(self) -> sqlite3.Connection:
        self.is_copy = True
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size:
            message = "%s is read without its write-ahead log: spans in %s are missing. Make a copy with: %s"
            warn("store.copy_with_log", message, self.path, log.name, "nodespan export --store FILE")
        return connect(self.path, "immutable=1")

    def _recovered_from(self, error: sqlite3.Error) -> bool:
        if error_code(error) == sqlite3.SQLITE_NOTADB:
            raise self._foreign("foreign") from error
        return False


# One set of handlers for all, because a handler cannot be removed and would keep its object alive.
_alive: Final[WeakSet[Database]] = WeakSet()
_held: Final[list[Database]] = []


class _Forks:
    """One at a time, so that each releases its own locks."""

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
