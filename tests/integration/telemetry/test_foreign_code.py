"""Foreign code that delivery calls on its own threads, and that raises an exit there."""

from __future__ import annotations

import logging
import time

from opentelemetry import trace

from nodespan.spans import phases
from nodespan.spans.phases import Phase, phase_of
from nodespan.store import open_store
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 20


def wait_until_stored(spans: int) -> int:
    """Waits for the writer alone: a flush would write in the thread that calls it."""
    store = open_store()
    deadline = time.monotonic() + PATIENCE_S
    while (found := store.stats().spans) < spans and time.monotonic() < deadline:
        time.sleep(0.02)
    store.close()
    return found


class Exits:
    """A pipeline whose function for its progress ends the program."""

    def __init__(self) -> None:
        self.calls = 0

    def phase(self) -> Phase | None:
        self.calls += 1
        raise SystemExit(3)


def test_an_exit_in_the_progress_of_a_pipeline_does_not_end_the_writer(monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv("NODESPAN_RUNNING_AFTER_MS", "10")
    exits = Exits()
    tracer = trace.get_tracer("x")
    with configure():
        open_span, other = tracer.start_span("open"), tracer.start_span("open, too")
        phases.publish(open_span, exits)
        deadline = time.monotonic() + PATIENCE_S
        while not exits.calls and time.monotonic() < deadline:
            time.sleep(0.01)
        assert exits.calls
        assert phase_of(open_span.get_span_context().span_id) is None
        tracer.start_span("ended").end()
        assert wait_until_stored(1) == 1
        store = open_store()
        assert store.database.read(lambda c: c.execute("SELECT count(*) FROM running").fetchone()[0]) == 2
        store.close()
        open_span.end()
        other.end()


def test_an_exit_in_a_log_handler_does_not_end_the_sender(monkeypatch):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    records = []

    class Exiting(logging.Handler):
        def emit(self, record):
            records.append(record)
            raise SystemExit(3)

    handler = Exiting()
    logger = logging.getLogger("nodespan")
    with OtlpReceiver() as receiver:
        receiver.answers.append((503, {}, b""))
        logger.addHandler(handler)
        try:
            with configure(endpoint=receiver.endpoint):
                trace.get_tracer("x").start_span("work").end()
                receiver.wait_for(lambda one: one.spans, PATIENCE_S)
        finally:
            logger.removeHandler(handler)
    assert records
