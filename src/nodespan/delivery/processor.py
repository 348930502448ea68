"""Stores ended spans and starts their delivery."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from typing_extensions import override

from nodespan.delivery.child import at_end_of_child
from nodespan.delivery.ledger import DeliveryReport, Ledger
from nodespan.delivery.left_behind import log_what_is_left, waits_for
from nodespan.delivery.outage_log import OutageLog
from nodespan.delivery.outbox_sender import OutboxSender
from nodespan.delivery.own_thread import start_thread
from nodespan.delivery.running_spans import AFTER_S, RunningSpans
from nodespan.delivery.senders import make_sender
from nodespan.delivery.wakeup import Wakeup
from nodespan.errors import StoreBusyError, StoreError
from nodespan.fastspan import LeanSpan
from nodespan.otlp import Encoded, encode_spans, join_batches
from nodespan.spans.guard import Guard
from nodespan.spans.log import warn
from nodespan.store import EXPORTED, MEMORY, SqliteStore, load_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from nodespan.delivery.destination import Destination
    from nodespan.delivery.senders.answer import Sender
    from nodespan.store.running import Key

QUEUE_MAX: Final = 65_536
"""Maximum of ended spans that wait for the writer: three minutes of an unavailable store at 300 spans a second."""
WRITE_INTERVAL_S: Final = 0.2
_SLICE: Final = 64
"""Spans encoded at once, which bounds the time that an event loop in another thread waits for the GIL."""
_BATCH_SPANS: Final = 512
"""The SDK's number of spans in an export; so many are lost with one that a destination permanently rejects."""
_IDLE_S: Final = 1.0
"""Interval at which a process checks for spans of other processes to send."""
_RETRY_MAX_S: Final = 30.0
_RETRY_AFTER_MAX_S: Final = 600.0
_POLL_S: Final = 0.02
_URGE_S: Final = 1.0
_JOIN_S: Final = 0.2
"""Time limit of joining a thread that waits for an answer; the next start sends its batches."""

_WRITING: Final = Guard("write spans to the store")
_SENDING: Final = Guard("send spans")


