"""The commands on a store that a program has filled: what they print, as lines and as JSON, and their exit codes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.json_format import Parse
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import Link, Status, StatusCode

from nodespan import semconv
from nodespan.cli import _doctor
from nodespan.store import store_path
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver


def make_run(name: str, service: str = "app", *, failed: bool = False, seconds: float = 1.0, at_ns: int = 0) -> str:
    """One trace of three spans, as ComposerService and PipelineNode name them; its id."""
    start = at_ns or time.time_ns()
    end = start + round(seconds * 1e9)
    with configure(service_name=service) as telemetry:
        tracer = trace.get_tracer("test")
        run = tracer.start_span(
            f"invoke_workflow {name}",
            attributes={
                semconv.WORKFLOW_NAME: name,
                semconv.CONVERSATION_ID: f"about {name}",
                semconv.USER_ID: f"{name} user",
                semconv.TAGS: ["all", name],
                f"{semconv.METADATA_PREFIX}plan": f"{name}=plan",
            },
            start_time=start,
        )
        inside = trace.set_span_in_context(run)
        node = tracer.start_span(
            f"invoke_node {name}-node",
            inside,
            attributes={semconv.NODE: f"{name}-node", semconv.MIRROR_KEYS["node_name"]: f"{name} shown"},
            start_time=start + 1000,
        )
        chat = tracer.start_span(
            "chat",
            trace.set_span_in_context(node),
            attributes={semconv.REQUEST_MODEL: f"{name}-model", "tags": ["a", "é"], "size": 2**40},
            links=[Link(run.get_span_context())],
            start_time=start + 2000,
        )
        if failed:
            node.set_status(Status(StatusCode.ERROR, "no"))
        for span in (chat, node, run):
            span.end(end)
        assert telemetry.force_flush()
    return format(run.get_span_context().trace_id, "032x")


def found(cli, *options: str) -> list[str]:
    assert cli("traces", "--json", *options).code == 0, cli.err
    return [entry["trace_id"] for entry in cli.json]


def test_each_filter_finds_the_traces_that_it_names(cli):
    now = time.time_ns()
    old = make_run("old", "first", seconds=5.0, at_ns=now - 7200 * 10**9)
    new = make_run("new", "second", failed=True, at_ns=now - 60 * 10**9)
    assert found(cli) == [new, old]
    assert found(cli, "--limit", "1") == [new]
    assert found(cli, "--service", "first") == [old]
    assert found(cli, "--workflow", "new") == [new]
    assert found(cli, "--node", "old-node") == [old]
    assert found(cli, "--node", "old shown") == [old]
    assert found(cli, "--model", "new-model") == [new]
    assert found(cli, "--conversation", "about old") == [old]
    assert found(cli, "--user", "new user") == [new]
    assert found(cli, "--tag", "all") == [new, old]
    assert found(cli, "--tag", "all", "--tag", "old") == [old]
    assert found(cli, "--meta", "plan=new=plan") == [new]
    assert cli("traces", "--meta", "plan").code == 1
    assert "KEY=VALUE" in cli.err
    assert found(cli, "--min-duration", "4") == [old]
    assert found(cli, "--error") == [new]
    assert found(cli, "--since", "1h") == [new]
    assert found(cli, "--since", datetime.fromtimestamp(now / 1e9 - 10_000, UTC).isoformat()) == [new, old]
    assert found(cli, "--node", "new-node", "--model", "new-model", "--error", "--service", "second") == [new]
    assert found(cli, "--node", "old-node", "--model", "new-model") == []
    assert found(cli, "--service", "first", "--since", "1h") == []
    assert found(cli, "--service", "first", "--min-duration", "6") == []


def test_traces_are_listed_one_per_line(cli):
    trace_id = make_run("plan", failed=True)
    assert cli("traces").code == 0
    (line,) = [line for line in cli.out.splitlines() if trace_id[:8] in line]
    assert [word for word in ("1.0 s", "3", "1", "app", "invoke_workflow plan") if word not in line] == []
    assert cli("traces", "--node", "absent").out == f"No trace in {store_path()} matches the options.\n"


def test_an_empty_store_is_reported_with_a_remedy(cli):
    assert cli("traces").out == f"No trace in {store_path()}. Create one: nodespan demo\n"


def test_a_trace_is_shown_by_a_prefix_of_its_id(cli):
    trace_id = make_run("plan")
    assert cli("trace", trace_id[:6]).code == 0
    assert cli.out.index("invoke_workflow plan") < cli.out.index("invoke_node plan-node") < cli.out.index("chat")
    assert cli("trace", trace_id.upper(), "--json").code == 0
    assert [span["name"] for span in cli.json] == ["invoke_workflow plan", "invoke_node plan-node", "chat"]
    assert {span["trace_id"] for span in cli.json} == {trace_id}


def test_a_missing_trace_is_a_one_line_error_and_exit_code_1(cli):
    assert cli("trace", "00").code == 1
    assert cli.err.startswith("nodespan: No trace in ")
    make_run("one")
    make_run("two")
    assert cli("trace", "").code == 1
    assert "More than one trace" in cli.err


def test_wrong_usage_is_exit_code_2_and_a_bad_time_1(cli):
    assert cli("traces", "--limit", "0").code == 2
    assert cli("traces", "--since", "yesterday").code == 1
    assert "15m" in cli.err


def test_each_line_of_an_export_is_an_otlp_document_and_together_they_have_every_span(cli, tmp_path):
    """The collector's otlpjsonfile receiver unmarshals each line by itself."""
    ids = {make_run("one"), make_run("two")}
    assert cli("export").code == 0
    documents = [json.loads(line) for line in cli.out.splitlines()]
    assert len(documents) == 2
    requests = [Parse(json.dumps(with_base64_ids(each)), ExportTraceServiceRequest()) for each in documents]
    spans = [span for one in requests for r in one.resource_spans for s in r.scope_spans for span in s.spans]
    assert {span.trace_id.hex() for span in spans} == ids
    assert len(spans) == 6
    (chat,) = [span for span in spans if span.name == "chat" and span.trace_id.hex() == min(ids)]
    assert chat.links[0].trace_id.hex() == min(ids)
    assert {a.key: a.value.WhichOneof("value") for a in chat.attributes}["size"] == "int_value"

    wanted = max(ids)
    path = tmp_path / "out.json"
    assert cli("export", wanted[:8], "--output", str(path), "--json").code == 0
    assert cli.json == {"path": str(path), "spans": 3}
    (line,) = path.read_text().splitlines()
    exported = json.loads(line)
    assert {s["traceId"] for r in exported["resourceSpans"] for c in r["scopeSpans"] for s in c["spans"]} == {wanted}
    assert all(
        isinstance(s["kind"], int) for r in exported["resourceSpans"] for c in r["scopeSpans"] for s in c["spans"]
    )


