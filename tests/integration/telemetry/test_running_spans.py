"""Spans that are open: seen by others while they last, and what is left of them when their process dies."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from opentelemetry import trace

from nodespan import semconv
from nodespan.delivery import running_spans
from nodespan.spans.phases import Phase, publish
from nodespan.store import SqliteStore, StoreReader, TraceFilter, store_path
from nodespan.store.running import lock_path
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 60


@pytest.fixture
def reader():
    with StoreReader(SqliteStore(store_path())) as reader:
        yield reader


def until(look, expected, patience_s: float = PATIENCE_S):
    """Polls until the expected is seen; shows the last that was."""
    deadline = time.monotonic() + patience_s
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"last seen: {seen}, expected: {expected}"
        time.sleep(0.02)
    return seen


def states(reader: StoreReader) -> dict[str, str]:
    """State of each span in the store, by name."""
    return {
        span["name"]: span["state"]
        for found in reader.find(limit=1000)
        for span in reader.get(found["trace_id"])["spans"]
    }


def rows() -> int:
    try:
        with closing(sqlite3.connect(f"file:{store_path()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM running").fetchone()[0]
    except sqlite3.OperationalError:  # it is being created
        return 0


class Work:
    """The work of a span, with a phase that the test sets."""

    def __init__(self, phase: Phase | None = None) -> None:
        self.now = phase

    def phase(self) -> Phase | None:
        return self.now


def test_an_open_span_is_seen_while_it_lasts_and_once_when_it_has_ended(reader):
    with configure(service_name="app"):
        tracer = trace.get_tracer("scope")
        cursor = reader.cursor()
        with tracer.start_as_current_span("outer", attributes={semconv.WORKFLOW_NAME: "w", "n": float("nan")}):
            inner = tracer.start_span("inner", kind=trace.SpanKind.CLIENT)
            until(lambda: states(reader), {"outer": "running", "inner": "running"})
            (found,) = reader.find(TraceFilter(workflow="w", is_running=True))
            assert (found["name"], found["state"], found["service"]) == ("outer", "running", "app")
            assert (found["spans"], found["running"], found["lost"], found["end_ns"]) == (0, 2, 0, None)
            outer_record, inner_record = reader.get(found["trace_id"])["spans"]
            assert inner_record["parent_span_id"] == outer_record["span_id"]
            assert (inner_record["kind"], inner_record["scope"], inner_record["end_ns"]) == ("CLIENT", "scope", None)
            assert outer_record["attributes"]["n"] == "NaN"
            assert outer_record["process"]["pid"] == os.getpid()
            assert 0 < outer_record["duration_s"] < PATIENCE_S
            changes = reader.follow(cursor)
            assert [span["name"] for span in changes["running"]] == ["outer", "inner"]
            assert [each["trace_id"] for each in changes["traces"]] == [found["trace_id"]]
            inner.end()
            until(lambda: states(reader), {"outer": "running", "inner": "ended"})
            (found,) = reader.find()
            assert (found["name"], found["spans"], found["running"]) == ("outer", 1, 1)
        until(lambda: states(reader), {"outer": "ended", "inner": "ended"})
        assert rows() == 0
        (found,) = reader.find()
        assert (found["state"], found["spans"], found["running"]) == ("ended", 2, 0)
        changes = reader.follow(changes["cursor"])
        assert sorted(span["name"] for span in changes["spans"]) == ["inner", "outer"]
        assert changes["running"] == []


def test_short_spans_never_touch_the_table(reader):
    with configure() as telemetry:
        written: list[str] = []
        store = telemetry.store
        store.database.read(lambda connection: connection.set_trace_callback(written.append))
        for number in range(2_000):
            trace.get_tracer("test").start_span(f"short {number}").end()
        telemetry.force_flush(PATIENCE_S)
        time.sleep(0.3)  # some ticks
        assert [statement for statement in written if "INTO running" in statement or "INTO process" in statement] == []


def test_a_phase_is_rewritten_when_it_changes_and_at_most_once_a_second(reader):
    with configure() as telemetry:
        span = trace.get_tracer("test").start_span("chat")
        work = Work(Phase("queued", 1, position=2))
        publish(span, work)

        def phase():
            found = [each["phase"] for trace in reader.find() for each in reader.get(trace["trace_id"])["spans"]]
            return [(each["name"], each["position"], each["done"], each["total"]) for each in found if each]

        until(phase, [("queued", 2, None, None)])
        written: list[str] = []
        telemetry.store.database.read(lambda connection: connection.set_trace_callback(written.append))
        started = time.monotonic()
        done = 0
        while time.monotonic() - started < 2.5:
            done += 1
            work.now = Phase("prefilling", 2, done=done, total=1_000_000)
            time.sleep(0.01)
        updates = [statement for statement in written if statement.startswith("UPDATE running SET phase")]
        assert 1 <= len(updates) <= 4
        work.now = Phase("decoding", 3, done=5)
        until(phase, [("decoding", None, 5, None)])
        del work
        span.end()


def test_tools_are_a_phase_of_their_own_span(reader):
    with configure():
        attributes = {semconv.OPERATION_NAME: semconv.EXECUTE_TOOL, semconv.TOOL_NAME: "search"}
        span = trace.get_tracer("test").start_span("execute_tool search", attributes=attributes)
        until(
            lambda: [f["phase"] and (f["phase"]["name"], f["phase"]["text"]) for f in reader.find()],
            [("tool", "search")],
        )
        span.end()


def test_a_span_that_is_dropped_without_an_end_leaves_no_row(reader, leaks):
    with configure():
        span = trace.get_tracer("test").start_span("dropped")
        until(lambda: states(reader), {"dropped": "running"})
        leaks.forget(span)
        del span
        gc.collect()
        until(rows, 0)
        assert reader.find() == []


def test_a_span_whose_end_is_not_stored_leaves_no_row(reader):
    with configure() as telemetry:
        span = trace.get_tracer("test").start_span("half a \ud800", attributes={"a": 1})
        until(rows, 1)
        span.end()
        until(rows, 0)
        assert telemetry.force_flush(PATIENCE_S).dropped == {"not_encodable": 1}


def test_what_is_open_at_shutdown_leaves_no_row_and_no_lock(reader):
    with configure():
        span = trace.get_tracer("test").start_span("left open")
        until(lambda: states(reader), {"left open": "running"})
        (lock,) = lock_path(store_path(), "").iterdir()
    assert rows() == 0
    assert not lock.exists()
    span.end()
    assert reader.find() == []


def test_a_store_in_memory_shows_its_own_process(monkeypatch):
    monkeypatch.setenv("NODESPAN_STORE", "memory")
    with configure() as telemetry:
        span = trace.get_tracer("test").start_span("open")
        with StoreReader(telemetry.store) as reader:
            until(lambda: states(reader), {"open": "running"})
            span.end()
            until(lambda: states(reader), {"open": "ended"})


def test_at_most_so_many_have_a_row_and_the_rest_is_counted(reader, monkeypatch):
    monkeypatch.setattr(running_spans, "MAX_TRACKED", 50)
    with configure() as telemetry:
        spans = [trace.get_tracer("test").start_span(f"span {number}") for number in range(70)]
        until(rows, 50)
        until(lambda: reader.status()["untracked"], 20)
        for span in spans:
            span.end()
        until(rows, 0)
        assert telemetry.force_flush(PATIENCE_S).stored == 70


def test_a_long_attribute_is_in_the_ended_span_alone(reader):
    with configure():
        span = trace.get_tracer("test").start_span("span", attributes={"long": "x" * 5_000, "short": "y"})
        until(lambda: states(reader), {"span": "running"})

        def attributes():
            return reader.get(reader.find()[0]["trace_id"])["spans"][0]["attributes"]

        assert attributes() == {"short": "y"}
        span.end()
        until(lambda: states(reader), {"span": "ended"})
        assert len(attributes()["long"]) == 5_000


def test_open_spans_are_not_sent():
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        span = trace.get_tracer("test").start_span("open")
        until(rows, 1)
        telemetry.force_flush(1)
        assert receiver.spans == []
        span.end()
        assert telemetry.force_flush(PATIENCE_S)
        assert [each.name for each in receiver.spans] == ["open"]


def test_a_span_of_nobody_is_kept_alive_by_nothing(reader, leaks):
    import weakref

    with configure():
        span = trace.get_tracer("test").start_span("open")
        until(lambda: states(reader), {"open": "running"})
        gone = weakref.ref(span)
        leaks.forget(span)
        del span
        gc.collect()
        assert gone() is None


PROGRAM = """
import os, sys, time
from opentelemetry import trace
import nodespan
from nodespan.spans.phases import Phase, publish

