"""Rows of spans that are open for long, for readers of a running trace."""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from nodespan import semconv
from nodespan.errors import StoreError
from nodespan.spans.phases import Phase, phase_of
from nodespan.store import MEMORY
from nodespan.store.convert import json_value
from nodespan.store.posix import ProcessLock
from nodespan.store.running import Changed, Key, OpenSpan, Process, lock_path, remove_dead, remove_process, write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from nodespan.spans.instruments import Readings
    from nodespan.store import SqliteStore
    from nodespan.store.records import PhaseRecord

AFTER_S: Final = 0.08
"""Time after which an open span has a row; spans that end earlier never have one."""
MAX_TRACKED: Final = 10_000
MAX_STARTED: Final = 65_536
_HEARTBEAT_S: Final = 1.0
_PHASE_S: Final = 1.0
"""Minimum interval between two writes of a row's phase."""
_LEAVE_S: Final = 0.2
_DEAD_KEPT_S: Final = 7 * 24 * 3600.0
_ATTRIBUTE_MAX: Final = 1024
"""Maximum length of a text or list in a row; a longer one (such as a captured prompt) is in the ended span only."""
_NS: Final = 10**9

Id = tuple[int, int]
"""Trace and span id."""


class _Tracked:
    """An open span that has a row, or will have one."""

    __slots__ = ("is_written", "key", "labels", "parent", "phase", "phase_written_at", "span", "start_ns", "was_over")

    def __init__(self, span: ReadableSpan) -> None:
        self.span = ref(span)
        context, parent, attributes = span.context, span.parent, span.attributes or {}
        assert context is not None
        self.key: Key = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        self.parent: Id | None = None if parent is None else (parent.trace_id, parent.span_id)
        self.start_ns = span.start_time or time.time_ns()
        is_node = attributes.get(semconv.OPERATION_NAME) == semconv.INVOKE_NODE
        names = {label: attributes[label] for label in (semconv.WORKFLOW_NAME, semconv.NODE) if label in attributes}
        self.labels: dict[str, Any] | None = names if is_node else None
        self.phase: Phase | None = None
        self.phase_written_at = 0.0
        self.is_written = False
        self.was_over = False


