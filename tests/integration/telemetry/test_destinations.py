"""Two programs on one store: each span leaves under the credentials of the program that made it, or not at all."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from opentelemetry import trace

from nodespan.delivery.destination import Destination, normalised
from nodespan.delivery.flush import flush_store, list_waiting
from nodespan.delivery.sender_lock import SenderLock
from nodespan.errors import ConfigurationError
from nodespan.store import load_secret, open_store, store_path
from nodespan.store.secret import secret_path
from nodespan.telemetry import configure
from nodespan.telemetry.settings import Settings
from otlp_receiver import OtlpReceiver

PROGRAM = """
import json, sys, nodespan
from opentelemetry import trace
name, endpoint, key, spans = sys.argv[1:5]
headers = {"authorization": key} if key else None
with nodespan.configure(name, endpoint=endpoint or None, headers=headers) as telemetry:
    for number in range(int(spans)):
        trace.get_tracer("x").start_span(f"{name} {number}").end()
    report = telemetry.force_flush(float(sys.argv[5]) if len(sys.argv) > 5 else 20)
print(json.dumps([report.exported, report.waiting, report.dropped]))
"""


@pytest.fixture(autouse=True)
def only_traces(monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")


def run(name: str, endpoint: str, key: str = "", spans: int = 5, timeout_s: float = 20) -> list:
    command = [sys.executable, "-c", PROGRAM, name, endpoint, key, str(spans), str(timeout_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(done.stdout), done.stderr]


def flush(endpoint: str, key: str = "", **options):
    destination = Settings(endpoint=endpoint, headers={"authorization": key} if key else None).destination()
    return flush_store(destination, timeout_s=20, progress=lambda *_: None, **options)


def test_spans_stored_with_one_key_are_not_sent_with_another():
    with OtlpReceiver() as receiver:
        pass  # there is no listener now
    assert run("a", receiver.endpoint, "KEY-OF-A", timeout_s=0.3)[0][:2] == [0, 5]
    with OtlpReceiver(port=receiver._port) as again:
        report, warnings = run("b", again.endpoint, "KEY-OF-B", spans=3)
        assert report == [3, 0, {}]
        assert "holds 5 spans for other destinations" in warnings
        assert {span.service_name for span in again.spans} == {"b"}
        assert {request["authorization"] for request in again.requests} == {"KEY-OF-B"}
        again.spans.clear(), again.requests.clear()
        assert flush(again.endpoint, "KEY-OF-A").sent == 5
        assert {span.service_name for span in again.spans} == {"a"}
        assert {request["authorization"] for request in again.requests} == {"KEY-OF-A"}


def test_two_concurrent_programs_send_with_their_own_keys():
    with OtlpReceiver() as receiver:
        receiver.delay_s = 0.05
        programs = [
            subprocess.Popen([sys.executable, "-c", PROGRAM, name, receiver.endpoint, f"KEY-{name}", "50"])
            for name in ("a", "b")
        ]
        assert [program.wait(60) for program in programs] == [0, 0]
        assert len(receiver.spans) == 100
        by_key: dict[str, set[str]] = {}
        for span, headers in receiver.received:
            by_key.setdefault(headers["authorization"], set()).add(span.service_name)
        assert by_key == {"KEY-a": {"a"}, "KEY-b": {"b"}}


def test_a_program_with_another_endpoint_is_not_starved():
    code = """
import sys, time, nodespan
from opentelemetry import trace
telemetry = nodespan.configure("busy", endpoint=sys.argv[1])
while True:
    trace.get_tracer("x").start_span("busy").end()
    time.sleep(0.02)
