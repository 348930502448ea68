"""The local store: one SQLite file that is outbox and search index."""

from __future__ import annotations

from nodespan.store.database import MEMORY
from nodespan.store.location import default_path, open_store, store_path
from nodespan.store.outbox import EXPORTED, Batch, Outbox, SqliteStore, StoreLimits
from nodespan.store.traces import StoreReader, TraceFilter, TraceSummary

__all__ = [
    "EXPORTED",
    "MEMORY",
    "Batch",
    "Outbox",
    "SqliteStore",
    "StoreLimits",
    "StoreReader",
    "TraceFilter",
    "TraceSummary",
    "default_path",
    "open_store",
    "store_path",
]
