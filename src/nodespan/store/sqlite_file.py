"""A SQLite file: its kind, read from the header, its tables, and its opening."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

Content = Literal["ours", "empty", "other_version", "foreign"]

BUSY_TIMEOUT_S: Final = 1.0
"""Short enough for the exit of a process: at a locked store the caller keeps its data and tries again."""
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_APPLICATION_ID: Final = slice(68, 72)
"""Where it is in the header (https://sqlite.org/fileformat2.html)."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of a kind of file.

    Attributes:
        application_id: Value of ``PRAGMA application_id`` in files of this kind.
        version: Value of ``PRAGMA user_version``.
        statements: Create the tables.
        is_derived: The content can be recreated: a damaged file, or one of another version, is deleted.
    """

    application_id: int
    version: int
    statements: tuple[str, ...]
    is_derived: bool = False

    def create(self, connection: sqlite3.Connection) -> None:
        """Creates the tables in an empty database, unless another connection has created them meanwhile."""
        connection.execute("BEGIN IMMEDIATE")
        if number(connection, "application_id") != self.application_id:
            for statement in self.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {self.application_id}")
            connection.execute(f"PRAGMA user_version = {self.version}")
        connection.execute("COMMIT")


def connect(path: Path, options: str = "") -> sqlite3.Connection:
    """Opens a file with SQLite's URI options; an empty path is a private temporary database."""
    place = f"file:{quote(str(path))}?{options}" if options else path
    # Transactions are begun explicitly: sqlite3 would acquire the write lock too late to read before writing.
    return sqlite3.connect(
        place, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None, uri=bool(options)
    )


def in_memory(schema: Schema) -> sqlite3.Connection:
    """Opens an empty private database that needs no file."""
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    schema.create(connection)
    return connection


def content_of(path: Path, schema: Schema) -> Content:
    """Returns the kind of a file, read from its header.

    Raises:
        sqlite3.Error: It is not an SQLite file, or cannot be read.
    """
    # Without locks, log and shared memory, so that nothing of a foreign database is changed, not even at closing.
    connection = connect(path, "immutable=1")
    try:
        # Without this, SQLite reports a file that is shorter than its header states as damaged. The file is shorter
        # while its log is copied into it, and after a kill during that, until the log is read.
        connection.execute("PRAGMA writable_schema = ON")
        application_id, version = number(connection, "application_id"), number(connection, "user_version")
        if application_id == schema.application_id:
            return "ours" if version == schema.version else "other_version"
        if application_id or version:
            return "other_version" if _is_old(connection, version) else "foreign"
        return "foreign" if _has_tables(connection) else "empty"
    finally:
        connection.close()


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None


def _is_old(connection: sqlite3.Connection, version: int) -> bool:
    """Whether it is a store of the schemas 1 and 2, which had no application id."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return version in (1, 2) and {"batch", "fact", "fate"} <= tables


def number(connection: sqlite3.Connection, pragma: str) -> int:
    """The value of a pragma."""
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def error_code(error: sqlite3.Error) -> int:
    """The primary result code of SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the high bits are the extended code


def identity(path: Path) -> tuple[int, int] | None:
    """Returns device and inode of the file; ``None`` if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def has_header_of(path: Path, schema: Schema) -> bool:
    """Whether the file is empty or has a header of this kind, also if it is damaged otherwise.

    Does not use SQLite, which rejects a truncated file. Only for files without open connections: closing a handle
    releases the locks of this process.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    application_id = schema.application_id.to_bytes(4, "big")
    return not header or (header.startswith(_MAGIC) and header[_APPLICATION_ID] == application_id)
