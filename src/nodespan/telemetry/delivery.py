"""From a span's end to the store, and from the store to the destination."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from nodespan.errors import StoreError
from nodespan.otlp import encode_spans
from nodespan.spans.guard import Guard
from nodespan.spans.ledger import DeliveryReport, Ledger
from nodespan.store import MEMORY, SqliteStore
from nodespan.telemetry.sender import SENDER_THREAD

if TYPE_CHECKING:
    from nodespan.telemetry.sender import Sender

MakeSender = Callable[[Callable[[], None]], "Sender"]

QUEUE_MAX: Final = 65_536
"""Ended spans that wait for the writer: at 300 spans a second, three minutes of a store that does not answer."""
WRITE_INTERVAL_S: Final = 0.2
_SLICE: Final = 64
"""Spans encoded at once, about 2 ms: an event loop in another thread waits no longer than that for the GIL."""
_SEND_BATCHES: Final = 32
_LEASE_S: Final = 15.0
"""Longer than one try of the SDK's exporters (10 s by default): a living sender keeps its lease."""
_RETRY_MAX_S: Final = 30.0
_POLL_S: Final = 0.02

_logger = logging.getLogger("nodespan")
_WRITING: Final = Guard("write spans to the store")
_SENDING: Final = Guard("send spans")


class StoreSpanProcessor(SpanProcessor):
    """Keeps every ended span: in a queue, then in the store, then at the destination, if there is one.

    ``on_end`` only appends to the queue. Two threads do the rest; they start with the first span, and anew in a forked
    child. Of several processes that share a store one sends, for all.

    Args:
        make_sender: Called on the sending thread, with what to call when a try fails; ``None`` without a destination.
    """

    def __init__(
        self, store: SqliteStore, destination: str | None, make_sender: Callable[[Callable[[], None]], Sender] | None
    ) -> None:
        self.store = store
        self._destination = destination
        self._make_sender = make_sender
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Starts from nothing; in a forked child too, since what waits is the parent's."""
        self._ledger = Ledger()
        self._queue: deque[ReadableSpan] = deque()
        self._own: dict[int, int] = {}  # spans of the batches that this process wrote and that are not settled
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._wake_writer = threading.Event()
        self._wake_sender = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sender: Sender | None = None
        self._has_stopped = False
        self._has_said_unreachable = False
        self._holder = uuid.uuid4().hex

    def on_end(self, span: ReadableSpan) -> None:
        """Takes a span that ended. Does no I/O and waits for nobody who does."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        self._ledger.ended()
        if self._has_stopped:
            self._ledger.dropped(1, "after_shutdown")
        elif len(self._queue) >= QUEUE_MAX:
            self._ledger.dropped(1, "queue_full")
        else:
            self._queue.append(span)
            if not self._threads:
                self._start()

    def report(self) -> DeliveryReport:
        """Where the spans of this process are now."""
        with _SENDING:
            self._settle_own()
        return self._ledger.report(has_destination=self._destination is not None)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Writes what waits and, with a destination, waits until it has it or the time is over."""
        deadline = time.monotonic() + timeout_millis / 1e3
        self._write()
        self._wake_sender.set()
        while self.report().waiting and self._destination is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return bool(self.report())

    def shutdown(self) -> None:
        """Writes what waits; what was not sent is for the next start."""
        self._has_stopped = True
        self._write()
        self._wake_writer.set()
        self._wake_sender.set()
        if self._sender is not None:
            self._sender.close()
        for thread in self._threads:
            thread.join(timeout=1.0)
        with _SENDING:
            self.store.release_lease(self._holder)
        self.store.close()

    def _start(self) -> None:
        with self._starting:
            if self._threads or self._has_stopped:
                return
            work = [self._keep_writing] if self._make_sender is None else [self._keep_writing, self._keep_sending]
            self._threads = [threading.Thread(target=do, name=SENDER_THREAD, daemon=True) for do in work]
            for thread in self._threads:
                thread.start()

    def _keep_writing(self) -> None:
        while not self._has_stopped:
            self._wake_writer.wait(WRITE_INTERVAL_S)
            self._write()

    def _write(self) -> None:
        with self._writing, _WRITING:
            while self._queue:
                spans = [self._queue.popleft() for _ in range(min(_SLICE, len(self._queue)))]
                encoded = encode_spans(spans)
                self._ledger.dropped(encoded.refused, "not_encodable")
                if not encoded.spans:
                    continue
                try:
                    batch = self.store.append(encoded, self._destination)
                except StoreError as error:
                    if self.store.path == MEMORY:
                        raise
                    _logger.warning("%s Spans are kept in memory until this process ends.", error)
                    self.store = SqliteStore(MEMORY)
                    batch = self.store.append(encoded, self._destination)
                self._ledger.stored(encoded.spans)
                if self._destination is not None:
                    self._own[batch] = encoded.spans
                    self._wake_sender.set()

    def _settle_own(self) -> None:
        """Reads in the store what became of this process's batches, whoever sent them."""
        asked = list(self._own.items())  # the writer may add to them while the store is read
        if not asked:
            return
        states = self.store.states([batch for batch, _ in asked])
        for batch, spans in asked:
            state = states.get(batch)
            if state == "waiting" or self._own.pop(batch, None) is None:
                continue
            if state == "accepted":
                self._ledger.exported(spans)
            else:
                self._ledger.dropped(spans, state or "store_full")

    def _keep_sending(self) -> None:
        pause_s = 0.0
        while not self._has_stopped:
            # A failed try waits longer each time, whatever else arrives meanwhile.
            if pause_s:
                self._wait_unless_stopped(pause_s)
            else:
                self._wake_sender.wait(1.0)
            self._wake_sender.clear()
            all_sent = False
            with _SENDING:
                all_sent = self._send_waiting()
            pause_s = 0.0 if all_sent else min(max(pause_s * 2, 1.0), _RETRY_MAX_S)

    def _wait_unless_stopped(self, pause_s: float) -> None:
        deadline = time.monotonic() + pause_s
        while not self._has_stopped and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _send_waiting(self) -> bool:
        """Sends what the store has for the destination; says whether everything went."""
        assert self._destination is not None
        assert self._make_sender is not None
        sender = self._sender = self._sender or self._make_sender(self._say_unreachable)
        while not self._has_stopped and self.store.take_lease(self._holder, _LEASE_S):
            batches = self.store.unsent(self._destination, _SEND_BATCHES)
            if not batches:
                return True
            for batch in batches:
                verdict = sender.send(batch.data)
                if verdict == "waiting":
                    return False
                self.store.settle(batch.id, verdict)
                if verdict == "refused":
                    self._say_refused(batch.spans)
                self.store.take_lease(self._holder, _LEASE_S)
            self._settle_own()
        return True  # stopped, or another process sends, for us as well

    def _say_unreachable(self) -> None:
        if not self._has_said_unreachable and not self._has_stopped:
            self._has_said_unreachable = True
            _logger.warning(
                "%s does not take spans now. They wait in %s and are sent when it does; said once.",
                self._destination,
                self.store.path,
            )

    def _say_refused(self, spans: int) -> None:
        _logger.warning("%s refused %d spans for good; they are kept in %s.", self._destination, spans, self.store.path)
