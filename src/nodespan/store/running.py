"""Open spans: a row for each, and a row for each process with its heartbeat."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nodespan import semconv
from nodespan.store import graphs
from nodespan.store.convert import edge_records
from nodespan.store.posix import is_held

if TYPE_CHECKING:
    import sqlite3

    from nodespan.store.records import PhaseRecord, ProcessRecord, SpanRecord, State

SILENT_AFTER_S: Final = 5.0
"""Age of a heartbeat, written each second, from which a process is silent."""

RUNNING: Final = (
    """
    CREATE TABLE process (
        id TEXT PRIMARY KEY,
        pid INTEGER NOT NULL,
        boot_id TEXT NOT NULL,            -- of the machine, whose monotonic clock is valid until its restart
        start_ns INTEGER NOT NULL,
        heartbeat_ns INTEGER NOT NULL,
        heartbeat_monotonic_ns INTEGER NOT NULL,
        untracked INTEGER NOT NULL,       -- spans so far that got no row
        resource TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE running (
        trace_id TEXT NOT NULL,
        span_id TEXT NOT NULL,
        process TEXT NOT NULL,
        parent_span_id TEXT NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        scope TEXT NOT NULL,
        start_ns INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        phase TEXT,
        PRIMARY KEY (trace_id, span_id)
    ) WITHOUT ROWID
    """,
    # Number of the transactions that changed a row of an open span: the position of a follower.
    "CREATE TABLE running_version (version INTEGER NOT NULL)",
    "INSERT INTO running_version VALUES (0)",
)
"""The tables, in the outbox's file: a row is deleted in the transaction that stores the span's end."""

Key = tuple[str, str]
"""Trace and span id in hex."""


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """The row of an open span. The attributes hold JSON's types alone."""

    key: Key
    parent_span_id: str
    name: str
    kind: str
    scope: str
    start_ns: int
    attributes: dict[str, Any]
    phase: PhaseRecord | None


@dataclass(frozen=True, slots=True)
class Process:
    """The process that writes rows of open spans."""

    id: str
    start_ns: int
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Changed:
    """The changes that a process writes at once.

    Attributes:
        opened: Spans that have no row yet.
        phases: New phases of spans that have one.
        gone: Spans that ended without being stored, or were collected without an end.
        untracked: Number of spans so far that got no row.
    """

    opened: Sequence[OpenSpan] = ()
    phases: Sequence[tuple[Key, PhaseRecord | None]] = ()
    gone: Sequence[Key] = ()
    untracked: int = 0


def lock_path(store: Path, process_id: str) -> Path:
    """The file that a process with open spans keeps locked."""
    return store.with_name(f"{store.stem}.running") / process_id


def boot_id() -> str:
    """Identifies the last start of the machine; empty if the system has no such id."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write(connection: sqlite3.Connection, process: Process, changed: Changed) -> None:
    """Writes rows, and the heartbeat."""
    connection.execute(
        "INSERT INTO process VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "heartbeat_ns = excluded.heartbeat_ns, heartbeat_monotonic_ns = excluded.heartbeat_monotonic_ns, "
        "untracked = excluded.untracked",
        (
            process.id,
            os.getpid(),
            boot_id(),
            process.start_ns,
            time.time_ns(),
            time.monotonic_ns(),
            changed.untracked,
            json.dumps(process.resource, default=str),
        ),
    )
    for span in changed.opened:
        # The topology of a running graph is stored separately: it is too large for the row, which readers decode at
        # each change.
        topology = span.attributes.pop(semconv.LANGGRAPH_GRAPH_TOPOLOGY, None)
        if isinstance(topology, str):
            graphs.keep_one(connection, str(span.attributes.get(semconv.LANGGRAPH_GRAPH_HASH, "")), topology)
    connection.executemany(
        "INSERT OR REPLACE INTO running VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *span.key,
                process.id,
                span.parent_span_id,
                _storable(span.name),
                span.kind,
                _storable(span.scope),
                span.start_ns,
                json.dumps(span.attributes, default=str),
                _phase_text(span.phase),
            )
            for span in changed.opened
        ],
    )
    connection.executemany(
        "UPDATE running SET phase = ? WHERE trace_id = ? AND span_id = ?",
        [(_phase_text(phase), *key) for key, phase in changed.phases],
    )
    _delete(connection, changed.gone)
    if changed.opened or changed.phases or changed.gone:
        _count_up(connection)


def remove(connection: sqlite3.Connection, keys: Iterable[Key]) -> None:
    """Removes the rows of spans, in the transaction that stores their ends."""
    if _delete(connection, keys):
        _count_up(connection)


def remove_process(connection: sqlite3.Connection, process_id: str) -> None:
    """Removes a process at its regular end, and all its rows."""
    connection.execute("DELETE FROM process WHERE id = ?", (process_id,))
    if connection.execute("DELETE FROM running WHERE process = ?", (process_id,)).rowcount:
        _count_up(connection)


def remove_dead(connection: sqlite3.Connection, store: Path, before_ns: int) -> list[Path]:
    """Removes processes that have no rows or died before a time; returns their lock files, which can then go too."""
    query = """
        SELECT id FROM process
        WHERE heartbeat_ns < ? OR NOT EXISTS (SELECT 1 FROM running WHERE process = process.id)
    """
    paths = {process_id: lock_path(store, process_id) for (process_id,) in connection.execute(query, (before_ns,))}
    dead = {process_id: path for process_id, path in paths.items() if not is_held(path)}
    for process_id in dead:
        remove_process(connection, process_id)
    return list(dead.values())


def keep_lost(connection: sqlite3.Connection, store: Path) -> None:
    """Removes the rows of running processes from a copy of the store; all others are lost in the copy."""
    for (process_id,) in connection.execute("SELECT id FROM process").fetchall():
        if is_held(lock_path(store, process_id)):
            remove_process(connection, process_id)
    connection.execute("UPDATE process SET boot_id = ''")


def _delete(connection: sqlite3.Connection, keys: Iterable[Key]) -> bool:
    cursor = connection.executemany("DELETE FROM running WHERE trace_id = ? AND span_id = ?", keys)
    return cursor.rowcount > 0


def _count_up(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE running_version SET version = version + 1")


def _storable(text: str) -> str:
    """The text without lone surrogates, which SQLite rejects."""
    return text.encode("utf-8", "replace").decode()


def _phase_text(phase: PhaseRecord | None) -> str | None:
    return None if phase is None else json.dumps(phase)


@dataclass(slots=True)
class OpenSpans:
    """The open spans of a store at one moment.

    Attributes:
        version: Number of the last change of a row.
        untracked: Number of spans of running processes without a row.
        states: State of each process with rows, by its id.
        spans: By trace and span id.
    """

    version: int
    untracked: int
    states: dict[str, State]
    spans: dict[Key, SpanRecord]

    @property
    def token(self) -> str:
        """Differs when a row or the state of a process has changed."""
        other = ",".join(f"{process}={state}" for process, state in sorted(self.states.items()) if state != "running")
        return f"{self.version}:{other}"


def read_open(connection: sqlite3.Connection, store: Path | None) -> OpenSpans:
    """Reads the rows.

    Args:
        connection: To the outbox.
        store: Its path; ``None`` for a store in memory, whose process is this one.
    """
    version = connection.execute("SELECT version FROM running_version").fetchone()[0]
    processes: dict[str, tuple[ProcessRecord, State, dict[str, Any]]] = {}
    untracked = 0
    rows = connection.execute(
        "SELECT id, pid, boot_id, start_ns, heartbeat_ns, heartbeat_monotonic_ns, untracked, resource FROM process"
    ).fetchall()
    boot = boot_id() if rows else ""
    for process_id, pid, its_boot, start_ns, heartbeat_ns, monotonic_ns, count, resource in rows:
        silent_s = max(time.monotonic_ns() - monotonic_ns, 0) / 1e9 if its_boot == boot else None
        held = True if store is None else is_held(lock_path(store, process_id))
        state = _state(held, silent_s)
        record: ProcessRecord = {
            "id": process_id,
            "pid": pid,
            "start_ns": start_ns,
            "heartbeat_ns": heartbeat_ns,
            "silent_s": silent_s,
        }
        processes[process_id] = record, state, json.loads(resource)
        untracked += count if state != "lost" else 0
    spans: dict[Key, SpanRecord] = {}
    for row in connection.execute(
        "SELECT trace_id, span_id, parent_span_id, name, kind, scope, start_ns, attributes, phase, process "
        "FROM running ORDER BY start_ns"
    ):
        if (process := processes.get(row[-1])) is not None:
            spans[row[0], row[1]] = _record(row, *process)
    with_rows = {span["process"]["id"] for span in spans.values() if span["process"] is not None}
    states: dict[str, State] = {name: state for name, (_, state, _) in processes.items() if name in with_rows}
    return OpenSpans(version, untracked, states, spans)


def _state(held: bool | None, silent_s: float | None) -> State:
    is_fresh = silent_s is not None and silent_s < SILENT_AFTER_S
    if held is None:  # the file does not exist: its process has ended
        return "running" if is_fresh else "lost"
    if not held:
        return "lost"
    return "running" if is_fresh else "silent"


def _record(row: tuple[Any, ...], process: ProcessRecord, state: State, resource: dict[str, Any]) -> SpanRecord:
    trace_id, span_id, parent_span_id, name, kind, scope, start_ns, attributes, phase, _ = row
    held = json.loads(attributes)
    until_ns = process["heartbeat_ns"] if state == "lost" else time.time_ns()
    return {
        "trace_id": trace_id,
        "span_id": span_id,
        "parent_span_id": parent_span_id,
        "name": name,
        "kind": kind,
        "start_ns": start_ns,
        "end_ns": None,
        "duration_s": max(until_ns - start_ns, 0) / 1e9,
        "state": state,
        "status_code": "UNSET",
        "status_message": "",
        "attributes": held,
        "resource": resource,
        "scope": scope,
        "events": [],
        "links": [],
        "phase": None if phase is None else json.loads(phase),
        "process": process,
        "edges": edge_records(held.get(semconv.LANGGRAPH_EDGES)),
        "writes": [],
    }
