"""Two programs with different protocols, or of different versions of nodespan, on one store."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nodespan.delivery.flush import flush_store
from nodespan.store import open_store
from nodespan.telemetry.settings import Settings
from otlp_receiver import OtlpReceiver

PROGRAM = """
import json, sys, nodespan
from opentelemetry import trace
name, endpoint, protocol, version, timeout_s = sys.argv[1:]
if version:
    from dataclasses import replace
    from nodespan.store import outbox
    outbox.OUTBOX = replace(outbox.OUTBOX, version=int(version))
with nodespan.configure(name, endpoint=endpoint, protocol=protocol) as telemetry:
    for number in range(5):
        trace.get_tracer("x").start_span(f"{name} {number}").end()
    report = telemetry.force_flush(float(timeout_s))
    print(json.dumps([report.stored, report.exported, str(telemetry.store.path.name)]), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def only_traces(monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")


class Program:
    """A running program. ``report`` is what it has stored and exported, and the name of its store."""

    def __init__(self, name, endpoint, protocol="http/protobuf", *, version="", timeout_s=20.0):
        command = [sys.executable, "-c", PROGRAM, name, endpoint, protocol, version, str(timeout_s)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True)
        self.report = json.loads(self.process.stdout.readline() or "null")

    def end(self):
        """Ends it and returns its warnings."""
        warnings = self.process.communicate("\n", timeout=30)[1]
        assert self.process.returncode == 0, warnings
        return warnings


def test_spans_of_one_protocol_are_not_sent_with_the_other_at_the_same_address():
    with OtlpReceiver() as receiver:
        pass
    port = receiver._port
    over_grpc = Program("over grpc", receiver.endpoint, "grpc", timeout_s=0.2)
    over_grpc.end()
    assert over_grpc.report == [5, 0, "store.db"]
    with OtlpReceiver(port=port) as http:
        over_http = Program("over http", http.endpoint)
        assert "holds 5 spans for other destinations" in over_http.end()
        assert over_http.report == [5, 5, "store.db"]
        assert {span.service_name for span in http.spans} == {"over http"}
    with OtlpReceiver("grpc", port=port) as grpc:
        destination = Settings(endpoint=grpc.endpoint, protocol="grpc").destination()
        assert flush_store(destination, timeout_s=20, progress=lambda *_: None).sent == 5
        assert {span.service_name for span in grpc.spans} == {"over grpc"}


def test_a_program_of_another_version_leaves_the_store_to_the_one_that_made_it():
    with OtlpReceiver() as receiver:
        first = Program("first", receiver.endpoint)
        second = Program("second", receiver.endpoint, version="99")
        assert "another version of nodespan" in second.end()
        assert first.end() == ""
        third = Program("third", receiver.endpoint)
        assert third.end() == ""
        assert [one.report for one in (first, second, third)] == [
            [5, 5, "store.db"],
            [5, 5, "memory"],
            [5, 5, "store.db"],
        ]
        assert sorted(span.service_name for span in receiver.spans) == [*["first"] * 5, *["second"] * 5, *["third"] * 5]
    store = open_store()
    assert store.stats().spans == 10
    store.close()
