"""The tables of the outbox."""

from __future__ import annotations

from typing import Final

from nodespan.store.graphs import GRAPHS
from nodespan.store.running import RUNNING
from nodespan.store.sqlite_file import Schema

_OUTBOX: Final = (
    """
    CREATE TABLE batch (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so that it can serve as a reader's cursor
        created_ns INTEGER NOT NULL,
        writer TEXT NOT NULL,                  -- the processor that wrote it
        spans INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        destination TEXT,                      -- identity of the destination; NULL: kept here only
        state INTEGER NOT NULL DEFAULT 0,      -- 0 waiting, 1 settled
        data BLOB NOT NULL
    )
    """,
    # Labels of the destinations of batches. The identity is a keyed hash; no credential is stored.
    """
    CREATE TABLE destination (
        identity TEXT PRIMARY KEY,
        label TEXT NOT NULL,
        last_error TEXT
    ) WITHOUT ROWID
    """,
    # Spans by outcome: of a writer, for batches that another process has sent, until the writer reads them; and of all
    # writers, under an empty name.
    """
    CREATE TABLE outcome (
        writer TEXT NOT NULL,
        outcome TEXT NOT NULL,
        spans INTEGER NOT NULL,
        changed_ns INTEGER NOT NULL,
        PRIMARY KEY (writer, outcome)
    ) WITHOUT ROWID
    """,
    # Sums over the batches: computing them at each write would cost more with each batch that is kept.
    "CREATE TABLE totals (spans INTEGER, bytes INTEGER, waiting INTEGER, dropped_batches INTEGER)",
    "INSERT INTO totals VALUES (0, 0, 0, 0)",
    """
    CREATE TRIGGER batch_comes AFTER INSERT ON batch BEGIN
        UPDATE totals SET spans = spans + NEW.spans, bytes = bytes + NEW.bytes,
            waiting = waiting + (NEW.state = 0 AND NEW.destination IS NOT NULL) * NEW.spans;
    END
    """,
    """
    CREATE TRIGGER batch_changes AFTER UPDATE OF state, destination ON batch BEGIN
        UPDATE totals SET waiting = waiting
            + (NEW.state = 0 AND NEW.destination IS NOT NULL) * NEW.spans
            - (OLD.state = 0 AND OLD.destination IS NOT NULL) * OLD.spans;
    END
    """,
    """
    CREATE TRIGGER batch_goes AFTER DELETE ON batch BEGIN
        UPDATE totals SET spans = spans - OLD.spans, bytes = bytes - OLD.bytes, dropped_batches = dropped_batches + 1,
            waiting = waiting - (OLD.state = 0 AND OLD.destination IS NOT NULL) * OLD.spans;
    END
    """,
)

# Identifies this file: its batch ids are invalid for the index or a cursor of another file.
_IDENTITY: Final = (
    "CREATE TABLE identity (store_id TEXT NOT NULL)",
    "INSERT INTO identity VALUES (lower(hex(randomblob(16))))",
)

OUTBOX: Final = Schema(
    application_id=0x6E64736F,  # "ndso"
    version=2,
    statements=(*_OUTBOX, *_IDENTITY, *RUNNING, *GRAPHS),
)
"""The schema of the outbox."""
