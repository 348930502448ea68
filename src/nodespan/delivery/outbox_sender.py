"""Sends batches from the outbox to the destination."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation

from nodespan.delivery.sender_lock import SenderLock
from nodespan.otlp import MAX_BATCH_BYTES, split_batch
from nodespan.store import EXPORTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nodespan.delivery.outage_log import OutageLog
    from nodespan.delivery.senders.answer import Answer, Sender
    from nodespan.store import Batch, SqliteStore

_REQUEST_SPANS: Final = 512
"""Small batches are sent together, as many spans in a request as the SDK would send."""


class OutboxSender:
    """Sends a store's spans for one destination. Of the processes that share both, one at a time sends for all.

    For one thread.

    Attributes:
        store: Holds the batches.
        lock: Held while there is something to send.
        outcomes: Spans by outcome, of all that were sent here.

    Args:
        identity: Of the destination.
        label: Of the destination, for log lines.
        get_sender: Called when there are spans to send.
        outages: Logs outages and losses.
        own_writer: Batches of this writer are counted by ``on_own`` alone.
        on_own: Called with spans and outcome of this process's batches.
        is_stopped: Called between two requests.
    """

    def __init__(
        self,
        store: SqliteStore,
        identity: str,
        label: str,
        get_sender: Callable[[], Sender],
        outages: OutageLog,
        *,
        own_writer: str = "",
        on_own: Callable[[int, str], None] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.lock = SenderLock(store.path, identity)
        self.outcomes: Counter[str] = Counter()
        self._identity = identity
        self._label = label
        self._get_sender = get_sender
        self._outages = outages
        self._own_writer = own_writer
        self._on_own = on_own
        self._is_stopped = is_stopped
        self._after = self._opened = 0
        self._error_may_stand = True

    def send_all(self, on_sent: Callable[[int], None] = lambda spans: None) -> Answer | None:
        """Sends until nothing waits.

        Args:
            on_sent: Called with the number of spans after each request that settled some.

        Returns:
            The answer that stopped it; ``None`` if everything was sent, or another process sends.

        Raises:
            StoreError: The store cannot be used.
        """
        while not self._is_stopped():
            batches, looked_until = self._unsent()
            if not batches:
                self._after = looked_until
                self.lock.release()
                return None
            if not self.lock.is_held:
                if not self.lock.acquire():
                    return None
                continue  # the previous holder may have sent these meanwhile
            if (answer := self._send_page(batches, on_sent)) is not None:
                return answer
        return None

    def _unsent(self) -> tuple[list[Batch], int]:
        found = self.store.unsent(self._identity, self._after)
        if self._opened == (opened := self.store.database.opened):
            return found
        # If another file is at the path now, its ids start again.
        self._opened, self._after = opened, 0
        return self.store.unsent(self._identity)

    def _send_page(self, batches: Sequence[Batch], on_sent: Callable[[int], None]) -> Answer | None:
        failed: Answer | None = None
        left: list[Batch] = []
        for together in _together(batches):
            if self._is_stopped():
                return None
            answer = self._send(together)
            if answer is None:
                on_sent(sum(batch.spans for batch in together))
            elif answer.kind == "failing":
                failed = answer
                left += together
            else:
                return answer
        if len(left) == len(batches) and (len(left) == 1 or self._send([left.pop()]) is not None):
            return failed  # every batch fails, also the newest one alone
        # _after moves only past settled batches: a store that is locked below would hide the others until a restart.
        if (answer := self._retry_apart(left)) is None:
            self._after = batches[-1].id
        return answer

    def _retry_apart(self, batches: Iterable[Batch]) -> Answer | None:
        """Sends the batches that failed while others were accepted, one by one; drops those that fail again."""
        for batch in batches:
            answer = self._send([batch])
            if answer is not None and answer.kind == "failing":
                self._log_lost(batch.spans, answer)
                self._settle([batch], Counter({answer.reason: batch.spans}))
            elif answer is not None:
                return answer
        return None

    def _send(self, batches: Sequence[Batch]) -> Answer | None:
        spans = sum(batch.spans for batch in batches)
        outcomes = self._deliver(b"".join(batch.data for batch in batches), spans, is_whole=len(batches) == 1)
        if outcomes is None:  # one of them causes the failure
            return next(filter(None, (self._send([batch]) for batch in batches)), None)
        if not isinstance(outcomes, Counter):
            self._error_may_stand = True
            self.store.set_last_error(self._identity, outcomes.text)
            return outcomes
        self._outages.succeeded(f"{self._identity} traces", f"Exporting spans to {self._label}")
        if self._error_may_stand:
            self._error_may_stand = False
            self.store.set_last_error(self._identity, None)
        self._settle(batches, outcomes)
        return None

    def _settle(self, batches: Sequence[Batch], outcomes: Counter[str]) -> None:
        is_own = self._on_own is not None and batches[0].writer == self._own_writer
        settled = self.store.settle(batches, outcomes, for_writer=not is_own)
        self.outcomes.update(outcomes)
        if is_own and self._on_own is not None:
            for outcome, spans in settled.items():
                self._on_own(spans, outcome)

    def _deliver(self, data: bytes, spans: int, *, is_whole: bool) -> Counter[str] | Answer | None:
        """Spans by outcome; the answer where a later try may succeed; ``None`` where the parts are to be tried."""
        answer = self._try(data)
        if answer.kind in {"waiting", "failing"}:
            self._log_unreachable(answer.text)
            return answer
        if answer.kind == "accepted":
            rejected = min(answer.rejected, spans)
            if rejected:
                self._log_lost(rejected, answer)
            return +Counter({EXPORTED: spans - rejected, answer.reason: rejected})
        if not is_whole:
            return None
        halves = split_batch(data) if answer.kind == "too_large" else None
        if halves is None:
            self._log_lost(spans, answer)
            return Counter({answer.reason: spans})
        outcomes: Counter[str] = Counter()
        for half, size in zip(halves, (spans // 2, spans - spans // 2), strict=True):
            outcome = self._deliver(half, size, is_whole=True)
            if not isinstance(outcome, Counter):
                return outcome
            outcomes += outcome
        return outcomes

    def _try(self, data: bytes) -> Answer:
        self.lock.acquire()  # reports progress
        with suppress_instrumentation():
            return self._get_sender().send(data)

    def _log_unreachable(self, why: str) -> None:
        if not self._is_stopped():
            self._outages.failed(
                f"{self._identity} traces",
                "Cannot export spans to %s (%s). They are kept in %s and will be sent when it recovers.",
                self._label,
                why,
                self.store.path,
            )

    def _log_lost(self, spans: int, answer: Answer) -> None:
        self._outages.lost(
            f"{self._identity} rejected: {answer.reason}",
            "%s permanently rejected %d spans (%s). They stay readable in %s and are counted under %r.",
            self._label,
            spans,
            answer.text,
            self.store.path,
            answer.reason,
        )


def _together(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Neighbours of one writer, since a partial success does not name the rejected spans.

    Concatenated protobuf messages are one message with the spans of both.
    """
    group: list[Batch] = []
    spans = size = 0
    for batch in batches:
        spans += batch.spans
        size += len(batch.data)
        if group and (spans > _REQUEST_SPANS or size > MAX_BATCH_BYTES or batch.writer != group[0].writer):
            yield group
            group, spans, size = [], batch.spans, len(batch.data)
        group.append(batch)
    if group:
        yield group
