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
    """Counts spans as they go. Safe from any thread; the hot path only adds one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = 0
        self._stored = 0
        self._exported = 0
        self._dropped: Counter[str] = Counter()

    def ended(self) -> None:
        """A span ended."""
        with self._lock:
            self._ended += 1

    def stored(self, spans: int) -> None:
        """Spans were written."""
        with self._lock:
            self._stored += spans

    def exported(self, spans: int) -> None:
        """Spans were accepted by the destination."""
        with self._lock:
            self._exported += spans

    def dropped(self, spans: int, reason: str) -> None:
        """Spans are lost."""
        if spans:
            with self._lock:
                self._dropped[reason] += spans

    def report(self, *, has_destination: bool) -> DeliveryReport:
        """The counts now."""
        with self._lock:
            arrived = self._exported if has_destination else self._stored
            dropped = dict(self._dropped)
            waiting = max(self._ended - arrived - sum(dropped.values()), 0)
            return DeliveryReport(self._ended, self._stored, self._exported, waiting, dropped)