class Work:
    def phase(self):
        return Phase("prefilling", time.time_ns(), done=62, total=100)

nodespan.configure(sys.argv[1])
span = trace.get_tracer("test").start_span("chat of " + sys.argv[1])
work = Work()
publish(span, work)
print("started", flush=True)
"""
WAIT = "sys.stdin.readline(); span.end(); nodespan.configure(sys.argv[1]).shutdown()"


@contextmanager
def program(name: str, then: str = WAIT):
    command = [sys.executable, "-c", PROGRAM + then, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield process
        finally:
            process.kill()


def test_what_a_killed_process_did_is_reported_as_lost_with_time_and_phase(reader):
    with program("one") as process:
        until(lambda: states(reader), {"chat of one": "running"})
        before_ns = time.time_ns()
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: states(reader), {"chat of one": "lost"}, 1.0)  # at once, by the lock
    (found,) = reader.find(TraceFilter(is_running=True))
    assert (found["state"], found["lost"], found["running"]) == ("lost", 1, 0)
    assert abs(found["end_ns"] - before_ns) < 5e9
    assert (found["phase"]["name"], found["phase"]["done"], found["phase"]["total"]) == ("prefilling", 62, 100)
    with configure() as telemetry:  # another start leaves it
        span = trace.get_tracer("test").start_span("next")
        until(lambda: states(reader), {"chat of one": "lost", "next": "running"})
        span.end()
        telemetry.force_flush(PATIENCE_S)
    assert states(reader) == {"chat of one": "lost", "next": "ended"}


def test_a_stopped_process_is_silent_and_runs_again_when_it_goes_on(reader, monkeypatch):
    monkeypatch.setattr("nodespan.store.running.SILENT_AFTER_S", 2.0)
    with program("one") as process:
        until(lambda: states(reader), {"chat of one": "running"})
        cursor = reader.cursor()
        process.send_signal(signal.SIGSTOP)
        until(lambda: states(reader), {"chat of one": "silent"})
        changes = reader.follow(cursor, wait_s=5)
        assert [span["state"] for span in changes["running"]] == ["silent"]
        assert changes["running"][0]["process"]["silent_s"] >= 2.0
        process.send_signal(signal.SIGCONT)
        until(lambda: states(reader), {"chat of one": "running"})
        process.communicate("go on\n", timeout=PATIENCE_S)
        until(lambda: states(reader), {"chat of one": "ended"})


def test_a_follower_hears_of_a_death_though_nothing_is_written(reader):
    with program("one") as process:
        until(lambda: states(reader), {"chat of one": "running"})
        cursor = reader.cursor()
        process.kill()
        process.wait()
        changes = reader.follow(cursor, wait_s=5)
    assert [(span["name"], span["state"]) for span in changes["running"]] == [("chat of one", "lost")]


def test_two_processes_on_one_store(reader):
    with program("one") as one, program("two") as two:
        until(lambda: states(reader), {"chat of one": "running", "chat of two": "running"})
        one.kill()
        one.wait()
        until(lambda: states(reader), {"chat of one": "lost", "chat of two": "running"})
        two.communicate("go on\n", timeout=PATIENCE_S)
    until(lambda: states(reader), {"chat of one": "lost", "chat of two": "ended"})
    assert rows() == 1


FORK = """
pid = os.fork()
if pid == 0:
    child = trace.get_tracer("test").start_span("of the child")
    time.sleep(600)
