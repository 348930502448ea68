"""Counts every ended span as exported, waiting, or dropped."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from nodespan.spans.fork_lock import ForkLock


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """Numbers of this process's ended spans by outcome. True if no span waits or was dropped.

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


class _Tally:
    """A counter that needs no lock: the garbage collector may end a span in the middle of any other count."""

    __slots__ = ("_counts", "_read")

    def __init__(self) -> None:
        self._counts = itertools.count()
        self._read = 0

    def add_one(self) -> None:
        next(self._counts)  # atomic

    def value(self) -> int:
        """Number of calls so far. For one thread at a time."""
        self._read += 1
        return next(self._counts) - self._read + 1


class Ledger:
    """Counts spans by outcome. Safe from any thread.

    ``ended`` and ``dropped_at_end`` acquire no lock, because a span may end anywhere. The metrics of delivery read the
    same counts.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._ended = _Tally()
        self._dropped_at_end = {"queue_full": _Tally(), "already_shutdown": _Tally()}
        self._stored = 0
        self._exported = 0
        self._dropped: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def ended(self) -> None:
        """Counts an ended span."""
        self._ended.add_one()

    def dropped_at_end(self, reason: str) -> None:
        """Counts an ended span that was not queued: ``queue_full`` or ``already_shutdown``."""
        self._dropped_at_end[reason].add_one()

    def stored(self, spans: int) -> None:
        """Counts spans that were written."""
        with self._lock:
            self._stored += spans

    def dropped(self, spans: int, reason: str) -> None:
        """Counts spans that will not be written."""
        with self._lock:
            self._dropped[reason] += spans

    def exported(self, spans: int) -> None:
        """Counts spans that the destination has accepted."""
        with self._lock:
            self._exported += spans

    def lost(self, spans: int, reason: str) -> None:
        """Counts spans that were written and will not be exported."""
        with self._lock:
            self._lost[reason] += spans

    def processed(self) -> dict[str | None, int]:
        """Numbers of written spans, under ``None``, and of unwritten ones, by reason."""
        with self._lock:
            return {None: self._stored, **self._all_dropped()}

    def sent(self) -> dict[str | None, int]:
        """Numbers of accepted spans, under ``None``, and of lost ones, by reason."""
        with self._lock:
            return {None: self._exported, **self._lost}

    def report(self, *, has_destination: bool) -> DeliveryReport:
        """The counts now."""
        with self._lock:
            # Read last, because a span is counted here first: a span that ends meanwhile counts as waiting.
            arrived = self._exported if has_destination else self._stored
            dropped = Counter(self._all_dropped())
            dropped.update(self._lost)
            ended = self._ended.value()
            waiting = max(ended - arrived - dropped.total(), 0)
            return DeliveryReport(ended, self._stored, self._exported, waiting, dict(dropped))

    def _all_dropped(self) -> dict[str, int]:
        at_end = {reason: count for reason, tally in self._dropped_at_end.items() if (count := tally.value())}
        return {**{reason: count for reason, count in self._dropped.items() if count}, **at_end}
