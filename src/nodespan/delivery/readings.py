"""The metrics of delivery, read from the ledger and the store when metrics are collected."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from nodespan import semconv

if TYPE_CHECKING:
    from nodespan.delivery.processor import StoreSpanProcessor
    from nodespan.spans.instruments import Readings


def _processed(processor: StoreSpanProcessor) -> Readings:
    return _by_reason(processor.ledger.processed())


def _sent(processor: StoreSpanProcessor) -> Readings:
    return _by_reason(processor.ledger.sent())


def _by_reason(counts: dict[str | None, int]) -> Readings:
    return [(spans, {semconv.ERROR_TYPE: reason} if reason else {}) for reason, spans in counts.items()]


def _waiting(processor: StoreSpanProcessor) -> Readings:
    return [(processor.store.stats().waiting, {})]


def _waiting_age_s(processor: StoreSpanProcessor) -> Readings:
    oldest_ns = processor.store.stats().oldest_waiting_ns
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