"""
    with OtlpReceiver() as busy, OtlpReceiver() as other:
        busy.delay_s = 30.0  # its program has always something to send, and holds its lock
        program = subprocess.Popen([sys.executable, "-c", code, busy.endpoint], stdout=subprocess.PIPE)
        try:
            busy.wait_for(lambda receiver: receiver.arrivals)
            assert run("other", other.endpoint, timeout_s=10)[0] == [5, 0, {}]
        finally:
            program.kill()
            program.communicate()
        assert len(other.spans) == 5


def test_spans_of_a_rotated_key_wait_until_they_are_readdressed():
    with OtlpReceiver() as receiver:
        receiver.answers.extend([(401, {}, b"key expired")] * 20)
        assert run("app", receiver.endpoint, "OLD", timeout_s=1)[0][1] == 5
        receiver.answers.clear()
        assert run("app", receiver.endpoint, "NEW", spans=2)[0] == [2, 0, {}]
        assert len(receiver.spans) == 2
        (waiting,) = list_waiting()
        assert (waiting.spans, waiting.label) == (5, f"{receiver.endpoint}/v1/traces")
        assert waiting.last_error == "401 key expired"
        with pytest.raises(ConfigurationError, match="flush --list"):
            flush(receiver.endpoint, "NEW", source="no such identity")
        assert flush(receiver.endpoint, "NEW", source=waiting.identity[:8]).sent == 5
        assert len(receiver.spans) == 7


@pytest.mark.extended
def test_a_path_that_was_wrong_is_corrected_by_readdressing():
    with OtlpReceiver() as receiver:
        receiver.answers.extend([(404, {}, b"")] * 20)
        assert run("app", f"{receiver.endpoint}/v1/traces", timeout_s=1)[0][1] == 5
        receiver.answers.clear()
        run("app", receiver.endpoint, spans=1)
        (waiting,) = list_waiting()
        assert waiting.label.endswith("/v1/traces/v1/traces")
        assert flush(receiver.endpoint, source=waiting.identity).sent == 5


def test_all_includes_only_spans_stored_without_an_endpoint():
    with OtlpReceiver() as receiver:
        pass
    run("local", "", spans=2)
    run("app", receiver.endpoint, "KEY", spans=3, timeout_s=0.3)
    with OtlpReceiver(port=receiver._port) as again:
        report = flush(again.endpoint, everything=True)
        assert (report.sent, report.elsewhere) == (2, 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://Host:80/", "http://host"),
        ("https://host:443", "HTTPS://host/"),
        ("http://host:4318/", "http://host:4318"),
    ],
)
def test_spellings_of_one_address_are_one_destination(one, other):
    assert normalised(one) == normalised(other)


def test_parts_of_a_destination_s_identity():
    secret = b"s" * 32
    base = Destination("http://h/v1/traces", headers={"authorization": "a", "x-other": "1"})
    same = Destination("http://h/v1/traces", headers={"authorization": "a", "x-other": "2"}, timeout_s=3)
    others = [
        Destination("http://h/v1/traces", headers={"authorization": "b"}),
        Destination("http://h/v1/traces", headers={"authorization": "a", "x-scope-orgid": "t"}),
        Destination("http://h/v1/traces", "grpc", headers={"authorization": "a"}),
        Destination("http://i/v1/traces", headers={"authorization": "a"}),
        Destination("http://h/v1/traces", headers={"authorization": "a"}, client_certificate="c.pem"),
    ]
    assert same.identity(secret) == base.identity(secret)
    identities = [each.identity(secret) for each in (base, *others)] + [base.identity(b"t" * 32)]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("authorization", True), ("cookie", True), ("x-api-key", True), ("x-token", True), ("app-secret", True),
        ("x-tenant", True), ("x-scope-orgid", True), ("x-org-id", True), ("project", True), ("user-agent", False),
    ],
)  # fmt: skip
def test_headers_that_select_an_account_are_part_of_the_identity(name, counts):
    one, other = (Destination("http://h:4318/v1/traces", "http/protobuf", {name: value}) for value in "ab")
    assert (one.identity(b"s" * 32) != other.identity(b"s" * 32)) == counts


def test_no_credential_is_stored_logged_or_shown():
    with OtlpReceiver() as receiver:
        pass
    address = receiver.endpoint.replace("http://", "http://user:s3cr3t@")
    _, warnings = run("app", f"{address}/?token=s3cr3t", "Bearer s3cr3t", timeout_s=0.3)
    assert "s3cr3t" not in warnings
    assert b"s3cr3t" not in b"".join(path.read_bytes() for path in store_path().parent.rglob("*") if path.is_file())
    destination = Settings(endpoint=f"{address}/?token=s3cr3t", headers={"authorization": "s3cr3t"}).destination()
    assert "s3cr3t" not in destination.label
    assert secret_path(store_path()).stat().st_mode & 0o777 == 0o600


def test_user_information_in_the_endpoint_is_sent_as_a_header():
    with OtlpReceiver() as receiver:
        run("app", receiver.endpoint.replace("http://", "http://user:pass@"))
        assert {request["authorization"] for request in receiver.requests} == {"Basic dXNlcjpwYXNz"}


HOLDER = """
import ctypes, os, sys, time
from pathlib import Path
from nodespan.delivery.sender_lock import SenderLock
lock = SenderLock(Path(sys.argv[1]), "identity")
assert lock.acquire()
child = {"none": lambda: 1, "fork": os.fork, "ctypes": ctypes.CDLL(None).fork}[sys.argv[2]]()
if child == 0:
    time.sleep(60)  # until it is killed
    os._exit(0)
