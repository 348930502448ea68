"""Secrets in content that was captured get no further than the collector."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from stack_local import LocalStack, Ports
from stack_programs import CONFIGS

from nodespan.telemetry import configure
from stack_backends import Jaeger, Prometheus, eventually, get

E_MAIL = "jane.canary@example.org"
CARD = "4111 1111 1111 1234"
API_KEY = "sk-canary-Zm9vYmFyYmF6cXV4MTIzNDU2"
CANARY_HEADER = "of no known form, canary-header"
SECRETS = (E_MAIL, CARD, API_KEY)
LIKE_A_CARD = 0.4111222233334444  # a time, and no card
ID_LIKE_A_CARD = "41112222-3333-4444-8555-666677778888"
PROMPT = f"Pelicans write to {E_MAIL}, pay with {CARD} and log in with {API_KEY}."
MESSAGES = json.dumps([{"role": "user", "parts": [{"type": "text", "content": PROMPT}]}])


def send(endpoint: str, service: str) -> str:
    """A span with the prompt wherever a span or a log record can hold a text; returns its trace id."""
    with configure(service_name=service, endpoint=endpoint) as telemetry:
        with trace.get_tracer("privacy").start_as_current_span("chat canary", record_exception=False) as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.input.messages", MESSAGES)
            span.set_attribute("gen_ai.tool.call.arguments", [PROMPT, PROMPT])
            span.set_attribute("user.note", PROMPT)
            span.set_attribute("http.request.header.authorization", CANARY_HEADER)
            span.record_exception(ValueError(PROMPT))
            span.set_status(trace.StatusCode.ERROR, PROMPT)
            span.set_attribute("nodespan.decode_s", LIKE_A_CARD)
            span.set_attribute("langgraph.task.id", ID_LIKE_A_CARD)
            logging.getLogger("nodespan").warning("a log record: %s", PROMPT)
        report = telemetry.force_flush(60)
    assert report
    return f"{span.get_span_context().trace_id:032x}"


def text_of_trace(address: str, trace_id: str) -> str:
    found = eventually(lambda: get(f"{address}/api/v3/traces/{trace_id}"), lambda answer: answer, "the trace in Jaeger")
    return json.dumps(found)


def secrets_in(text: str) -> list[str]:
    return [secret for secret in (*SECRETS, CANARY_HEADER) if secret in text]


def files_with_secrets(folder: Path) -> list[str]:
    """Everything that the stack has written: logs, queues on disk, data bases."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if secrets_in(written_to(path).decode("latin-1"))]


def written_to(path: Path) -> bytes:
    """A file without its holes: data bases reserve gigabytes that they have not written to."""
    parts = []
    with path.open("rb", buffering=0) as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # only a hole, or no data, remains
                    raise
                return b"".join(parts)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            file.seek(start)
            parts.append(file.read(end - start))


def test_secrets_in_captured_content_are_not_exported(
    stack: LocalStack, jaeger: Jaeger, prometheus: Prometheus
) -> None:
    trace_id = send(stack.endpoint, "privacy")
    text = text_of_trace(stack.jaeger, trace_id)
    [span] = jaeger.trace(trace_id)
    assert "Pelicans write to ****" in span.attributes["gen_ai.input.messages"]  # masked, not removed
    assert "Pelicans write to ****" in span.status_message
    assert span.attributes["nodespan.decode_s"] == LIKE_A_CARD
    assert span.attributes["langgraph.task.id"] == ID_LIKE_A_CARD
    assert "status.message" not in span.attributes
    assert secrets_in(text) == []

    assert_nowhere(stack, prometheus, "privacy")


def test_secrets_in_the_prompt_of_a_real_run_are_not_exported(
    stack: LocalStack, jaeger: Jaeger, prometheus: Prometheus, run_demo: Callable[..., str]
) -> None:
    trace_id = run_demo(
        "--prompt",
        PROMPT,
        OTEL_SERVICE_NAME="canary",
        OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="SPAN_AND_EVENT",
    )
    eventually(
        lambda: [span for span in jaeger.trace(trace_id) if span.name.startswith("chat")],
        lambda chats: len(chats) == 4,
        "the demo's four model calls",
    )
    asked = [span.attributes.get("gen_ai.input.messages", "") for span in jaeger.trace(trace_id)]
    masked = "Answer in two sentences: Pelicans write to ****, pay with **** and log in with ****."
    assert sum(masked in content for content in asked) == 1
    assert secrets_in(text_of_trace(stack.jaeger, trace_id)) == []
    assert_nowhere(stack, prometheus, "canary")


def assert_nowhere(stack: LocalStack, prometheus: Prometheus, service: str) -> None:
    """Neither in Prometheus nor in anything that the stack has written, once everything of that service is there."""
    eventually(
        lambda: prometheus.query(f'traces_span_metrics_calls_total{{service_name="{service}"}}'),
        lambda found: found,
        "the span's metrics in Prometheus",
    )
    eventually(
        lambda: prometheus.query("otelcol_receiver_accepted_log_records_total"),
        lambda found: sum(value for _, value in found) > 0,
        "log records at the collector",
    )
    assert secrets_in(json.dumps(prometheus.series('{__name__=~".+"}'))) == []
    assert [name for name in ("collector", "jaeger", "prometheus") if secrets_in(stack.log(name))] == []
    assert files_with_secrets(stack.folder) == []
    written = [written_to(path) for path in (stack.folder / "jaeger").rglob("*") if path.is_file()]
    assert any(b"Pelicans write to ****" in data for data in written)  # the search covers the files with content


@pytest.fixture
def without_content(programs: dict[str, Path], tmp_path: Path) -> Iterator[LocalStack]:
    """A Jaeger, and a collector with the overlay that drops content."""
    stack = LocalStack(
        programs, tmp_path / "stack", Ports.free(), [CONFIGS / "overlays" / "drop-content.yaml"], interval="1s"
    )
    try:
        stack.start("jaeger")
        stack.start("collector")
        yield stack
    finally:
        stack.stop()


def test_the_overlay_removes_all_content(without_content: LocalStack) -> None:
    trace_id = send(without_content.endpoint, "no-content")
    text = text_of_trace(without_content.jaeger, trace_id)
    [span] = Jaeger(without_content.jaeger).trace(trace_id)
    assert {"gen_ai.operation.name", "user.note"} <= set(span.attributes)
    assert {name for name in span.attributes if name.startswith("gen_ai.")} == {"gen_ai.operation.name"}
    assert secrets_in(text) == []


def test_the_search_for_secrets_finds_one_in_a_sparse_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "file").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"\xff\x00" + PROMPT.encode())
    (tmp_path / "folder" / "empty").touch()
    assert files_with_secrets(tmp_path) == ["folder/file"]
    assert secrets_in(json.dumps({"text": PROMPT})) == [*SECRETS]
