"""Declared graphs: copied from the runs that contain them, because these are deleted earlier."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.message import DecodeError

from nodespan.otlp import topologies
from nodespan.spans.announced import AGAIN_AFTER_S

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from nodespan.store.records import GraphRecord

GRAPHS: Final = (
    """
    CREATE TABLE graph (
        hash TEXT PRIMARY KEY,
        topology TEXT NOT NULL,      -- JSON
        announced_ns INTEGER NOT NULL  -- when a run last contained it
    ) WITHOUT ROWID
    """,
)
MAX_GRAPHS: Final = 10_000
"""Limit for programs that create graphs without end; at the usual 2 KB each, 20 MB."""
_MAX_BYTES: Final = 32 * 1024


def keep(connection: sqlite3.Connection, data: bytes) -> None:
    """Copies the graphs of an encoded batch."""
    try:
        found = topologies(data)
    except DecodeError:  # stored as it is; the reader of the batch reports it
        return
    for graph_hash, topology in found.items():
        keep_one(connection, graph_hash, topology)


def keep_one(connection: sqlite3.Connection, graph_hash: str, topology: str) -> None:
    """Stores a graph, unless the text is not a topology."""
    if len(topology) <= _MAX_BYTES and _parsed(topology) is not None:
        connection.execute(
            "INSERT INTO graph VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE SET announced_ns = excluded.announced_ns",
            (graph_hash, topology, time.time_ns()),
        )


def remove_unused(connection: sqlite3.Connection, oldest_ns: int) -> None:
    """Removes graphs that no stored run refers to.

    A process announces a graph again after a day: a stored run started at most a day after an announcement.

    Args:
        connection: Of the outbox.
        oldest_ns: Unix time in ns of the oldest batch that is kept.
    """
    connection.execute("DELETE FROM graph WHERE announced_ns < ?", (oldest_ns - round(AGAIN_AFTER_S * 1e9),))
    newest = "SELECT hash FROM graph ORDER BY announced_ns DESC LIMIT ?"
    connection.execute(f"DELETE FROM graph WHERE hash NOT IN ({newest})", (MAX_GRAPHS,))  # noqa: S608 the column names are constants


def by_hashes(connection: sqlite3.Connection, hashes: Iterable[str]) -> dict[str, GraphRecord]:
    """The graphs with these hashes, as far as they are stored."""
    query = "SELECT hash, topology FROM graph WHERE hash = ?"
    rows = (connection.execute(query, (graph_hash,)).fetchone() for graph_hash in hashes)
    return {row[0]: _record(*row) for row in rows if row is not None}


def by_prefix(connection: sqlite3.Connection, prefix: str) -> list[GraphRecord]:
    """Up to two graphs with this prefix of the hash."""
    query = "SELECT hash, topology FROM graph WHERE hash >= ? AND hash < ? LIMIT 2"
    first = prefix.lower()
    return [_record(*row) for row in connection.execute(query, (first, first + "g")).fetchall()]


def _record(graph_hash: str, topology: str) -> GraphRecord:
    return {"hash": graph_hash, "topology": _parsed(topology) or {}}


def _parsed(topology: str) -> dict[str, Any] | None:
    """The topology; ``None`` if it was cut by a limit of the SDK, or written in another form."""
    try:
        found = json.loads(topology)
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