print(child, flush=True)
time.sleep(60)  # until it is killed
"""


@pytest.mark.parametrize("how", ["none", "fork", "ctypes"])
def test_the_lock_is_released_when_its_holder_is_killed(tmp_path, how):
    """A forked child does not keep it, for every kind of fork."""
    program = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "s.db"), how], stdout=subprocess.PIPE)
    child = int(program.stdout.readline())
    lock = SenderLock(tmp_path / "s.db", "identity")
    try:
        assert not lock.acquire()
        assert lock.holder().pid == program.pid
        assert not SenderLock(tmp_path / "s.db", "another identity").holder()
        program.kill()
        program.wait()
        started = time.monotonic()
        assert lock.acquire()
        assert time.monotonic() - started < 1
    finally:
        lock.release()
        program.kill()
        if how != "none":
            os.kill(child, signal.SIGKILL)  # before the pipe is read to its end, as the child has it too
        program.communicate()


def test_a_holder_that_makes_no_progress_is_reported():
    store = open_store()
    destination = Destination("http://127.0.0.1:1/v1/traces")
    identity = destination.identity(load_secret(store.path))
    code = HOLDER.replace('"identity"', repr(identity))
    program = subprocess.Popen([sys.executable, "-c", code, str(store.path), "none"], stdout=subprocess.PIPE)
    try:
        program.stdout.readline()
        os.kill(program.pid, signal.SIGSTOP)
        lock = SenderLock(store.path, identity)
        assert not lock.acquire()
        assert not lock.holder().is_stuck
        os.utime(store.path.with_name(f"{store.path.name}.locks") / f"{identity}.lock", (time.time() - 90,) * 2)
        assert lock.holder().is_stuck
        assert lock.holder().pid == program.pid
    finally:
        program.kill()
        program.communicate()
        store.close()


def test_two_objects_of_one_process_exclude_each_other(tmp_path):
    first, second = SenderLock(tmp_path / "s.db", "i"), SenderLock(tmp_path / "s.db", "i")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_the_lock_is_free_while_there_is_nothing_to_send():
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        trace.get_tracer("x").start_span("a").end()
        assert telemetry.force_flush(20).exported == 1
        destination = Settings(endpoint=receiver.endpoint).destination()
        lock = SenderLock(store_path(), destination.identity(load_secret(store_path())))
        deadline = time.monotonic() + 5
        while not (is_free := lock.acquire()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert is_free
        lock.release()


def test_after_a_kill_the_next_program_sends_at_once():
    code = """
import os, signal, sys, nodespan
from opentelemetry import trace
telemetry = nodespan.configure("killed", endpoint=sys.argv[1])
for number in range(20): trace.get_tracer("x").start_span(f"killed {number}").end()
telemetry.force_flush(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with OtlpReceiver() as receiver:
        receiver.delay_s = 2.0
        subprocess.run([sys.executable, "-c", code, receiver.endpoint], check=False)
        receiver.delay_s = 0.0
        started = time.monotonic()
        assert run("next", receiver.endpoint, spans=1)[0][1] == 0
        receiver.wait_for(lambda r: len({span.name for span in r.spans}) == 21, 10)
        assert time.monotonic() - started < 10


def test_spans_of_an_earlier_process_are_sent_before_a_span_ends():
    with OtlpReceiver() as receiver:
        pass
    run("left", receiver.endpoint, timeout_s=0.2)
    with OtlpReceiver(port=receiver._port) as again:
        code = "import sys, time, nodespan\nnodespan.configure('idle', endpoint=sys.argv[1])\ntime.sleep(3)"
        subprocess.run([sys.executable, "-c", code, again.endpoint], check=True)
        assert {span.service_name for span in again.spans} == {"left"}
        assert len(again.spans) == 5


def hold(path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_the_loss_of_a_span_at_a_store_that_is_locked_at_exit_is_reported():
    open_store().stats()
    held = hold(store_path())
    report, warnings = run("app", "", spans=1, timeout_s=0.1)
    held.close()
    assert report == [0, 1, {}]
    assert "1 spans could not be stored" in warnings
    assert "next start" not in warnings


def test_a_flush_returns_in_time_while_the_store_is_locked():
    with configure() as telemetry:
        store = telemetry.store
        store.stats()
        held = hold(store.path)
        trace.get_tracer("x").start_span("a").end()
        time.sleep(0.3)  # the writer waits for the lock as well, for 1 s in all
        started = time.monotonic()
        report = telemetry.force_flush(0.1)
        took_s = time.monotonic() - started
        held.close()
        assert (report.waiting, bool(report)) == (1, False)
        assert took_s < 0.5
        assert telemetry.force_flush(10).waiting == 0
