"""The local store: one SQLite file that is outbox and search index."""

from __future__ import annotations

from nodespan.store.location import default_path, store_path
from nodespan.store.reader import StoreReader, TraceFilter, TraceSummary
from nodespan.store.sqlite import Batch, SqliteStore, StoreLimits

__all__ = [
    "Batch",
    "SqliteStore",
    "StoreLimits",
    "StoreReader",
    "TraceFilter",
    "TraceSummary",
    "default_path",
    "store_path",
]
