"""Processes that fork, share a store, exit while the endpoint is down, or are killed."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from nodespan.delivery.destination import Destination
from nodespan.delivery.flush import flush_store
from nodespan.delivery.sender_lock import SenderLock
from nodespan.otlp import decode_batch
from nodespan.store import StoreReader, load_secret, open_store, store_path
from nodespan.telemetry.settings import Settings
from otlp_receiver import OtlpReceiver

PATIENCE_S = 60


def stored() -> list[str]:
    return sorted(span.name for data, _ in StoreReader(open_store()).iter_batches() for span in decode_batch(data))


def flush(endpoint: str) -> bool:
    destination = Settings(endpoint=endpoint).destination()
    return not flush_store(destination, timeout_s=PATIENCE_S, progress=lambda *_: None).waiting


@pytest.fixture(autouse=True)
def only_traces(monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")


@pytest.fixture
def closed_port():
    """An endpoint without a listener."""
    with OtlpReceiver() as receiver:
        pass
    return receiver


LEAVES_S = 2.5
"""Two seconds, as documented, and half a second more for a busy machine."""

WORKING = """
import sys, time
from opentelemetry import trace
import nodespan

telemetry = nodespan.configure(service_name="child", endpoint=sys.argv[1] or None)
tracer = trace.get_tracer("test")
for index in range(int(sys.argv[2])):
    with tracer.start_as_current_span(f"{sys.argv[3]} {index}"):
        pass
print(time.time(), flush=True)
"""


@pytest.mark.parametrize("is_mute", [False, pytest.param(True, marks=pytest.mark.extended)])
def test_an_exit_while_offline_takes_two_seconds_and_spans_are_sent_later(
    is_mute, closed_port, run_python, figures, tmp_path
):
    """No listener; or one that accepts the connection and never answers. Metrics and logs wait for it too.

    The SDK alone would try for as long as OTEL_EXPORTER_OTLP_TIMEOUT. The machine may have other things to do, so that
    the quickest of three counts; the end of the process itself is in it.
    """
    names = [f"left {index}" for index in range(3_000)]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}" if is_mute else closed_port.endpoint

        def leave(**more):
            done = run_python(WORKING, endpoint, "3000", "left", OTEL_EXPORTER_OTLP_TIMEOUT="30", **more)
            return done, time.time() - float(done.stdout)

        done, took_s = leave()
        again = (leave(NODESPAN_STORE=str(tmp_path / f"again{number}.db"))[1] for number in range(2))
        took_s = took_s if took_s < LEAVES_S else min(took_s, *again)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("spans were not exported to") == 1, done.stderr
    assert done.stderr.count("Cannot export spans") <= 1
    assert "Traceback" not in done.stderr
    assert took_s < LEAVES_S
    port = int(endpoint.rpartition(":")[2])
    with OtlpReceiver(port=port) as receiver:
        assert flush(endpoint)
        assert figures(names, receiver.spans, took_s=round(took_s, 2))["lost"] == 0


def test_spans_left_by_a_process_are_sent_by_the_next(closed_port, run_python, figures):
    assert run_python(WORKING, closed_port.endpoint, "40", "before").returncode == 0
    with OtlpReceiver(port=closed_port._port) as receiver:
        assert run_python(WORKING, receiver.endpoint, "1", "after").returncode == 0
        names = [f"before {index}" for index in range(40)] + ["after 0"]
        assert figures(names, receiver.spans)["lost"] == 0


def test_spans_of_a_process_without_an_endpoint_are_stored_at_its_end(run_python):
    assert run_python(WORKING, "", "1000", "kept").returncode == 0
    assert len(stored()) == 1000


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
import nodespan
import nodespan.delivery.senders.otlp_http, requests  # so that a child has them
from opentelemetry import trace

rounds, seed, endpoint = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
nodespan.configure  # imports the modules of its first use
chance = random.Random(seed)
for number in range(rounds):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        telemetry = nodespan.configure(service_name="killed", endpoint=endpoint)
        tracer = trace.get_tracer("test")
        index = 0
        while True:
            for _ in range(7):
                tracer.start_span(f"{number} {index}").end()
                index += 1
            if index % 3 == 0:
                os.write(into, telemetry.force_flush(0).stored.to_bytes(4, "big"))
    os.close(into)
    time.sleep(chance.uniform(0.02, 0.25))  # it is killed at a random moment
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    output = b""
    while more := os.read(out, 1 << 16):
        output += more
    os.close(out)
    whole = len(output) // 4 * 4
    print(number, int.from_bytes(output[whole - 4 : whole], "big") if whole else 0, flush=True)
"""


@pytest.mark.extended
def test_all_spans_reported_as_stored_are_delivered_after_a_hundred_kills(run_python, figures):
    """At least once. A child prints the number of its stored spans; it is killed at any moment, also while it sends."""
    with OtlpReceiver() as receiver:
        none = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
        done = run_python(KILLED_AGAIN_AND_AGAIN, "100", "20261125", receiver.endpoint, **none)
        assert done.returncode == 0, done.stderr
        promised = [line.split() for line in done.stdout.splitlines()]
        names = [f"{number} {index}" for number, count in promised for index in range(int(count))]
        assert len(promised) == 100
        assert len(names) > 100
        assert flush(receiver.endpoint)
        found = figures(names, receiver.spans, kills=100)
    assert found["lost"] == 0
    assert sqlite3.connect(store_path()).execute("PRAGMA integrity_check").fetchone() == ("ok",)


