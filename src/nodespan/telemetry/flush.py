"""Sends what the local store holds, without a program that makes spans."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodespan.delivery.outage_log import SaidOnce
from nodespan.delivery.outbox_sender import Shipper
from nodespan.errors import ConfigurationError
from nodespan.store import EXPORTED, open_store
from nodespan.telemetry.providers import make_sender

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodespan.telemetry.settings import Settings

_OTHERS_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What a flush did.

    Attributes:
        sent: Spans that the destination took.
        lost: Spans that it will never take, by reason.
        waiting: Spans that still wait for it.
        elsewhere: Spans that were kept without a destination, or for another one.
        error: What it said when it took nothing.
    """

    destination: str
    sent: int
    lost: dict[str, int]
    waiting: int
    elsewhere: int
    error: str | None


def flush_store(
    settings: Settings, *, everything: bool, timeout_s: float, progress: Callable[[int, int], None]
) -> FlushReport:
    """Sends what waits for the destination, or waits for the process that is doing so.

    Args:
        settings: Where traces go.
        everything: Also what was kept without a destination or for another one.
        timeout_s: When to give up.
        progress: Called with the spans that are done and those that there were to send.

    Raises:
        ConfigurationError: There is no destination.
        StoreError: The store cannot serve.
    """
    destination = settings.endpoint_of("traces")
    if destination is None or settings.exporter_of("traces") != "otlp":
        raise ConfigurationError(
            "There is no destination to flush to. Say where: OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"
        )
    store = open_store()
    sender = make_sender(settings)
    shipper = Shipper(store, destination, lambda: sender, SaidOnce())
    deadline = time.monotonic() + timeout_s
    try:
        if everything:
            store.readdress(destination)
        total = waiting = store.waiting_for(destination)
        error: str | None = None
        while waiting and time.monotonic() < deadline:
            answer = shipper.ship(lambda _: progress(shipper.outcomes.total(), total))
            error = answer.text if answer is not None else None
            if waiting := store.waiting_for(destination):
                # The destination takes nothing now, or another process is sending.
                pause_s = _OTHERS_POLL_S if answer is None else max(answer.wait_s, 1.0)
                time.sleep(min(pause_s, max(deadline - time.monotonic(), 0.0)))
        lost = {reason: spans for reason, spans in shipper.outcomes.items() if reason != EXPORTED}
        elsewhere = store.waiting_for(None) - waiting
        return FlushReport(
            destination, shipper.outcomes[EXPORTED], lost, waiting, elsewhere, error if waiting else None
        )
    finally:
        shipper.release()
        sender.close()
        store.close()
