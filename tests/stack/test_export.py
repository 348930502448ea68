"""The output of `nodespan export` is accepted by Jaeger's page as an upload, and by the collector as a request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from stack_local import LocalStack

from stack_backends import Jaeger, eventually

PROGRAM = """
from opentelemetry import trace
import nodespan

with nodespan.configure(service_name="exported"):
    tracer = trace.get_tracer("test")
    with tracer.start_as_current_span("outer", attributes={"tags": ["a", "b"], "size": 2**40, "share": 0.5}) as outer:
        with tracer.start_as_current_span("inner", links=[trace.Link(outer.get_span_context())]):
            pass
    print(format(outer.get_span_context().trace_id, "032x"))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The id of a trace, and the file that it was exported to."""
    place = tmp_path_factory.mktemp("export")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["NODESPAN_STORE"] = str(place / "spans.db")

    def run(*command: str) -> str:
        return subprocess.run(
            [sys.executable, *command], env=environment, check=True, capture_output=True, text=True, timeout=100
        ).stdout.strip()

    trace_id = run("-c", PROGRAM)
    path = place / "out.json"
    run("-c", "from nodespan.cli import main; main()", "export", trace_id[:8], "--output", str(path))
    return trace_id, path


def post(url: str, path: Path) -> str:
    request = urllib.request.Request(url, path.read_bytes(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def test_jaegers_page_accepts_it_as_an_upload(exported: tuple[str, Path], stack: LocalStack) -> None:
    """The page sends the file to this address, and shows the answer."""
    trace_id, path = exported
    (trace,) = json.loads(post(f"{stack.jaeger}/api/transform", path))["data"]
    assert trace["traceID"] == trace_id
    assert {span["operationName"] for span in trace["spans"]} == {"outer", "inner"}
    (inner,) = [span for span in trace["spans"] if span["operationName"] == "inner"]
    assert {reference["traceID"] for reference in inner["references"]} == {trace_id}


def test_the_collector_accepts_it_and_every_span_is_in_jaeger(
    exported: tuple[str, Path], stack: LocalStack, jaeger: Jaeger
) -> None:
    trace_id, path = exported
    post(f"{stack.endpoint}/v1/traces", path)
    spans = eventually(lambda: jaeger.trace(trace_id), lambda found: len(found) == 2, "both spans are in Jaeger")
    (outer,) = [span for span in spans if span.name == "outer"]
    assert (outer.attributes["size"], outer.attributes["share"]) == (2**40, 0.5)