FORKING = """
import os, sys, threading
from opentelemetry import trace
import nodespan

def child_makes(telemetry, name):
    tracer = trace.get_tracer("test")
    for index in range(20):
        with tracer.start_as_current_span(f"{name} {index}"):
            pass
    report = telemetry.force_flush(30)
    return 0 if report and report.ended == 20 else 1

def fork(work):
    child = os.fork()
    if child == 0:
        try:
            os._exit(work())
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(2)
    return child

endpoint = sys.argv[1] or None
children = [fork(lambda: child_makes(nodespan.configure("forking", endpoint=endpoint), "before"))]
telemetry = nodespan.configure("forking", endpoint=endpoint)
children += [fork(lambda: child_makes(telemetry, "unused"))]
tracer = trace.get_tracer("test")
stop = threading.Event()
made = 0

def work():
    global made
    while not stop.wait(0.0005):
        with tracer.start_as_current_span(f"parent {made}"):
            made += 1

def flush():
    while not stop.is_set():
        telemetry.force_flush(0.01)

threads = [threading.Thread(target=work), threading.Thread(target=flush)]
for thread in threads:
    thread.start()
for number in range(16):
    children.append(fork(lambda: child_makes(telemetry, f"during {number}")))
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
for thread in threads:
    thread.join()
children = [fork(lambda: child_makes(telemetry, "after"))]
codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
report = telemetry.force_flush(30)
print(sum(codes), bool(report), made)
"""


@pytest.mark.parametrize("protocol", ["", "http/protobuf"])
def test_forks_before_after_and_during_writes_lose_nothing(protocol, run_python, figures):
    with OtlpReceiver(protocol or "http/protobuf") as receiver:
        done = run_python(FORKING, receiver.endpoint if protocol else "", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        failed, is_whole, made = done.stdout.split()
        assert (failed, is_whole) == ("0", "True"), done.stderr
        children = ["before", "unused", *(f"during {number}" for number in range(16)), "after"]
        names = [f"{child} {index}" for child in children for index in range(20)]
        names += [f"parent {index}" for index in range(int(made))]
        assert set(stored()) == set(names)
        if protocol:
            assert figures(names, receiver.spans, forks=19)["lost"] == 0


POOL = """
import importlib, sys
from opentelemetry import trace
import nodespan

def work(index):
    with trace.get_tracer("test").start_as_current_span(f"pool {index}"):
        pass

telemetry = nodespan.configure("pool")
with trace.get_tracer("test").start_as_current_span("before the pool"):
    pass
multiprocessing = importlib.import_module(sys.argv[1])
processes = [multiprocessing.get_context("fork").Process(target=work, args=(index,)) for index in range(4)]
for process in processes:
    process.start()
for process in processes:
    process.join()
"""


@pytest.mark.parametrize("package", ["multiprocessing", "billiard"])  # Celery's processes are billiard's
def test_a_child_of_multiprocessing_stores_its_spans_before_it_exits(package, run_python):
    """The process ends at once after its work, without atexit."""
    done = run_python(POOL, package)
    assert done.returncode == 0, done.stderr
    assert stored() == ["before the pool", *(f"pool {index}" for index in range(4))]


LEFT_BY_A_POOL = """
import sys
from multiprocessing import get_context
from opentelemetry import trace
import nodespan

def work(index):
    with trace.get_tracer("test").start_as_current_span(f"pool {index}"):
        pass
    if sys.argv[1] == "flush":
        nodespan.configure("pool").force_flush(20)

nodespan.configure("pool")
pool = get_context("fork").Pool(2)
pool.map(work, range(4))
if sys.argv[1] == "flush":
    pool.terminate()
else:
    pool.close()
pool.join()
"""


@pytest.mark.parametrize("end", ["close", "flush"])
def test_a_pool_that_is_closed_or_flushed_stores_its_spans(end, run_python):
    done = run_python(LEFT_BY_A_POOL, end)
    assert done.returncode == 0, done.stderr
    assert sorted(stored()) == [f"pool {index}" for index in range(4)]


SHARING = """
import os, sys, time
from opentelemetry import trace
import nodespan

telemetry = nodespan.configure(service_name="sharing", endpoint=sys.argv[1])
tracer = trace.get_tracer("test")
print(os.getpid(), flush=True)
for index in range(100):
    with tracer.start_as_current_span(f"{os.getpid()} {index}"):
        pass
    time.sleep(0.01)  # it can be killed between two spans
telemetry.force_flush(0)
print("stored", flush=True)
sys.stdin.readline()
report = telemetry.force_flush(40)
sys.exit(0 if report else 3)
"""


def sending_process(endpoint: str) -> int:
    identity = Destination(f"{endpoint}/v1/traces").identity(load_secret(store_path()))
    deadline = time.monotonic() + PATIENCE_S
    while (holder := SenderLock(store_path(), identity).holder()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return holder.pid if holder is not None else 0


def test_one_of_eight_processes_sends_and_another_takes_over_when_it_is_killed(figures):
    with OtlpReceiver() as receiver:
        receiver.delay_s = 0.3
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SHARING, receiver.endpoint],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(8)
        ]
        try:
            pids = [int(process.stdout.readline()) for process in processes]
            assert [process.stdout.readline() for process in processes] == ["stored\n"] * 8
            holder = sending_process(receiver.endpoint)
            assert holder in pids
            os.kill(holder, signal.SIGKILL)
            killed_at = time.monotonic()
            receiver.delay_s = 0.0
            for process, pid in zip(processes, pids, strict=True):
                if pid != holder:
                    process.stdin.write("go on\n")
                    process.stdin.flush()
            codes = {pid: process.wait(PATIENCE_S) for process, pid in zip(processes, pids, strict=True)}
            took_s = time.monotonic() - killed_at
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert codes == {pid: -signal.SIGKILL if pid == holder else 0 for pid in pids}
        names = [f"{pid} {index}" for pid in pids for index in range(100)]
        found = figures(names, receiver.spans, processes=8, seconds_after_the_kill=round(took_s, 1))
    assert found["lost"] == 0
