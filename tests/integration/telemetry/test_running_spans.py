"""Open spans: read by other processes while they are open, and lost when their process ends."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

from opentelemetry import trace

from nodespan import semconv
from nodespan.delivery import running_spans
from nodespan.spans.phases import Phase, publish
from nodespan.store import StoreReader, TraceFilter, store_path
from nodespan.store.running import lock_path
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver
from running import PATIENCE_S, Work, rows, states, until


def test_an_open_span_is_running_until_its_end_and_stored_once(reader):
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


def test_a_row_goes_in_the_transaction_that_stores_the_end(reader):
    """Also where the spans that end at once fill several batches: at each moment each span is open or stored."""
    names = {f"span {number}" for number in range(4)}
    with configure() as telemetry:
        tracer = trace.get_tracer("test")
        spans = [tracer.start_span(name) for name in sorted(names)]
        until(rows, 4)
        seen: list[set[str]] = []

        def look(statement: str) -> None:
            if statement.startswith("BEGIN"):
                seen.append(set(states(reader)))

        telemetry.store.database.read(lambda connection: connection.set_trace_callback(look))
        with telemetry._pipelines.delivery._writing:  # the writer finds all of them at once
            for span in spans:
                span.set_attribute("long", "x" * 600_000)
                span.end()
        until(lambda: states(reader), dict.fromkeys(names, "ended"))
        telemetry.store.database.read(lambda connection: connection.set_trace_callback(None))
    assert len(seen) > 1
    assert [each for each in seen if each != names] == []


def test_short_spans_have_no_row(reader):
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


def test_an_open_span_without_changes_has_a_heartbeat_each_second(reader, monkeypatch):
    monkeypatch.setattr("nodespan.store.running.SILENT_AFTER_S", 2.0)
    with configure():
        span = trace.get_tracer("test").start_span("open")
        until(lambda: states(reader), {"open": "running"})
        seen: set[float] = set()
        until_at = time.monotonic() + 3.5
        while time.monotonic() < until_at:
            (found,) = reader.find()
            assert found["state"] == "running"
            process = reader.get(found["trace_id"])["spans"][0]["process"]
            seen.add(process["heartbeat_ns"])
            time.sleep(0.05)  # between two looks: a heartbeat is written each second
        assert 3 <= len(seen) <= 5
        span.end()


def test_the_span_of_a_tool_has_the_phase_tool(reader):
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


def test_spans_open_at_shutdown_leave_no_row_and_no_lock(reader):
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


def test_the_number_of_rows_is_bounded_and_other_spans_are_counted(reader, monkeypatch):
    monkeypatch.setattr(running_spans, "MAX_TRACKED", 50)
    with configure() as telemetry:
        spans = [trace.get_tracer("test").start_span(f"span {number}") for number in range(70)]
        until(rows, 50)
        until(lambda: reader.status()["untracked"], 20)
        for span in spans:
            span.end()
        until(rows, 0)
        assert telemetry.force_flush(PATIENCE_S).stored == 70


def test_spans_that_start_while_the_writer_is_blocked_are_bounded_and_counted(reader, monkeypatch):
    """The oldest are tracked: a run is open for longer than the spans inside it."""
    monkeypatch.setattr(running_spans, "MAX_STARTED", 30)
    with configure() as telemetry:
        with telemetry._pipelines.delivery._writing:
            spans = [trace.get_tracer("test").start_span(f"span {number}") for number in range(100)]
        until(rows, 30)
        until(lambda: reader.status()["untracked"], 70)
        assert set(states(reader)) == {f"span {number}" for number in range(30)}
        for span in spans:
            span.end()
        assert telemetry.force_flush(PATIENCE_S).stored == 100


def test_a_long_attribute_is_only_in_the_ended_span(reader):
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


def test_an_unreferenced_span_is_not_kept_alive(reader, leaks):
    import weakref

    with configure():
        span = trace.get_tracer("test").start_span("open")
        until(lambda: states(reader), {"open": "running"})
        gone = weakref.ref(span)
        leaks.forget(span)
        del span
        gc.collect()
        assert gone() is None


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


def test_a_first_row_is_written_within_twice_the_interval(reader):
    """The writer sleeps while no span is open: a start wakes it."""
    with configure() as telemetry:
        trace.get_tracer("test").start_span("first").end()
        telemetry.force_flush(PATIENCE_S)
        time.sleep(0.5)  # several write intervals, after which the writer sleeps
        found: list[float] = []
        for _ in range(5):
            started = time.monotonic()
            span = trace.get_tracer("test").start_span("open")
            until(rows, 1)
            found.append(time.monotonic() - started)
            span.end()
            until(rows, 0)
        assert min(found) < 0.3, found


def test_the_folder_is_readable_only_by_its_owner():
    with configure():
        span = trace.get_tracer("test").start_span("open")
        until(rows, 1)
        folder = lock_path(store_path(), "")
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        span.end()
