"""Sends what the local store holds, without a program that makes spans."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodespan.delivery.outage_log import OutageLog
from nodespan.delivery.outbox_sender import OutboxSender
from nodespan.delivery.senders import make_sender
from nodespan.errors import ConfigurationError
from nodespan.store import EXPORTED, Waiting, load_secret, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodespan.delivery.destination import Destination
    from nodespan.delivery.sender_lock import Holder
    from nodespan.store import SqliteStore

_OTHERS_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class FlushReport:
    """Outcome of a flush.

    Attributes:
        destination: Endpoint, without credentials.
        sent: Spans that the destination accepted.
        lost: Spans that it will never accept, by reason.
        waiting: Spans that still wait for it.
        elsewhere: Spans that were stored without a destination, or for another one.
        error: The destination's message when it accepted nothing.
        sender_pid: Another process that is sending them.
        sender_idle_s: Seconds since that process made progress.
    """

    destination: str
    sent: int
    lost: dict[str, int]
    waiting: int
    elsewhere: int
    error: str | None
    sender_pid: int | None = None
    sender_idle_s: float | None = None


def list_waiting() -> list[Waiting]:
    """The waiting spans of the store by destination.

    Raises:
        StoreError: The store cannot be used.
    """
    store = open_store()
    try:
        return store.waiting()
    finally:
        store.close()


def flush_store(
    destination: Destination | None,
    *,
    everything: bool = False,
    source: str | None = None,
    timeout_s: float,
    progress: Callable[[int, int], None],
) -> FlushReport:
    """Sends the spans that wait for the destination, or waits for the process that sends them.

    Args:
        destination: Where to send.
        everything: Also send spans that were stored without a destination.
        source: Identity, or a unique beginning of one, of another destination: its spans are sent here as well.
        timeout_s: Time limit.
        progress: Called with the number of settled spans, and of all spans to send.

    Raises:
        ConfigurationError: There is no destination, or nothing waits for the source.
        StoreError: The store cannot be used.
    """
    if destination is None:
        raise ConfigurationError(
            "There is no destination to flush to. Set one: OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"
        )
    store = open_store()
    identity = destination.identity(load_secret(store.path))
    sender = make_sender(destination)
    outbox = OutboxSender(store, identity, destination.label, lambda: sender, OutageLog())
    try:
        if everything:
            store.readdress(None, identity, destination.label)
        if source is not None:
            store.readdress(_known(store, source), identity, destination.label)
        waiting, error, holder = _send(store, outbox, identity, time.monotonic() + timeout_s, progress)
        lost = {reason: spans for reason, spans in outbox.outcomes.items() if reason != EXPORTED}
        elsewhere = sum(each.spans for each in store.waiting()) - waiting
        return FlushReport(
            destination.label,
            outbox.outcomes[EXPORTED],
            lost,
            waiting,
            elsewhere,
            error if waiting else None,
            holder.pid if holder is not None and waiting else None,
            holder.idle_s if holder is not None and waiting else None,
        )
    finally:
        outbox.lock.release()
        sender.close()
        store.close()


def _send(
    store: SqliteStore, outbox: OutboxSender, identity: str, deadline: float, progress: Callable[[int, int], None]
) -> tuple[int, str | None, Holder | None]:
    total = waiting = store.waiting_for(identity)
    error: str | None = None
    holder: Holder | None = None
    while waiting and time.monotonic() < deadline:
        answer = outbox.send_all(lambda _: progress(outbox.outcomes.total(), total))
        error = answer.text if answer is not None else None
        if waiting := store.waiting_for(identity):
            # The destination accepts nothing now, or another process is sending.
            holder = outbox.lock.holder() if answer is None else None
            pause_s = _OTHERS_POLL_S if answer is None else max(answer.wait_s, 1.0)
            time.sleep(min(pause_s, max(deadline - time.monotonic(), 0.0)))
    return waiting, error, holder


def _known(store: SqliteStore, source: str) -> str:
    found = [each.identity for each in store.waiting() if each.identity and each.identity.startswith(source)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{'Several destinations begin' if found else 'No waiting destination begins'} with {source!r}. "
            "List them: nodespan flush --list"
        )
    return found[0]