print(pid, flush=True)
time.sleep(600)
"""


def test_a_forked_child_does_not_keep_its_dead_parent_alive(reader):
    with program("one", FORK) as process:
        child = int(process.stdout.readline())
        try:
            until(lambda: states(reader), {"chat of one": "running", "of the child": "running"})
            process.kill()
            process.wait()
            until(lambda: states(reader), {"chat of one": "lost", "of the child": "running"})
        finally:
            os.kill(child, signal.SIGKILL)
        until(lambda: states(reader), {"chat of one": "lost", "of the child": "lost"})


def test_a_clock_that_is_set_makes_nobody_silent_or_lost(reader, monkeypatch):
    with program("one"):
        until(lambda: states(reader), {"chat of one": "running"})
        real = time.time_ns
        for step_s in (86_400, -86_400):
            monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: real() + step_s * 10**9)
            (found,) = reader.find()
            assert (found["state"], found["duration_s"] >= 0) == ("running", True)


def test_a_lock_file_that_somebody_removed_is_no_death(reader):
    with program("one"):
        until(lambda: states(reader), {"chat of one": "running"})
        for file in lock_path(store_path(), "").iterdir():
            file.unlink()
        time.sleep(1.5)
        assert states(reader) == {"chat of one": "running"}


def test_rows_of_the_long_dead_are_removed_by_the_next_start(reader, monkeypatch):
    with program("one") as process:
        until(lambda: states(reader), {"chat of one": "running"})
        process.kill()
    monkeypatch.setattr(running_spans, "_DEAD_KEPT_S", 0.0)
    with configure():
        span = trace.get_tracer("test").start_span("next")
        until(lambda: states(reader), {"next": "running"})
        assert len(list(lock_path(store_path(), "").iterdir())) == 1
        span.end()


def test_a_copy_has_what_was_lost_and_not_what_runs(reader, tmp_path):
    with program("one") as one, program("two"):
        until(lambda: states(reader), {"chat of one": "running", "chat of two": "running"})
        one.kill()
        one.wait()
        reader.copy_to(tmp_path / "copy.db")
    with StoreReader(SqliteStore(tmp_path / "copy.db")) as copy:
        assert states(copy) == {"chat of one": "lost"}


def test_the_gauges_count_executions_and_their_age_by_phase():
    with configure() as telemetry:
        tracer = trace.get_tracer("test")
        node = {semconv.OPERATION_NAME: semconv.INVOKE_NODE, semconv.WORKFLOW_NAME: "w", semconv.NODE: "a"}
        first = tracer.start_span("invoke_node a", attributes=node)
        second = tracer.start_span("invoke_node a", attributes=node)
        chat = tracer.start_span("chat", trace.set_span_in_context(first))
        work = Work(Phase("queued", time.time_ns() - 7 * 10**9))
        publish(chat, work)
        running = telemetry._pipelines.delivery.running
        labels = {semconv.WORKFLOW_NAME: "w", semconv.NODE: "a"}
        until(lambda: list(running.executions()), [(2, labels)])
        ages = {of[semconv.PHASE]: age_s for age_s, of in running.ages_s()}
        assert ages.keys() == {"queued", "other"}
        assert ages["queued"] >= 7 > ages["other"]
        for span in (chat, second, first):
            span.end()
        until(lambda: list(running.executions()), [])


def test_a_row_comes_within_twice_the_interval_when_nothing_ran_before(reader):
    """As the writer sleeps while nothing is open: a start wakes it."""
    with configure() as telemetry:
        trace.get_tracer("test").start_span("first").end()
        telemetry.force_flush(PATIENCE_S)
        time.sleep(0.5)
        found: list[float] = []
        for _ in range(5):
            started = time.monotonic()
            span = trace.get_tracer("test").start_span("open")
            until(rows, 1)
            found.append(time.monotonic() - started)
            span.end()
            until(rows, 0)
        assert min(found) < 0.3, found


def test_the_folder_is_only_for_its_owner():
    with configure():
        span = trace.get_tracer("test").start_span("open")
        until(rows, 1)
        folder = lock_path(store_path(), "")
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        span.end()
