"""From a span's end to the store, and from the store to the destination."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from nodespan.errors import StoreError
from nodespan.otlp import encode_spans
from nodespan.spans.guard import Guard
from nodespan.spans.ledger import DeliveryReport, Ledger

if TYPE_CHECKING:
    from nodespan.store import SqliteStore
    from nodespan.telemetry.sender import Sender

QUEUE_MAX: Final = 65_536
"""Ended spans that wait for the writer: 300 spans a second for three minutes of a store that does not answer."""
_SLICE: Final = 64
"""Spans encoded at once: about 2 ms, so that an event loop in another thread is not kept waiting for the GIL."""
_WRITE_INTERVAL_S: Final = 0.2
_RETRY_MAX_S: Final = 30.0
_SEND_BATCHES: Final = 32

_logger = logging.getLogger("nodespan")
_WRITING: Final = Guard("write spans to the store")
_SENDING: Final = Guard("send spans")


class StoreSpanProcessor(SpanProcessor):
    """Keeps every ended span: in a queue, then in the store, then, with a sender, at the destination.

    ``on_end`` only appends to the queue. Two threads do the rest; they start with the first span, and anew in a forked
    child. A store that cannot be written keeps the spans in the queue.
    """

    def __init__(self, store: SqliteStore, sender: Sender | None, destination: str | None) -> None:
        self.ledger = Ledger()
        self._store = store
        self._sender = sender
        self._destination = destination
        self._queue: deque[ReadableSpan] = deque()
        self._renew()
        os.register_at_fork(before=store.close, after_in_child=self._renew)

    def _renew(self) -> None:
        self._start = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._sent = threading.Condition()
        self._has_stopped = False
        self._threads: list[threading.Thread] = []
        self._said_full = False

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span that ended."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        self.ledger.ended()
        if len(self._queue) >= QUEUE_MAX:
            self.ledger.dropped(1, "queue_full")
            return
        self._queue.append(span)
        if not self._threads:
            self._run()

    def report(self) -> DeliveryReport:
        """Where the spans of this process are now."""
        return self.ledger.report(has_destination=self._sender is not None)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Writes what waits and, with a destination, waits until it has it or the time is over."""
        deadline = time.monotonic() + timeout_millis / 1e3
        self._write()
        self._wake.set()
        if self._sender is not None:
            with self._sent:
                self._sent.wait_for(lambda: not self.report().waiting, max(deadline - time.monotonic(), 0))
        return bool(self.report())

    def shutdown(self) -> None:
        """Writes what waits; what was not sent is for the next start."""
        self._write()
        self._has_stopped = True
        self._wake.set()
        if self._sender is not None:
            self._sender.close()
        self._store.close()

    def _run(self) -> None:
        with self._start:
            if self._threads or self._has_stopped:
                return
            work = [self._write_on] if self._sender is None else [self._write_on, self._send_on]
            self._threads = [threading.Thread(target=do, name=f"nodespan{do.__name__}", daemon=True) for do in work]
            for thread in self._threads:
                thread.start()

    def _write_on(self) -> None:
        while not self._has_stopped:
            self._write()
            time.sleep(_WRITE_INTERVAL_S)

    def _write(self) -> None:
        with self._writing, _WRITING:
            while self._queue:
                spans = [self._queue.popleft() for _ in range(min(_SLICE, len(self._queue)))]
                encoded = encode_spans(spans)
                self.ledger.dropped(encoded.refused, "not_encodable")
                try:
                    lost = self._store.append(encoded, self._destination)
                except StoreError:
                    self._queue.extendleft(reversed(spans))
                    raise
                self.ledger.stored(encoded.spans)
                self.ledger.dropped(lost, "store_full")
                self._wake.set()

    def _send_on(self) -> None:
        pause_s = 0.0
        while not self._has_stopped:
            self._wake.wait(max(pause_s, _WRITE_INTERVAL_S))
            self._wake.clear()
            arrived = True
            with _SENDING:
                arrived = self._send_all()
            pause_s = 0.0 if arrived else min(max(pause_s * 2, 1.0), _RETRY_MAX_S)
            if pause_s:
                time.sleep(min(pause_s, 1.0))

    def _send_all(self) -> bool:
        """Sends what the store has for the destination; says whether everything went."""
        assert self._sender is not None
        assert self._destination is not None
        while batches := self._store.unsent(self._destination, _SEND_BATCHES):
            for batch in batches:
                verdict = self._sender.send(batch.data)
                if verdict == "later" or self._has_stopped:
                    return False
                self._store.mark_sent([batch.id])
                if verdict == "accepted":
                    self.ledger.exported(batch.spans)
                else:
                    self.ledger.dropped(batch.spans, "refused")
                with self._sent:
                    self._sent.notify_all()
        return True