def with_base64_ids(document):
    """Ids in the form of protobuf's JSON, so that its parser can check the other fields."""
    from base64 import b64encode

    def turn(value):
        if isinstance(value, dict):
            return {
                key: b64encode(bytes.fromhex(item)).decode()
                if key in {"traceId", "spanId", "parentSpanId"}
                else turn(item)
                for key, item in value.items()
            }
        return [turn(item) for item in value] if isinstance(value, list) else value

    return turn(document)


def test_export_reports_missing_traces_and_folders(cli, tmp_path):
    assert cli("export", "abc").code == 1
    assert "No trace in" in cli.err
    make_run("one")
    assert cli("export", "--output", str(tmp_path / "absent" / "file")).code == 1
    assert "--output" in cli.err


def test_flush_sends_only_addressed_spans_without_all(cli, monkeypatch):
    make_run("kept here")
    with OtlpReceiver() as receiver:
        pass  # its port is free again
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    with configure():
        trace.get_tracer("test").start_span("while it was down").end()
    assert cli("doctor", "--json").code == 1
    outbox = cli.json["store"]
    (waiting,) = outbox["destinations"]
    assert (outbox["waiting"], waiting["label"], outbox["exported"]) == (1, f"{receiver.endpoint}/v1/traces", 0)
    assert 0 <= outbox["oldest_waiting_s"] < 60
    assert "Connection refused" in waiting["last_error"]

    assert cli("flush", "--timeout", "0.5", "--json").code == 1
    assert (cli.json["sent"], cli.json["waiting"], cli.json["elsewhere"]) == (0, 1, 3)
    assert "Connection refused" in cli.json["error"]

    with OtlpReceiver(port=receiver._port) as again:
        assert cli("flush").code == 0
        assert cli.out.splitlines() == [
            f"1 spans were sent to {again.endpoint}/v1/traces.",
            "3 spans were stored without an endpoint or for another destination. List them: nodespan flush --list",
        ]
        assert [span.name for span in again.spans] == ["while it was down"]
        assert cli("doctor").code == 0
        assert "0 spans wait to be sent" in cli.out
        assert "last error" not in cli.out
        assert cli("flush", "--all", "--json").code == 0
        assert cli.json == {
            "destination": f"{again.endpoint}/v1/traces",
            "sent": 3,
            "lost": {},
            "waiting": 0,
            "elsewhere": 0,
            "error": None,
            "sender_pid": None,
            "sender_idle_s": None,
        }
        assert len(again.spans) == 4


