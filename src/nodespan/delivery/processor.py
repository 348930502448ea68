"""From a span's end to the store, and on to the destination."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from nodespan import semconv
from nodespan.delivery.ledger import DeliveryReport, Ledger
from nodespan.delivery.outage_log import SaidOnce
from nodespan.delivery.outbox_sender import Shipper
from nodespan.delivery.running_spans import AFTER_S, RunningSpans
from nodespan.errors import StoreBusyError, StoreError
from nodespan.fastspan import LeanSpan
from nodespan.otlp import Encoded, encode_spans, join_batches
from nodespan.spans.guard import Guard
from nodespan.store import EXPORTED, MEMORY, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Generator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span

    from nodespan.delivery.senders.answer import MakeSender, Sender
    from nodespan.spans.instruments import Readings
    from nodespan.store.running import Key

QUEUE_MAX: Final = 65_536
"""Ended spans that wait for the writer: at 300 spans a second, three minutes of a store that does not answer."""
WRITE_INTERVAL_S: Final = 0.2
_SLICE: Final = 64
"""Spans encoded at once, about 2 ms: an event loop in another thread waits no longer than that for the GIL."""
_BATCH_SPANS: Final = 512
"""As many as the SDK exports at once: so many are lost with one that a destination will never take."""
_IDLE_S: Final = 1.0
"""How often a process looks whether other processes have left something to send."""
_RETRY_MAX_S: Final = 30.0
_RETRY_AFTER_MAX_S: Final = 600.0
_POLL_S: Final = 0.02
_JOIN_S: Final = 0.2
"""A thread that is in the midst of a request is not waited for: what it has not settled is for the next start."""

_logger = logging.getLogger("nodespan")
_WRITING: Final = Guard("write spans to the store")
_SENDING: Final = Guard("send spans")


class StoreSpanProcessor(SpanProcessor):
    """Keeps every ended span: in a queue, then in the store, then at the destination, if there is one.

    ``on_end`` only appends to the queue. Two threads do the rest; they start with the first span, and anew in a forked
    child. Where the file cannot serve, memory does, from then on and for as long as the process lives.

    Args:
        store: Where batches go, and wait.
        destination: To whom they are addressed; ``None`` if they stay.
        make_sender: For the destination.
        said: Where warnings are said once.
        write_interval_s: How long a span waits for others.
        queue_max: How many spans may wait for the writer; one more is dropped.
        running_after_s: How long a span is open before it has a row in the store.
    """

    def __init__(
        self,
        store: SqliteStore,
        destination: str | None,
        make_sender: MakeSender | None,
        said: SaidOnce | None = None,
        write_interval_s: float = WRITE_INTERVAL_S,
        queue_max: int = QUEUE_MAX,
        running_after_s: float = AFTER_S,
    ) -> None:
        self.store = store
        self._destination = destination
        self._make_sender = make_sender
        self._said = said or SaidOnce()
        self._write_interval_s = write_interval_s
        self._queue_max = queue_max
        self._running_after_s = running_after_s
        self._begin()
        _alive.add(self)

    def _begin(self) -> None:
        """Starts from nothing; in a forked child too, since what waits is the parent's."""
        self.ledger = Ledger()
        self._writer = uuid.uuid4().hex
        self._queue: deque[ReadableSpan] = deque()
        self._unwritten: deque[tuple[Encoded, list[Key]]] = deque()
        self.running = RunningSpans(self._running_after_s)
        self._is_asleep = False
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._news = threading.Event()
        self._hurry = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sender: Sender | None = None
        self._shippers: dict[SqliteStore, Shipper | None] = {}
        self._ship_from(self.store)

    accepts_lean_spans = True

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remembers a started span, weakly."""
        if self._stopped.is_set():
            return
        self.running.on_start(span)
        if self._is_asleep:
            self._is_asleep = False
            self._wake.set()
        elif not self._threads:
            with _WRITING:
                self._start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queues an ended span. Does no I/O and does not wait for a thread that does."""
        if type(span) is LeanSpan:
            if not span.is_sampled:
                return
        elif (context := span.context) is None or not context.trace_flags.sampled:
            return
        self.ledger.ended()
        if self._stopped.is_set():
            self.ledger.dropped(1, "already_shutdown")
        elif len(self._queue) >= self._queue_max:
            self.ledger.dropped(1, "queue_full")
        else:
            self._queue.append(span)
            if not self._threads:
                with _WRITING:
                    self._start()

    def report(self) -> DeliveryReport:
        """Where the spans of this process are now."""
        with _SENDING:
            self._take_outcomes()
        return self.ledger.report(has_destination=self._destination is not None)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Writes what waits and, with a destination, waits until it has it or the time is over."""
        deadline = time.monotonic() + timeout_millis / 1e3
        self._write()
        self._news.set()
        self._hurry.set()
        while self.report().waiting and time.monotonic() < deadline:
            if self._queue or self._unwritten:  # the store was held by somebody else
                self._write()
            if self._destination is None:
                return bool(self.report())
            time.sleep(_POLL_S)
        return bool(self.report())

    def shutdown(self) -> None:
        """Writes what waits; what was not sent is for the next start. The second time it does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._wake.set()
        self._write()
        with self._writing, _WRITING:
            self.running.close()
        self._news.set()
        self._hurry.set()
        if self._sender is not None:
            with _SENDING:
                self._sender.close()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(timeout=max(deadline - time.monotonic(), 0.0))
        with _SENDING, suppress(StoreBusyError):
            for shipper in filter(None, self._shippers.values()):
                shipper.release()
        if waiting := self.report().waiting:
            later = f"the next start sends them, or: nodespan flush. They wait in {self.store.path}."
            what = "they were in memory, and end with this process." if self.store.path == MEMORY else later
            self._said.warn(
                f"{self._destination} is down", "%d spans have not reached %s; %s", waiting, self._destination, what
            )
        for store in (self.store, *self._shippers):
            if store.path != MEMORY:  # what is in memory can still be read and counted
                store.close()

    def _start(self) -> None:
        with self._starting:
            if self._threads or self._stopped.is_set():
                return
            work = [self._keep_writing] if self._destination is None else [self._keep_writing, self._keep_sending]
            self._threads = [threading.Thread(target=do, name="nodespan delivery", daemon=True) for do in work]
            for thread in self._threads:
                thread.start()
            self._end_with_child()

    def _end_with_child(self) -> None:
        """A child of ``multiprocessing`` leaves without ``atexit``."""
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(self, self.shutdown, exitpriority=0)

    def _keep_writing(self) -> None:
        write_at = time.monotonic() + self._write_interval_s
        while not self._stopped.is_set():
            self._is_asleep = is_idle = self.running.is_idle
            left_s = max(write_at - time.monotonic(), 0.0)
            self._wake.wait(left_s if is_idle else min(left_s, self._running_after_s))
            self._wake.clear()
            if time.monotonic() >= write_at:
                self._write()
                write_at = time.monotonic() + self._write_interval_s
            elif not self.running.is_idle:
                with self._writing, _WRITING, suppress(StoreError):
                    self.running.tick(self.store, is_drained=False)

    def _write(self) -> None:
        # Whoever finds the store busy comes again: what was taken from the queue stays first in line.
        with self._writing, _WRITING, suppress(StoreBusyError):
            has_written = False
            while self._queue or self._unwritten:
                if not self._unwritten:
                    self._encode()
                    continue
                self._append(*self._unwritten[0])
                self.ledger.stored(self._unwritten.popleft()[0].spans)
                has_written = True
            if not self.running.is_idle:
                self.running.tick(self.store, is_drained=True)
            if has_written:  # said once for all, which then go out in few requests; the sender looks by itself as well
                self._news.set()

    def _encode(self) -> None:
        """Makes one batch of many slices: each call of SQLite waits for the GIL, long beside a busy event loop."""
        made: list[Encoded] = []
        ended: list[Key] = []
        taken = 0
        while self._queue and taken < _BATCH_SPANS:
            spans = [self._queue.popleft() for _ in range(min(_SLICE, len(self._queue)))]
            taken += len(spans)
            made += encode_spans(spans)
            ended += self.running.ended(spans)
        for batch in join_batches(made):
            self._unwritten.append((batch, ended))  # the rows go with the first; a reader prefers an ended span
            ended = []
        self.running.forget(ended)
        self.ledger.dropped(taken - sum(batch.spans for batch in made), "not_encodable")

    def _append(self, batch: Encoded, ended: list[Key]) -> None:
        try:
            self.store.append(batch, self._destination, self._writer, ended)
        except StoreBusyError:
            raise
        except StoreError as error:
            if self.store.path == MEMORY:
                raise
            _logger.warning("%s Spans are kept in memory until this process ends.", error)
            self.store = SqliteStore(MEMORY)
            self._ship_from(self.store)
            self.store.append(batch, self._destination, self._writer)

    def _ship_from(self, store: SqliteStore) -> None:
        # By a connection of its own: beside a busy event loop a read takes long, and the writer would wait for it.
        outlet = store if store.path == MEMORY else SqliteStore(store.path)
        self._shippers[outlet] = (
            Shipper(outlet, self._destination, self._get_sender, self._said, self._stopped.is_set)
            if self._destination is not None
            else None
        )

    def _get_sender(self) -> Sender:
        if self._sender is None:
            assert self._make_sender is not None
            self._sender = self._make_sender()
        return self._sender

    def _take_outcomes(self) -> None:
        """Reads in the stores what became of this process's spans, whoever sent them."""
        for store in list(self._shippers):
            with self._bearing_with(store):
                for outcome, spans in store.take_outcomes(self._writer).items():
                    if outcome == EXPORTED:
                        self.ledger.exported(spans)
                    else:
                        self.ledger.lost(spans, outcome)

    @contextmanager
    def _bearing_with(self, store: SqliteStore) -> Generator[None]:
        """A busy store is asked again later. One that memory has replaced is left, with what it has, to others."""
        try:
            yield
        except StoreBusyError:
            pass
        except StoreError:
            if store.path == self.store.path:
                raise
            self._shippers.pop(store, None)

    def _keep_sending(self) -> None:
        pause_s = asked_s = 0.0
        while not self._stopped.is_set():
            # A failed try waits longer each time, whatever else arrives meanwhile, but for somebody who flushes; and he
            # too waits for as long as the destination has asked for.
            if asked_s:
                self._stopped.wait(asked_s)
            elif pause_s:
                self._hurry.wait(pause_s)
            else:
                self._news.wait(_IDLE_S)
            self._news.clear()
            self._hurry.clear()
            is_done = False
            with _SENDING:
                is_done, asked_s = self._ship()
                self._take_outcomes()
            pause_s = 0.0 if is_done else min(max(pause_s * 2, 1.0), _RETRY_MAX_S)

    def _ship(self) -> tuple[bool, float]:
        """Sends what waits; says whether everything went, and for how long the destination wants to be left alone."""
        is_done, asked_s = True, 0.0
        for store, shipper in list(self._shippers.items()):
            assert shipper is not None
            went = False
            with self._bearing_with(store):
                answer = shipper.ship()
                went = answer is None
                asked_s = min(answer.wait_s, _RETRY_AFTER_MAX_S) if answer is not None else asked_s
            is_done = is_done and (went or store not in self._shippers)
        return is_done, asked_s


