"""A store that is full, locked, damaged or unusable: memory is used, and it is logged; and clocks that jump."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import time
import weakref

import pytest

from nodespan.delivery import processor as delivery_module
from nodespan.delivery.ledger import DeliveryReport
from nodespan.store import MEMORY, SqliteStore, StoreReader, TraceFilter, store_path
from nodespan.store.sqlite_file import BUSY_TIMEOUT_S
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 60


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "nodespan"]


FULL = """
import json, resource, sys
from dataclasses import asdict
from opentelemetry import trace
import nodespan

telemetry = nodespan.configure("full", endpoint=sys.argv[1] or None)
tracer = trace.get_tracer("test")

def make(number, name):
    for index in range(number):
        tracer.start_span(f"{name} {index}", attributes={"text": "x" * 500}).end()

make(100, "before")
telemetry.force_flush(20)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
make(2000, "full")
report = telemetry.force_flush(20)
print(json.dumps([asdict(report), str(telemetry.store.path)]))
"""


@pytest.mark.parametrize("has_endpoint", [False, True])
def test_a_full_disk_loses_no_span_while_the_process_runs(has_endpoint, run_python, figures):
    with OtlpReceiver() as receiver:
        done = run_python(FULL, receiver.endpoint if has_endpoint else "", OTEL_LOGS_EXPORTER="none")
        assert done.returncode == 0, done.stderr
        report, place = json.loads(done.stdout)
        assert (report["ended"], report["stored"], report["dropped"]) == (2100, 2100, {})
        assert report["waiting"] == 0
        assert place == "memory"
        assert done.stderr.count("Spans are kept in memory until this process ends") == 1
        if has_endpoint:
            names = [f"before {index}" for index in range(100)] + [f"full {index}" for index in range(2000)]
            assert figures(names, receiver.spans)["lost"] == 0


HOMELESS = """
import os
import nodespan, nodespan.store, nodespan.telemetry
os.environ.pop("HOME", None)
os.environ.pop("XDG_DATA_HOME", None)
import pwd
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))  # a user id without an entry, as in a container
telemetry = nodespan.configure("homeless")
from opentelemetry import trace
trace.get_tracer("test").start_span("work").end()
print(telemetry.store.path, telemetry.force_flush(5).stored)
"""


@pytest.mark.parametrize("store", ["", "~/nodespan.db"])
def test_without_a_home_directory_spans_are_kept_in_memory(store, run_python):
    done = run_python(HOMELESS, NODESPAN_STORE=store)
    assert done.stdout.split() == ["memory", "1"], done.stderr
    assert done.stderr.count("NODESPAN_STORE=/path/to/nodespan.db") == 1


def test_a_platform_without_posix_locks_is_rejected_with_what_is_supported(run_python):
    done = run_python("import sys; sys.modules['fcntl'] = None; import nodespan; nodespan.configure()")
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert "Supported: Linux and macOS; on Windows use WSL." in done.stderr


@pytest.mark.parametrize("has_endpoint", [False, True])
def test_an_unusable_store_is_logged_once_and_memory_is_used(has_endpoint, monkeypatch, make_spans, caplog):
    monkeypatch.setenv("NODESPAN_STORE", "/proc/nowhere/spans.db")
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint if has_endpoint else None) as telemetry:
        make_spans(30)
        assert telemetry.force_flush(PATIENCE_S)
        make_spans(30)
        report = telemetry.force_flush(PATIENCE_S)
        assert report == DeliveryReport(60, 60, 60 if has_endpoint else 0, 0, {})
        assert telemetry.store is not None
        assert telemetry.store.path == MEMORY
        assert len(StoreReader(telemetry.store).find(TraceFilter(), 100)) == 60
        assert len(receiver.spans) == (60 if has_endpoint else 0)
    assert "kept in memory until this process ends" in warnings_of(caplog)[-1]


def test_a_store_of_another_version_is_not_modified_and_memory_is_used(make_spans, caplog):
    SqliteStore(store_path()).stats()
    connection = sqlite3.connect(store_path())
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with configure() as telemetry:
        make_spans(3)
        assert telemetry.force_flush()
    (warning,) = warnings_of(caplog)
    assert "another version" in warning
    assert "kept in memory" in warning


def test_of_a_file_damaged_while_a_program_runs_only_its_spans_are_lost(make_spans, figures, caplog):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        first = make_spans(100, "first")
        assert telemetry.force_flush(PATIENCE_S)
        store_path().write_bytes(b"broken" * 10_000)
        second = make_spans(100, "second")
        assert telemetry.force_flush(PATIENCE_S)
        assert figures([*first, *second], receiver.spans)["lost"] == 0
    # With luck SQLite had all that it needs elsewhere, and writes it over the broken file.
    assert len(warnings_of(caplog)) == len(list(store_path().parent.glob("*.damaged-*"))) <= 1
    after = SqliteStore(store_path())
    assert after.stats().spans >= 100
    after.close()


def test_a_locked_store_blocks_no_span_and_overflow_is_counted(make_spans, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "500")
    with configure() as telemetry:
        make_spans(1, "first")
        assert telemetry.force_flush()
        blocker = sqlite3.connect(store_path(), isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        make_spans(20, "before the writer tried")
        while not telemetry._pipelines.delivery._unwritten:
            time.sleep(0.01)
        # The writer waits in SQLite for the lock, a second each time. A span that waited for the writer once would take
        # a part of it.
        started = time.monotonic()
        make_spans(1_000, "meanwhile")
        assert time.monotonic() - started < BUSY_TIMEOUT_S / 4
        report = telemetry.force_flush(0)
        assert report.dropped["queue_full"] >= 500
        assert report.ended == 1_021 == report.stored + report.waiting + report.dropped["queue_full"]
        blocker.execute("ROLLBACK")
        blocker.close()
        report = telemetry.force_flush(PATIENCE_S)
        assert report.waiting == 0
        assert report.stored == 1_021 - report.dropped["queue_full"]


def test_a_clock_set_backward_or_forward_loses_no_span(make_spans, monkeypatch, figures):
    real, real_ns = time.time, time.time_ns
    shift = 0.0
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + round(shift * 1e9))
    names = []
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        for shift in (0.0, -7200.0, 3600.0, -86_400.0, 0.0):
            names += make_spans(50, f"at {shift}")
            assert telemetry.force_flush(PATIENCE_S)
        assert figures(names, receiver.spans)["lost"] == 0


def test_a_dropped_store_is_not_referenced_by_fork_handlers(tmp_path):
    """A fork handler cannot be removed, and would keep its object alive."""
    store = SqliteStore(tmp_path / "spans.db")
    store.stats()
    processor = delivery_module.StoreSpanProcessor(store)
    processor.shutdown()
    left = [weakref.ref(store), weakref.ref(store.database), weakref.ref(processor)]
    del store, processor
    gc.collect()
    assert [reference() for reference in left] == [None] * 3
    assert os.WEXITSTATUS(os.waitpid(os.fork() or os._exit(0), 0)[1]) == 0
