"""What is left where the store is locked, or has failed, when a process ends."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from opentelemetry import trace

from nodespan.store import SqliteStore, StoreReader, store_path
from nodespan.telemetry import configure
from running import states

ENDS = """
import sys, time, nodespan
from opentelemetry import trace
telemetry = nodespan.configure()
span = trace.get_tracer("x").start_span("open at the end")
while not telemetry.store.database.read(lambda c: c.execute("SELECT count(*) FROM running").fetchone()[0]):
    time.sleep(0.01)
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_span_of_a_process_that_ended_while_the_store_was_locked_is_lost():
    with subprocess.Popen([sys.executable, "-c", ENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with closing(sqlite3.connect(store_path(), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            process.communicate(b"\n", timeout=30)
            other.execute("ROLLBACK")
    with StoreReader(SqliteStore(store_path())) as reader:
        assert states(reader) == {"open at the end": "lost"}


def test_a_flush_waits_for_the_write_lock_no_longer_than_its_time(monkeypatch, make_spans):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")  # it writes by itself
    with configure() as telemetry, closing(sqlite3.connect(store_path(), isolation_level=None)) as other:
        assert telemetry.store is not None
        telemetry.store.stats()
        other.execute("BEGIN IMMEDIATE")
        make_spans(3)
        started = time.monotonic()
        assert telemetry.force_flush(0.1).waiting == 3
        assert time.monotonic() - started < 0.6  # SQLite's own wait is 1 s
        other.execute("ROLLBACK")
        assert telemetry.force_flush(20).waiting == 0


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
def test_a_shutdown_takes_at_most_two_seconds_while_the_store_is_locked(endpoint, make_spans, monkeypatch):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    telemetry = configure(endpoint=endpoint)
    with closing(sqlite3.connect(store_path(), isolation_level=None)) as other:
        assert telemetry.store is not None
        telemetry.store.stats()
        other.execute("BEGIN IMMEDIATE")
        make_spans(1000)
        open_span = trace.get_tracer("x").start_span("open")
        time.sleep(0.3)  # the writer is in its wait for the lock
        started = time.monotonic()
        assert telemetry.shutdown().waiting == 1000
        assert time.monotonic() - started < 2.0
        other.execute("ROLLBACK")
    open_span.end()


def test_a_flush_waits_for_another_thread_no_longer_than_its_time(make_spans):
    with configure() as telemetry:
        store = telemetry.store
        assert store is not None
        is_inside, may_leave = threading.Event(), threading.Event()

        def read(_):
            is_inside.set()
            may_leave.wait(20)

        thread = threading.Thread(target=lambda: store.database.read(read))
        thread.start()
        assert is_inside.wait(20)
        make_spans(3)
        started = time.monotonic()
        report = telemetry.force_flush(0.1)
        took_s = time.monotonic() - started
        may_leave.set()
        thread.join()
        assert (report.waiting, took_s < 2) == (3, True)
        assert telemetry.force_flush(20).waiting == 0


FILE_IS_FULL = """
import os, resource, signal, nodespan
from opentelemetry import trace
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
telemetry = nodespan.configure(endpoint="http://127.0.0.1:9")
tracer = trace.get_tracer("x")
for _ in range(3):
    tracer.start_span("in the file").end()
telemetry.force_flush(0.1)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(telemetry.store.path).st_size, resource.RLIM_INFINITY))
for _ in range(2):
    tracer.start_span("in memory", attributes={"long": "x" * 1_000_000}).end()
telemetry.force_flush(0.1)
print(telemetry.store.path)
"""


def test_lost_spans_and_stored_spans_have_separate_warnings(run_python):
    done = run_python(FILE_IS_FULL, OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
    assert done.stdout.strip() == "memory"
    assert (
        "\n2 spans were not exported to http://127.0.0.1:9/v1/traces. They were in memory and are lost." in done.stderr
    )
    assert f"\n3 spans were not exported to http://127.0.0.1:9/v1/traces. They are in {store_path()}" in done.stderr
