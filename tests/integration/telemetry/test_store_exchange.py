"""A store's file that is removed or replaced while a program uses it."""

from __future__ import annotations

import pytest

from nodespan.store import SqliteStore, store_path
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 20.0


def remove():
    for suffix in ("", "-wal", "-shm"):
        store_path().with_name(store_path().name + suffix).unlink(missing_ok=True)


def replace():
    other = store_path().with_name("other.db")
    store = SqliteStore(other)
    assert store.waiting() == []
    store.close()
    remove()
    other.rename(store_path())


@pytest.mark.parametrize("exchange", [remove, replace])
def test_spans_written_to_the_next_file_are_sent(exchange, make_spans):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        for number in range(4):  # so that the ids of the next file are below those that were sent
            make_spans(1, f"first {number}")
            assert telemetry.force_flush(PATIENCE_S)
        exchange()
        for number in range(2):
            make_spans(1, f"second {number}")
            assert telemetry.force_flush(PATIENCE_S), telemetry.force_flush(0)
        assert len(receiver.spans) == 6
