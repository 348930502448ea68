"""The tables of the store."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 2

_OUTBOX: Final = (
    """
    CREATE TABLE batch (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so that a reader knows how far it has read
        created_ns INTEGER NOT NULL,
        writer TEXT NOT NULL,                  -- the process, which wants to know what became of its spans
        spans INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        destination TEXT,                      -- NULL: kept here only
        state INTEGER NOT NULL DEFAULT 0,      -- 0 waiting, 1 settled
        data BLOB NOT NULL
    )
    """,
    # What became of a writer's spans, until it comes and takes the figures; and of everybody's, under no name.
    """
    CREATE TABLE fate (
        writer TEXT NOT NULL,
        outcome TEXT NOT NULL,
        spans INTEGER NOT NULL,
        changed_ns INTEGER NOT NULL,
        PRIMARY KEY (writer, outcome)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # Sums over the batches: taking them anew at each write would cost more with each batch that is kept.
    "CREATE TABLE total (spans INTEGER, bytes INTEGER, waiting INTEGER, dropped_batches INTEGER)",
    "INSERT INTO total VALUES (0, 0, 0, 0)",
    """
    CREATE TRIGGER batch_comes AFTER INSERT ON batch BEGIN
        UPDATE total SET spans = spans + NEW.spans, bytes = bytes + NEW.bytes,
            waiting = waiting + (NEW.state = 0 AND NEW.destination IS NOT NULL) * NEW.spans;
    END
    """,
    """
    CREATE TRIGGER batch_changes AFTER UPDATE OF state, destination ON batch BEGIN
        UPDATE total SET waiting = waiting
            + (NEW.state = 0 AND NEW.destination IS NOT NULL) * NEW.spans
            - (OLD.state = 0 AND OLD.destination IS NOT NULL) * OLD.spans;
    END
    """,
    """
    CREATE TRIGGER batch_goes AFTER DELETE ON batch BEGIN
        UPDATE total SET spans = spans - OLD.spans, bytes = bytes - OLD.bytes, dropped_batches = dropped_batches + 1,
            waiting = waiting - (OLD.state = 0 AND OLD.destination IS NOT NULL) * OLD.spans;
    END
    """,
)

# The search index: filled by readers, and only from batches, so that its rows may be deleted and are then made anew.
_INDEX: Final = (
    """
    CREATE TABLE trace (
        id INTEGER PRIMARY KEY,
        trace_id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,     -- of the span that began first, and its service
        service TEXT NOT NULL,
        start_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        spans INTEGER NOT NULL,
        errors INTEGER NOT NULL
    )
    """,
    "CREATE INDEX trace_start ON trace (start_ns)",
    # How much of a trace is in a batch.
    """
    CREATE TABLE part (
        batch INTEGER NOT NULL,
        trace INTEGER NOT NULL,
        spans INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        PRIMARY KEY (batch, trace)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX part_trace ON part (trace)",
    # What a trace can be found by. The key holds the traces with a word in the order in which they are wanted.
    """
    CREATE TABLE word (
        kind TEXT NOT NULL,
        word TEXT NOT NULL,
        start_ns INTEGER NOT NULL,
        trace INTEGER NOT NULL,
        PRIMARY KEY (kind, word, start_ns, trace)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX word_trace ON word (trace)",
)

STATEMENTS: Final = (*_OUTBOX, *_INDEX)
