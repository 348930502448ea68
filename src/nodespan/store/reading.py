"""Queries of readers to the outbox, and the cursor of a follower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from nodespan.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

    from nodespan.store.records import Changes

_FOLLOWED_BATCHES: Final = 32
_FOLLOWED_BYTES: Final = 4 * 1024 * 1024


class Cursor(NamedTuple):
    """The position of a follower: the file, the last batch, and the version of the open spans."""

    store_id: str
    batch: int
    running: str

    def __str__(self) -> str:
        return f"{self.store_id}.{self.batch}.{self.running}"


def parse_cursor(cursor: str) -> Cursor:
    """Parses the text of a cursor.

    Raises:
        StoreError: It is not one.
    """
    parts = cursor.split(".")
    if len(parts) != 3 or not (parts[1].isascii() and parts[1].isdecimal()):
        raise StoreError(f"{cursor!r} is not a cursor of a store. Call cursor() for one.")
    return Cursor(parts[0], int(parts[1]), parts[2])


def no_changes(cursor: str) -> Changes:
    """Returns the answer while nothing has changed."""
    return {"cursor": cursor, "is_reset": False, "has_more": False, "traces": [], "spans": [], "running": None}


def batches_after(connection: sqlite3.Connection, after: int) -> list[tuple[int, bytes]]:
    """Returns the batches after one, the oldest first, a few MB at most."""
    found: list[tuple[int, bytes]] = []
    size = 0
    query = "SELECT id, data FROM batch WHERE id > ? ORDER BY id LIMIT ?"
    for batch_id, data in connection.execute(query, (after, _FOLLOWED_BATCHES)):
        found.append((batch_id, data))
        size += len(data)
        if size >= _FOLLOWED_BYTES:
            break
    return found


def batch_ids(connection: sqlite3.Connection) -> list[int]:
    """Returns the ids of all batches."""
    return [batch_id for (batch_id,) in connection.execute("SELECT id FROM batch")]


def batch_data(connection: sqlite3.Connection, batch_id: int) -> bytes | None:
    """Returns a batch; ``None`` if it was deleted."""
    row = connection.execute("SELECT data FROM batch WHERE id = ?", (batch_id,)).fetchone()
    return row[0] if row is not None else None
