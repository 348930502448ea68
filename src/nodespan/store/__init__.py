"""The local store: the outbox in one SQLite file, and the read model with its search index in another."""

from __future__ import annotations

from nodespan.store.convert import edge_records, write_records
from nodespan.store.database import MEMORY
from nodespan.store.edges import join_edges
from nodespan.store.location import open_store, store_path
from nodespan.store.merge import matches
from nodespan.store.outbox import EXPORTED, Batch, Outbox, SqliteStore, StoreLimits, Waiting
from nodespan.store.paths import default_path, index_path, old_stores
from nodespan.store.reading import parse_cursor
from nodespan.store.records import TraceFilter
from nodespan.store.secret import hash_key, load_secret
from nodespan.store.traces import StoreReader

__all__ = [
    "EXPORTED",
    "MEMORY",
    "Batch",
    "Outbox",
    "SqliteStore",
    "StoreLimits",
    "StoreReader",
    "TraceFilter",
    "Waiting",
    "default_path",
    "edge_records",
    "hash_key",
    "index_path",
    "join_edges",
    "load_secret",
    "matches",
    "old_stores",
    "open_store",
    "parse_cursor",
    "store_path",
    "write_records",
]