class StoreSpanProcessor(SpanProcessor):
    """Passes every ended span to a queue, then to the store, then to the destination, if there is one.

    ``on_end`` only appends to the queue and acquires no lock, because a span may end anywhere, even in a garbage
    collection. Two threads do the rest; they start with the first span, or at once if spans of an earlier process wait
    for the destination, and again in a forked child. If the file cannot be used, memory is, until the process ends.

    Args:
        store: Receives the batches.
        destination: Where they are sent; ``None`` if they stay in the store.
        outages: Logs outages and losses.
        write_interval_s: Time for which ended spans are collected before they are written.
        queue_max: Number of spans that may wait for the writer; one more is dropped.
        running_after_s: How long a span is open before it has a row in the store.
    """

    accepts_lean_spans = True

    def __init__(
        self,
        store: SqliteStore,
        destination: Destination | None = None,
        outages: OutageLog | None = None,
        write_interval_s: float = WRITE_INTERVAL_S,
        queue_max: int = QUEUE_MAX,
        running_after_s: float = AFTER_S,
    ) -> None:
        self.store, self._path = store, store.path
        self._destination = destination
        self._identity = None if destination is None else destination.identity(load_secret(store.path))
        self._outages = outages or OutageLog()
        self._write_interval_s = write_interval_s
        self._queue_max = queue_max
        self._running_after_s = running_after_s
        self._begin()
        _alive.add(self)
        with _SENDING:
            if self._identity is not None and waits_for(self._identity, self.store):
                self._start()

    def _begin(self) -> None:
        """Initial state; also of a forked child, because the waiting spans are the parent's."""
        self.ledger = Ledger()
        self._writer = uuid.uuid4().hex
        self._queue: deque[ReadableSpan] = deque()
        self._unwritten: deque[tuple[Encoded, list[Key]]] = deque()
        self.running = RunningSpans(self._running_after_s)
        self._is_asleep = False
        self._wake = Wakeup()
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._news = Wakeup()
        self._hurry = Wakeup()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._unstarted = [self._keep_writing, *([self._keep_sending] if self._destination else [])]
        self._sender: Sender | None = None
        self._senders: dict[SqliteStore, OutboxSender | None] = {}
        self._send_from(self.store)

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Registers a started span by a weak reference, without I/O and without waiting for a lock."""
        if self._stopped.is_set():
            return
        self.running.on_start(span)
        if self._is_asleep:
            self._is_asleep = False
            self._wake.set()
        elif self._unstarted:
            with _WRITING:
                self._start()

    @override
    def on_end(self, span: ReadableSpan) -> None:
        """Queues an ended span. Does no I/O and waits for no lock."""
        if type(span) is LeanSpan:
            if not span.is_sampled:
                return
        elif (context := span.context) is None or not context.trace_flags.sampled:
            return
        self.ledger.ended()
        if self._stopped.is_set():
            self.ledger.dropped_at_end("already_shutdown")
        elif len(self._queue) >= self._queue_max:
            self.ledger.dropped_at_end("queue_full")
        else:
            self._queue.append(span)
            if self._unstarted:
                with _WRITING:
                    self._start()

    @property
    def is_shut_down(self) -> bool:
        """Whether spans are no longer queued."""
        return self._stopped.is_set()

    def report(self) -> DeliveryReport:
        """The numbers of this process's spans by outcome."""
        with _SENDING:
            self._take_outcomes()
        return self.ledger.report(has_destination=self._destination is not None)

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Writes the waiting spans and, with a destination, waits until they are sent; returns whether none waits."""
        deadline = time.monotonic() + timeout_millis / 1e3
        self._write(deadline)
        self._news.set()
        urge_at = 0.0
        while self.report().waiting and (left_s := deadline - time.monotonic()) > 0:
            if time.monotonic() >= urge_at:  # during a flush, an unavailable destination is tried every second
                self._hurry.set()
                urge_at = time.monotonic() + _URGE_S
            if self._queue or self._unwritten:  # the store was locked by another process
                self._write(deadline)
            elif self._destination is None:
                break
            time.sleep(min(_POLL_S, left_s))
        return not self.report().waiting

    @override
    def shutdown(self, timeout_s: float = 1.0) -> None:
        """Writes the waiting spans within a time limit; the next start sends the unsent ones. Idempotent."""
        if self._stopped.is_set():
            return
        deadline = time.monotonic() + timeout_s
        self._stopped.set()
        self._wake.set()
        while (self._queue or self._unwritten) and time.monotonic() < deadline:
            self._write(deadline)
        self._exclusively(self.running.close, deadline)
        self._news.set()
        self._hurry.set()
        if self._sender is not None:
            with _SENDING:
                self._sender.close()
        join_until = min(time.monotonic() + _JOIN_S, deadline)
        for thread in self._threads:
            thread.join(timeout=max(join_until - time.monotonic(), 0.0))
        for sender in filter(None, self._senders.values()):
            with _SENDING:
                sender.lock.release()
        with _SENDING:
            self._log_what_is_left()
        for store in (self.store, *self._senders):
            if store.path != MEMORY:  # spans in memory can still be read and counted
                store.close()

    def _log_what_is_left(self) -> None:
        unstored = len(self._queue) + sum(batch.spans for batch, _ in self._unwritten)
        log_what_is_left(self.store, self._path, self._destination, unstored, self.report().waiting - unstored)

    def _start(self) -> None:
        # A span that ends in a garbage collection here must not wait for this thread.
        if not self._starting.acquire(blocking=False):
            return
        try:
            while self._unstarted and not self._stopped.is_set():
                thread = start_thread(self._unstarted[0], self._stopped.is_set)
                if not self._threads:
                    at_end_of_child(self, self.shutdown)
                self._threads.append(thread)
                del self._unstarted[0]
        finally:
            self._starting.release()

    def _keep_writing(self) -> None:
        write_at = time.monotonic() + self._write_interval_s
        while not self._stopped.is_set():
            self._is_asleep = is_idle = self.running.is_idle
            left_s = max(write_at - time.monotonic(), 0.0)
            self._wake.wait(left_s if is_idle else min(left_s, self._running_after_s))
            if time.monotonic() >= write_at:
                self._write()
                write_at = time.monotonic() + self._write_interval_s
            else:
                self._exclusively(lambda: self.running.tick(self.store, is_drained=False))

    def _write(self, deadline: float | None = None) -> None:
        """Writes the waiting spans until the deadline. Batches that a locked store did not accept stay first."""
        self._exclusively(lambda: self._write_all(deadline), deadline)

    def _exclusively(self, work: Callable[[], None], deadline: float | None = None) -> None:
        """Runs work of the writer exclusively; work that a locked store rejects is repeated later."""
        if not self._writing.acquire(timeout=-1.0 if deadline is None else max(deadline - time.monotonic(), 0.0)):
            return
        try:
            with _WRITING, suppress(StoreBusyError):
                work()
        finally:
            self._writing.release()

    def _write_all(self, deadline: float | None) -> None:
        has_written = False
        while self._queue or self._unwritten:
            if not self._unwritten:
                self._encode()
                continue
            try:
                self._append(*self._unwritten[0], _left_s(deadline))
            except StoreBusyError as error:
                if deadline is None:  # it has waited for the usual time
                    self._outages.lost("store", "%s Spans are stored later.", error, code=error.code)
                break
            self.ledger.stored(self._unwritten.popleft()[0].spans)
            has_written = True
        if has_written:  # once for all batches, which are then sent in few requests
            self._news.set()
        if not (self._queue or self._unwritten):
            self.running.tick(self.store, is_drained=True, timeout_s=_left_s(deadline))

    def _encode(self) -> None:
        """Joins slices to one batch: each call of SQLite waits for the GIL, for long beside a busy event loop."""
        made: list[Encoded] = []
        ended: list[Key] = []
        taken = 0
        while self._queue and taken < _BATCH_SPANS:
            spans = [self._queue.popleft() for _ in range(min(_SLICE, len(self._queue)))]
            taken += len(spans)
            made += encode_spans(spans)
            ended += self.running.ended(spans)
        batches = join_batches(made)
        # The rows are deleted with the last batch: a reader prefers an ended span to an open one.
        self._unwritten += [(batch, ended if batch is batches[-1] else []) for batch in batches]
        self.running.forget([] if batches else ended)
        if lost := taken - sum(batch.spans for batch in made):
            self.ledger.dropped(lost, "not_encodable")

    def _append(self, batch: Encoded, ended: list[Key], timeout_s: float | None) -> None:
        label = "" if self._destination is None else self._destination.label
        try:
            self.store.append(batch, self._identity, self._writer, label, timeout_s, ended)
        except StoreError as error:
            if isinstance(error, StoreBusyError) or self.store.path == MEMORY:
                raise
            warn(error.code, "%s Spans are kept in memory until this process ends.", error)
            self.store = SqliteStore(MEMORY)
            self._send_from(self.store)
            self.store.append(batch, self._identity, self._writer, label)

    def _send_from(self, store: SqliteStore) -> None:
        if self._destination is None or self._identity is None:
            self._senders[store] = None
            return
        # On a separate connection: beside a busy event loop a read is slow, and the writer would wait for it.
        outlet = store if store.path == MEMORY else SqliteStore(store.path)
        self._senders[outlet] = OutboxSender(
            outlet,
            self._identity,
            self._destination.label,
            self._get_sender,
            self._outages,
            own_writer=self._writer,
            on_own=self._count_outcome,
            is_stopped=self._stopped.is_set,
        )

    def _get_sender(self) -> Sender:
        if self._sender is None:
            assert self._destination is not None
            self._sender = make_sender(self._destination)
        return self._sender

    def _count_outcome(self, spans: int, outcome: str) -> None:
        if outcome == EXPORTED:
            self.ledger.exported(spans)
        else:
            self.ledger.lost(spans, outcome)

    def _take_outcomes(self) -> None:
        """Reads the outcome of this process's spans that another process has sent or deleted."""
        # Without a destination there is none, and the writer may wait for a lock with the only connection.
        for store in list(self._senders) if self._destination is not None else ():
            with self._tolerating(store):
                for outcome, spans in store.take_outcomes(self._writer).items():
                    self._count_outcome(spans, outcome)

    @contextmanager
    def _tolerating(self, store: SqliteStore) -> Generator[None]:
        """A locked store is tried again later. Spans of a store that memory replaced are left to other processes."""
        try:
            yield
        except StoreBusyError:
            pass
        except StoreError:
            if store.path == self.store.path:
                raise
            self._senders.pop(store, None)

    def _keep_sending(self) -> None:
        pause_s = asked_s = 0.0
        while not self._stopped.is_set():
            # A failed try is followed by longer pauses. A flush ends them, but not the time named by the destination.
            if asked_s:
                self._stopped.wait(asked_s)
            elif pause_s:
                self._hurry.wait(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 not all processes at once
            else:
                self._news.wait(_IDLE_S)
            self._news.wait(0.0)
            self._hurry.wait(0.0)
            is_done = False
            with _SENDING:
                is_done, asked_s = self._send()
                self._take_outcomes()
            pause_s = 0.0 if is_done else min(max(pause_s * 2, 1.0), _RETRY_MAX_S)

    def _send(self) -> tuple[bool, float]:
        """Sends the waiting spans. Returns whether all were sent, and the destination's requested wait in s."""
        is_done, asked_s = True, 0.0
        for store, sender in list(self._senders.items()):
            assert sender is not None
            went = False
            with self._tolerating(store):
                answer = sender.send_all()
                went = answer is None
                asked_s = min(answer.wait_s, _RETRY_AFTER_MAX_S) if answer is not None else asked_s
            is_done = is_done and (went or store not in self._senders)
        return is_done, asked_s


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else min(max(deadline - time.monotonic(), 0.0), 1.0)


# One handler for all, since a handler cannot be removed and would keep its object alive.
_alive: Final[WeakSet[StoreSpanProcessor]] = WeakSet()


def _begin_in_child() -> None:
    for processor in [one for one in _alive if not one.is_shut_down]:
        processor._begin()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] of this module's own class


os.register_at_fork(after_in_child=_begin_in_child)
