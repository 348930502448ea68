"""Running spans of processes that die, stop, fork or share a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from opentelemetry import trace

from nodespan.delivery import running_spans
from nodespan.store import SqliteStore, StoreReader, TraceFilter, store_path
from nodespan.store.running import lock_path
from nodespan.telemetry import configure
from running import PATIENCE_S, rows, states, until

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


def test_open_spans_of_a_killed_process_are_lost_with_time_and_phase(reader):
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


def test_a_stopped_process_is_silent_until_it_continues(reader, monkeypatch):
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


def test_a_follower_detects_a_dead_process_without_a_write(reader):
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
    time.sleep(600)  # until it is killed
print(pid, flush=True)
time.sleep(600)  # until it is killed
"""


def test_a_dead_process_with_a_forked_child_is_detected(reader):
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


def test_a_changed_clock_does_not_make_a_process_silent_or_lost(reader, monkeypatch):
    with program("one"):
        until(lambda: states(reader), {"chat of one": "running"})
        real = time.time_ns
        for step_s in (86_400, -86_400):
            monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: real() + step_s * 10**9)
            (found,) = reader.find()
            assert (found["state"], found["duration_s"] >= 0) == ("running", True)


def test_a_removed_lock_file_does_not_count_as_a_dead_process(reader):
    with program("one"):
        until(lambda: states(reader), {"chat of one": "running"})
        for file in lock_path(store_path(), "").iterdir():
            file.unlink()
        time.sleep(1.5)  # longer than a heartbeat: the reader has looked for the lock again
        assert states(reader) == {"chat of one": "running"}


def test_rows_of_long_dead_processes_are_removed_by_the_next_start(reader, monkeypatch):
    with program("one") as process:
        until(lambda: states(reader), {"chat of one": "running"})
        process.kill()
    monkeypatch.setattr(running_spans, "_DEAD_KEPT_S", 0.0)
    with configure():
        span = trace.get_tracer("test").start_span("next")
        until(lambda: [found["name"] for found in reader.find()], ["next"])
        assert states(reader) == {"next": "running"}
        assert len(list(lock_path(store_path(), "").iterdir())) == 1
        span.end()


def test_a_copy_has_lost_spans_and_no_running_ones(reader, tmp_path):
    with program("one") as one, program("two"):
        until(lambda: states(reader), {"chat of one": "running", "chat of two": "running"})
        one.kill()
        one.wait()
        reader.copy_to(tmp_path / "copy.db")
    with StoreReader(SqliteStore(tmp_path / "copy.db")) as copy:
        assert states(copy) == {"chat of one": "lost"}
