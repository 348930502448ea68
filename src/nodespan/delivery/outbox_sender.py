"""From the store to the destination."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation

from nodespan.delivery.outage_log import SaidOnce, exporting
from nodespan.delivery.senders.answer import Answer
from nodespan.otlp import MAX_BATCH_BYTES, split_batch
from nodespan.store import EXPORTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nodespan.delivery.senders.answer import Sender
    from nodespan.store import Batch, SqliteStore

_REQUEST_SPANS: Final = 512
"""Small batches go out together, as many spans at once as the SDK would send."""
_LEASE_MARGIN_S: Final = 5.0
"""By how much a lease is longer than one try, and so how long a living sender can send before it renews it."""


class Shipper:
    """Sends what a store has for a destination. Of several processes that share the store one does, for all.

    For one thread.

    Attributes:
        outcomes: What became of the spans that it sent.

    Args:
        store: Whose batches are sent.
        destination: Those that are addressed to it.
        get_sender: Called when there is something to send.
        said: Where warnings are said once.
        is_stopped: Asked between two requests.
    """

    def __init__(
        self,
        store: SqliteStore,
        destination: str,
        get_sender: Callable[[], Sender],
        said: SaidOnce,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self._destination = destination
        self._get_sender = get_sender
        self._is_stopped = is_stopped
        self._holder = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._lease_until = 0.0  # on the monotonic clock
        self._after = 0
        self.outcomes: Counter[str] = Counter()
        self._error_may_stand = True
        self._said = said

    def ship(self, on_sent: Callable[[int], None] = lambda spans: None) -> Answer | None:
        """Sends until nothing waits.

        Args:
            on_sent: Called with the number of spans after each request that settled some.

        Returns:
            The answer that stopped it; ``None`` if everything went, or another process is the one that sends.

        Raises:
            StoreError: The store cannot serve.
        """
        while not self._is_stopped():
            batches, looked_until = self.store.unsent(self._destination, self._after)
            if not batches:
                self._after = looked_until
                return None
            if not self._holds_lease():
                if not self._take_lease():
                    return None
                continue  # whoever had it may have sent these meanwhile
            if (answer := self._send_all(batches, on_sent)) is not None:
                return answer
        return None

    def _send_all(self, batches: Sequence[Batch], on_sent: Callable[[int], None]) -> Answer | None:
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
            return failed  # it fails at whatever it is given, the newest batch alone too
        self._after = batches[-1].id
        return self._retry_apart(left)

    def _retry_apart(self, batches: Iterable[Batch]) -> Answer | None:
        """Once more those that a destination failed at while it took others; one that it fails at again is at fault."""
        for batch in batches:
            answer = self._send([batch])
            if answer is not None and answer.kind == "failing":
                self._say_lost(batch.spans, answer)
                self._settle([batch], Counter({answer.reason: batch.spans}))
            elif answer is not None:
                self._after = 0  # it is still there
                return answer
        return None

    def release(self) -> None:
        """Lets another process send at once."""
        if self._lease_until:
            self._lease_until = 0.0
            self.store.release_lease(self._holder)

    def _send(self, batches: Sequence[Batch]) -> Answer | None:
        spans = sum(batch.spans for batch in batches)
        outcomes = self._deliver(b"".join(batch.data for batch in batches), spans, is_whole=len(batches) == 1)
        if outcomes is None:  # one of them is at fault
            return next(filter(None, (self._send([batch]) for batch in batches)), None)
        if isinstance(outcomes, Answer):
            self._error_may_stand = True
            self.store.say_error(outcomes.text)
            return outcomes
        if self._error_may_stand:
            self._error_may_stand = False
            self.store.say_error(None)
        self._settle(batches, outcomes)
        return None

    def _settle(self, batches: Sequence[Batch], outcomes: Counter[str]) -> None:
        self.store.settle(batches, outcomes)
        self.outcomes += outcomes

    def _deliver(self, data: bytes, spans: int, *, is_whole: bool) -> Counter[str] | Answer | None:
        """What became of the spans; the answer if it is to be tried again; nothing if it is to be tried in parts."""
        answer = self._try(data)
        if answer.kind in {"waiting", "failing"}:
            self._say_unreachable(answer.text)
            return answer
        if answer.kind == "accepted":
            rejected = min(answer.rejected, spans)
            if rejected:
                self._say_lost(rejected, answer)
            return +Counter({EXPORTED: spans - rejected, answer.reason: rejected})
        if not is_whole:
            return None
        halves = split_batch(data) if answer.kind == "too_large" else None
        if halves is None:
            self._say_lost(spans, answer)
            return Counter({answer.reason: spans})
        outcomes: Counter[str] = Counter()
        for half, size in zip(halves, (spans // 2, spans - spans // 2), strict=True):
            outcome = self._deliver(half, size, is_whole=True)
            if not isinstance(outcome, Counter):
                return outcome
            outcomes += outcome
        return outcomes

    def _try(self, data: bytes) -> Answer:
        if not self._holds_lease():
            self._take_lease()  # if somebody else has it by now, some spans will arrive twice
        with (
            exporting(lambda why, will_retry: self._say_unreachable(why) if will_retry else None),
            suppress_instrumentation(),
        ):
            return self._get_sender().send(data)

    def _holds_lease(self) -> bool:
        return time.monotonic() + self._get_sender().timeout_s <= self._lease_until

    def _take_lease(self) -> bool:
        lease_s = self._get_sender().timeout_s + _LEASE_MARGIN_S
        now = time.monotonic()
        if self.store.take_lease(self._holder, lease_s):
            self._lease_until = now + lease_s
            return True
        return False

    def _say_unreachable(self, why: str) -> None:
        if not self._is_stopped():
            self._said.warn(
                f"{self._destination} is down",
                "%s does not take spans now (%s). They wait in %s and are sent when it does.",
                self._destination,
                why,
                self.store.path,
            )

    def _say_lost(self, spans: int, answer: Answer) -> None:
        self._said.warn(
            f"{self._destination} refused: {answer.reason}",
            "%s refused %d spans for good (%s). They stay readable in %s, and are counted under %r.",
            self._destination,
            spans,
            answer.text,
            self.store.path,
            answer.reason,
        )


def _together(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Neighbours of one writer, since a partial success does not say whose spans it threw away.

    Messages one after the other are, in protobuf, one message with the spans of both.
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
