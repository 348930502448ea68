"""A store that cannot be read when a program with a destination starts."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

import pytest
from opentelemetry import trace

from nodespan.store import MEMORY, store_path
from nodespan.store.secret import secret_path
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 20


@pytest.fixture(autouse=True)
def only_traces(monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")


@pytest.mark.parametrize("kind", ["a text", "a directory", "a pipe", "a long name"])
def test_an_unusable_store_has_one_warning_and_its_spans_are_sent(kind, monkeypatch, caplog):
    path = store_path()
    path.parent.mkdir()
    if kind == "a text":
        path.write_text("mine")
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        monkeypatch.setenv("NODESPAN_STORE", str(path.with_name("x" * 300)))
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        trace.get_tracer("x").start_span("work").end()
        assert telemetry.force_flush(PATIENCE_S).exported == 1
        assert telemetry.store is not None
        assert telemetry.store.path == MEMORY
    codes = [record.__dict__.get("nodespan.code") for record in caplog.records if record.name == "nodespan"]
    no_key = ["store.no_key"] if kind == "a long name" else []
    assert codes == [*no_key, "store.foreign_file" if kind == "a text" else "store.unavailable"]
    assert not [record for record in caplog.records if record.exc_info]


def test_a_damaged_key_is_logged_once_and_a_temporary_one_is_used(caplog):
    place = secret_path(store_path())
    place.parent.mkdir()
    place.write_bytes(b"short")
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        trace.get_tracer("x").start_span("work").end()
        assert telemetry.force_flush(PATIENCE_S).exported == 1
    [record] = [record for record in caplog.records if record.name == "nodespan"]
    assert record.__dict__["nodespan.code"] == "store.no_key"
    assert "delete the file" in record.getMessage()
    assert place.read_bytes() == b"short"


def test_a_store_that_is_locked_for_long_is_logged_once(caplog):
    with configure() as telemetry, closing(sqlite3.connect(store_path(), isolation_level=None)) as other:
        assert telemetry.store is not None
        telemetry.store.stats()
        other.execute("BEGIN IMMEDIATE")
        for number in range(3):
            trace.get_tracer("x").start_span(f"waits {number}").end()
            time.sleep(0.8)  # SQLite waits for a second, each time
        deadline = time.monotonic() + PATIENCE_S
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.02)
        other.execute("ROLLBACK")
        assert telemetry.force_flush(PATIENCE_S).stored == 3
    assert [record.__dict__["nodespan.code"] for record in caplog.records] == ["store.locked"]


def test_spans_of_an_earlier_process_are_sent_also_if_the_store_is_locked_at_the_start(run_python, caplog):
    with OtlpReceiver() as receiver:
        pass
    code = """
        import sys, nodespan
        from opentelemetry import trace
        with nodespan.configure(endpoint=sys.argv[1]) as telemetry:
            trace.get_tracer("x").start_span("left").end()
            telemetry.force_flush(0.1)
        """
    assert run_python(code, receiver.endpoint).returncode == 0
    with (
        OtlpReceiver(port=receiver._port) as again,
        closing(sqlite3.connect(store_path(), isolation_level=None)) as other,
    ):
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("COMMIT")  # keeps its locks: nobody else can read
        started = time.monotonic()
        with configure(endpoint=again.endpoint):
            assert time.monotonic() - started < 3
            other.close()
            again.wait_for(lambda one: [span.name for span in one.spans] == ["left"], PATIENCE_S)
    assert not [record for record in caplog.records if record.exc_info]
