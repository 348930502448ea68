"""What became of every span that ended: exported, waiting, or dropped and counted."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """Where the spans of this process are. True when nothing is missing.

    Attributes:
        ended: Spans that ended and were to be recorded.
        stored: Of these, written to the store.
        exported: Of these, accepted by the destination.
        waiting: Of these, not yet exported (with a destination) or not yet stored (without).
        dropped: Of these, lost, by reason.
    """

    ended: int
    stored: int
    exported: int
    waiting: int
    dropped: dict[str, int] = field(default_factory=dict[str, int])

    def __bool__(self) -> bool:
        return self.waiting == 0 and not self.dropped


class Ledger:
    """Counts spans as they go. Safe from any thread; the hot path only adds one.

    Metrics are read from it too, and so say the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = 0
        self._stored = 0
        self._exported = 0
        self._dropped: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def ended(self) -> None:
        """A span ended."""
        with self._lock:
            self._ended += 1

    def stored(self, spans: int) -> None:
        """Spans were written."""
        with self._lock:
            self._stored += spans

    def dropped(self, spans: int, reason: str) -> None:
        """Spans that will not be written."""
        if spans:
            with self._lock:
                self._dropped[reason] += spans

    def exported(self, spans: int) -> None:
        """Spans that the destination has."""
        with self._lock:
            self._exported += spans

    def lost(self, spans: int, reason: str) -> None:
        """Spans that were written, and that the destination will not have."""
        with self._lock:
            self._lost[reason] += spans

    def processed(self) -> dict[str | None, int]:
        """Spans that were written, under ``None``, and that will not be, by reason."""
        with self._lock:
            return {None: self._stored, **self._dropped}

    def sent(self) -> dict[str | None, int]:
        """Spans that the destination has, under ``None``, and that it will not have, by reason."""
        with self._lock:
            return {None: self._exported, **self._lost}

    def report(self, *, has_destination: bool) -> DeliveryReport:
        """The counts now."""
        with self._lock:
            arrived = self._exported if has_destination else self._stored
            dropped = dict(self._dropped + self._lost)
            waiting = max(self._ended - arrived - sum(dropped.values()), 0)
            return DeliveryReport(self._ended, self._stored, self._exported, waiting, dropped)