class RunningSpans:
    """Tracks open spans by weak references and writes their rows.

    ``on_start`` may be called from any thread; all other methods are for the thread that writes batches.

    Attributes:
        untracked: Spans so far that were not tracked: ``MAX_TRACKED`` had a row, or ``MAX_STARTED`` had started since
            the last tick.

    Args:
        after_s: How long a span is open before it has a row.
    """

    def __init__(self, after_s: float = AFTER_S) -> None:
        self.untracked = 0
        self._after_s = after_s
        self._started: deque[ref[ReadableSpan]] = deque()
        self._due = 0
        self._tracked: dict[Id, _Tracked] = {}
        self._gone: list[Key] = []
        self._store: SqliteStore | None = None
        self._process: Process | None = None
        self._lock: ProcessLock | None = None
        self._looked_at = self._beaten_at = 0.0

    def on_start(self, span: ReadableSpan) -> None:
        """Registers a started span by a weak reference, in about 0.2 us."""
        if len(self._started) < MAX_STARTED:
            self._started.append(ref(span))
        else:
            self.untracked += 1

    @property
    def is_idle(self) -> bool:
        """Whether there is no open span for ``tick`` to check."""
        return not (self._started or self._tracked or self._gone)

    def forget(self, keys: Iterable[Key]) -> None:
        """Removes rows of spans that ended and cannot be stored, at the next tick."""
        self._gone += keys

    def ended(self, spans: Iterable[ReadableSpan]) -> list[Key]:
        """Stops tracking spans before they are stored; returns those with rows, deleted in the same transaction."""
        if not self._tracked:
            return []
        found = (
            self._tracked.pop((span.context.trace_id, span.context.span_id), None)
            for span in spans
            if span.context is not None
        )
        return [tracked.key for tracked in found if tracked is not None and tracked.is_written]

    def tick(self, store: SqliteStore, *, is_drained: bool, timeout_s: float | None = None) -> None:
        """Writes what has changed since the last tick.

        Args:
            store: Where the rows are.
            is_drained: Every span that had ended before this call began is stored or dropped.
            timeout_s: Longest time to wait for another process's write lock; the usual one if not given.

        Raises:
            StoreError: The store cannot be written now; the next tick tries again.
        """
        now = time.monotonic()
        if now - self._looked_at >= self._after_s:
            self._looked_at = now
            self._track_due()
        if store is not self._store:
            self._move_to(store)
        over = self._over() if is_drained else []
        opened = [tracked for tracked in self._tracked.values() if not tracked.is_written and not tracked.was_over]
        phases = self._changed_phases(now)
        is_beat = bool(self._tracked) and now - self._beaten_at >= _HEARTBEAT_S
        if opened or phases or over or self._gone or is_beat:
            self._write(store, opened, phases, over, now, timeout_s)

    def close(self) -> None:
        """Removes the process's rows at its regular end."""
        self._tracked.clear()
        self._started.clear()
        self._leave_store()

    def executions(self) -> Readings:
        """Node executions that are open for longer than ``after_s``, by workflow and node."""
        labels = [
            tuple(tracked.labels.items()) for tracked in list(self._tracked.values()) if tracked.labels is not None
        ]
        return [(count, dict(of)) for of, count in Counter(labels).items()]

    def ages_s(self) -> Readings:
        """Seconds that the oldest of these has been in its phase, by workflow, node and phase."""
        tracked = dict(self._tracked)
        phases: dict[Id, Phase] = {}
        for one in tracked.values():
            node = self._node_of(one, tracked) if one.phase is not None else None
            if node is not None and one.phase is not None:
                phases[node] = one.phase
        oldest: dict[tuple[tuple[str, Any], ...], float] = {}
        for key, one in tracked.items():
            if one.labels is not None:
                phase = phases.get(key) or one.phase
                since_ns = one.start_ns if phase is None else phase.since_ns
                labels = (*one.labels.items(), (semconv.PHASE, "other" if phase is None else phase.name))
                oldest[labels] = max(oldest.get(labels, 0.0), (time.time_ns() - since_ns) / _NS)
        return [(age_s, dict(labels)) for labels, age_s in oldest.items()]

    def _node_of(self, one: _Tracked, tracked: dict[Id, _Tracked]) -> Id | None:
        key = one.parent
        for _ in range(len(tracked)):
            if key is None or (above := tracked.get(key)) is None:
                return None
            if above.labels is not None:
                return key
            key = above.parent
        return None

    def _track_due(self) -> None:
        """Tracks spans that were open at the last tick and still are."""
        for _ in range(min(self._due, len(self._started))):
            span = self._started.popleft()()
            if span is None or span.end_time is not None or span.context is None:
                continue
            if not span.context.trace_flags.sampled:  # is never stored
                continue
            if len(self._tracked) >= MAX_TRACKED:
                self.untracked += 1
            else:
                self._tracked[span.context.trace_id, span.context.span_id] = _Tracked(span)
        self._due = len(self._started)

    def _over(self) -> list[Id]:
        """Spans that had ended at the last tick and were not stored since: dropped, or collected without an end."""
        found: list[Id] = []
        for key, tracked in self._tracked.items():
            span = tracked.span()
            if span is not None and span.end_time is None:
                continue
            if tracked.was_over:
                found.append(key)
            tracked.was_over = True
        return found

    def _changed_phases(self, now: float) -> list[_Tracked]:
        changed: list[_Tracked] = []
        for (_, span_id), tracked in self._tracked.items():
            if tracked.is_written and now - tracked.phase_written_at < _PHASE_S:
                continue
            before, tracked.phase = tracked.phase, phase_of(span_id) or _tool_phase(tracked)
            if tracked.is_written and tracked.phase != before:
                changed.append(tracked)
        return changed

    def _write(
        self,
        store: SqliteStore,
        opened: list[_Tracked],
        phases: list[_Tracked],
        over: list[Id],
        now: float,
        timeout_s: float | None,
    ) -> None:
        spans = [(tracked, span) for tracked in opened if (span := tracked.span()) is not None]
        if self._process is None:
            if not spans:
                return
            self._enter_store(store, spans[0][1])
        assert self._process is not None
        process = self._process
        changed = Changed(
            [_row(tracked, span) for tracked, span in spans],
            [(tracked.key, _record(tracked.phase)) for tracked in phases],
            [*(self._tracked[key].key for key in over), *self._gone],
            self.untracked,
        )
        try:
            store.database.write(lambda connection: write(connection, process, changed), timeout_s)
        except StoreError:
            for tracked in phases:  # so that the next tick finds them changed
                tracked.phase = None
            raise
        for tracked in (*(tracked for tracked, _ in spans), *phases):
            tracked.is_written = True
            tracked.phase_written_at = now
        for key in over:
            del self._tracked[key]
        self._gone.clear()
        self._beaten_at = now

    def _enter_store(self, store: SqliteStore, span: ReadableSpan) -> None:
        process_id = uuid.uuid4().hex
        if store.path != MEMORY:
            store.database.read(lambda connection: None)  # creates the folder
            with suppress(OSError):  # without the lock, only the heartbeat shows that the process exists
                self._lock = ProcessLock(lock_path(store.path, process_id))
            _remove_dead(store, store.path)
        self._process = Process(process_id, time.time_ns(), json_value(dict(span.resource.attributes)))

    def _move_to(self, store: SqliteStore) -> None:
        """Continues with another store, after memory has replaced the file."""
        self._leave_store()
        self._store = store
        for tracked in self._tracked.values():
            tracked.is_written = False

    def _leave_store(self) -> None:
        store, process = self._store, self._process
        self._process = None
        is_removed = False
        if store is not None and process is not None:
            with suppress(StoreError):
                store.database.write(lambda connection: remove_process(connection, process.id), _LEAVE_S)
                is_removed = True
        if self._lock is not None:
            self._lock.release(removes_file=is_removed)
            self._lock = None