def test_flush_reports_refused_spans(cli, monkeypatch):
    make_run("kept here")
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        receiver.answers.append((400, {}, b"no"))
        assert cli("flush", "--all").code == 0
        assert "3 spans were permanently rejected: 400" in cli.out
        assert cli("doctor", "--json").json["store"]["lost"] == {"400": 3}


def test_flush_without_a_destination_names_the_variable(cli):
    assert cli("flush").code == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in cli.err


def test_doctor_reports_an_unusable_store(cli, monkeypatch):
    monkeypatch.setenv("NODESPAN_STORE", "/proc/nowhere/spans.db")
    assert cli("doctor", "--json").code == 1
    (problem,) = cli.json["problems"]
    assert "/proc/nowhere/spans.db cannot be used" in problem
    assert "in memory" in problem


def test_doctor_reports_a_store_in_memory(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("NODESPAN_STORE", "memory")
    monkeypatch.chdir(tmp_path)
    assert cli("doctor").code == 0
    assert "in memory" in cli.out
    assert list(Path().iterdir()) == []


def test_doctor_runs_the_self_test(cli, monkeypatch):
    assert cli("doctor", "--json").code == 0
    monkeypatch.setattr(_doctor, "self_test", lambda: ["The result of a two-node graph: 1 instead of 2."])
    assert cli("doctor", "--json").code == 1
    (problem,) = cli.json["problems"]
    assert problem.startswith("The result of a two-node graph: 1 instead of 2. An installed library")


def test_verbose_shows_all_data_of_a_span(cli):
    with configure(service_name="app") as telemetry:
        tracer = trace.get_tracer("test")
        with tracer.start_as_current_span("invoke_node a") as span:
            span.set_attribute(semconv.TAGS, ["x", "y"])
            messages = [{"role": "user", "parts": [{"type": "text", "content": "Hello\x1b[31m"}]}]
            span.set_attribute(semconv.INPUT_MESSAGES, json.dumps(messages))
            span.set_attribute(semconv.OUTPUT_MESSAGES, "cut off [")
            span.add_event("exception", {"exception.stacktrace": "Traceback\n  line 1"})
            span.add_link(span.get_span_context(), {"nodespan.link": "resumed_from"})
        assert telemetry.force_flush()
    trace_id = format(span.get_span_context().trace_id, "032x")
    assert cli("trace", trace_id).code == 0
    assert "tags" not in cli.out
    assert cli("trace", trace_id, "-v").code == 0, cli.err
    lines = [line.rstrip() for line in cli.out.splitlines()[2:]]
    assert lines[:3] == ['  nodespan.tags: ["x", "y"]', "  input user: Hello\\x1b[31m", "  output: cut off ["]
    assert lines[3].startswith("  event exception after ")
    assert lines[4:] == [
        "    exception.stacktrace:",
        "      Traceback",
        "        line 1",
        f"  link to span {span.get_span_context().span_id:016x} of trace {trace_id}",
        "    nodespan.link: resumed_from",
    ]