def _processed(processor: StoreSpanProcessor) -> Readings:
    return _by_reason(processor.ledger.processed())


def _sent(processor: StoreSpanProcessor) -> Readings:
    return _by_reason(processor.ledger.sent())


def _by_reason(counts: dict[str | None, int]) -> Readings:
    return [(spans, {semconv.ERROR_TYPE: reason} if reason else {}) for reason, spans in counts.items()]


def _waiting(processor: StoreSpanProcessor) -> Readings:
    return [(processor.store.look().waiting, {})]


def _waiting_age_s(processor: StoreSpanProcessor) -> Readings:
    oldest_ns = processor.store.look().oldest_waiting_ns
    return [(0.0 if oldest_ns is None else max(time.time_ns() - oldest_ns, 0) / 1e9, {})]


def _executions(processor: StoreSpanProcessor) -> Readings:
    return processor.running.executions()


def _ages_s(processor: StoreSpanProcessor) -> Readings:
    return processor.running.ages_s()


READINGS: Final = {
    semconv.SPANS_PROCESSED: _processed,
    semconv.NODE_RUNNING: _executions,
    semconv.NODE_RUNNING_AGE: _ages_s,
}
"""Metrics of a processor."""
DESTINATION_READINGS: Final = {
    semconv.SPANS_EXPORTED: _sent,
    semconv.OUTBOX_SPANS: _waiting,
    semconv.OUTBOX_AGE: _waiting_age_s,
}
"""Those of one with a destination."""


# One handler for all, since a handler cannot be taken back and would keep its object alive.
_alive: Final[WeakSet[StoreSpanProcessor]] = WeakSet()


def _begin_in_child() -> None:
    for processor in list(_alive):
        processor._begin()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_begin_in_child)