def _remove_dead(store: SqliteStore, path: Path) -> None:
    before_ns = time.time_ns() - round(_DEAD_KEPT_S * _NS)
    for lock in store.database.write(lambda connection: remove_dead(connection, path, before_ns)):
        lock.unlink(missing_ok=True)


def _row(tracked: _Tracked, span: ReadableSpan) -> OpenSpan:
    scope = span.instrumentation_scope
    return OpenSpan(
        key=tracked.key,
        parent_span_id="" if tracked.parent is None else f"{tracked.parent[1]:016x}",
        name=span.name,
        kind=span.kind.name,
        scope="" if scope is None else scope.name,
        start_ns=tracked.start_ns,
        attributes={
            key: json_value(value)
            for key, value in (span.attributes or {}).items()
            if not isinstance(value, str | bytes | tuple | list)
            or len(value) <= _ATTRIBUTE_MAX
            or key == semconv.LANGGRAPH_GRAPH_TOPOLOGY  # is in a separate table
        },
        phase=_record(tracked.phase),
    )


def _tool_phase(tracked: _Tracked) -> Phase | None:
    """A tool's span is its phase."""
    span = tracked.span()
    attributes = (span.attributes or {}) if span is not None else {}
    if attributes.get(semconv.OPERATION_NAME) != semconv.EXECUTE_TOOL:
        return None
    return Phase("tool", tracked.start_ns, text=str(attributes.get(semconv.TOOL_NAME, ""))[:_ATTRIBUTE_MAX])


def _record(phase: Phase | None) -> PhaseRecord | None:
    if phase is None:
        return None
    return {
        "name": phase.name,
        "since_ns": phase.since_ns,
        "at_ns": time.time_ns(),
        "done": phase.done,
        "total": phase.total,
        "position": phase.position,
        "text": phase.text,
    }
