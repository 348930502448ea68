"""A span scope: starts, is current around the work only, records an error once, ends exactly once."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider

from nodespan import semconv
from nodespan.spans.scope import SpanScope, current_scope, get_tracer
from nodespan.testing import span_tree


@pytest.fixture
def tracer(tracer_provider):
    return get_tracer(tracer_provider)


def test_the_span_is_current_around_the_work_and_not_after_it(tracer, exporter):
    scope = SpanScope(tracer, "work")
    with scope.attached():
        assert trace.get_current_span() is scope.span
        assert current_scope() is scope
    assert current_scope() is None
    assert not trace.get_current_span().get_span_context().is_valid
    scope.finish()
    assert span_tree(exporter, semconv.STATUS) == [{"name": "work", "attributes": {semconv.STATUS: "ok"}}]


def test_a_scope_started_inside_another_is_its_child_and_shares_its_directory(tracer, exporter):
    outer = SpanScope(tracer, "outer")
    with outer.attached():
        inner = SpanScope(tracer, "inner")
    assert inner.parent is outer
    assert inner.directory is outer.directory
    inner.finish()
    outer.finish()
    assert span_tree(exporter) == [{"name": "outer", "children": [{"name": "inner"}]}]


def test_only_the_first_finish_ends_the_span(tracer, exporter, caplog):
    scope = SpanScope(tracer, "work")
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(scope.finish())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert len(exporter.get_finished_spans()) == 1
    assert not caplog.records


def test_an_error_is_recorded_on_the_innermost_span_and_marks_its_ancestors(tracer, exporter):
    outer = SpanScope(tracer, "outer")
    with outer.attached():
        inner = SpanScope(tracer, "inner")
    error = ValueError("broken")
    inner.fail(error)
    outer.fail(error)
    assert span_tree(exporter, semconv.ERROR_TYPE) == [
        {
            "name": "outer",
            "status": "ERROR",
            "attributes": {"error.type": "ValueError"},
            "children": [
                {
                    "name": "inner",
                    "status": "ERROR",
                    "attributes": {"error.type": "ValueError"},
                    "events": ["exception"],
                }
            ],
        }
    ]


def test_an_error_raised_anew_by_the_parent_is_recorded_there_too(tracer, exporter):
    outer = SpanScope(tracer, "outer")
    with outer.attached():
        inner = SpanScope(tracer, "inner")
    inner.fail(ValueError("first"))
    outer.fail(RuntimeError("second"))
    assert [len(span.events) for span in exporter.get_finished_spans()] == [1, 1]


def test_a_scope_that_is_dropped_ends_its_span_as_cancelled(tracer, exporter):
    scope = SpanScope(tracer, "abandoned")
    del scope
    gc.collect()
    assert span_tree(exporter, semconv.STATUS) == [{"name": "abandoned", "attributes": {semconv.STATUS: "cancelled"}}]


def test_a_task_whose_loop_was_closed_leaves_no_context_attached_and_logs_no_error(tracer, caplog):
    scope = SpanScope(tracer, "work")

    async def body() -> None:
        with scope.attached():
            await asyncio.sleep(3600)  # until its loop is closed

    loop = asyncio.new_event_loop()
    task = loop.create_task(body())
    task._log_destroy_pending = False  # that the task is destroyed is the point of this test
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task
    gc.collect()
    scope.finish("cancelled")
    assert current_scope() is None
    assert "Failed to detach" not in caplog.text


@pytest.mark.parametrize("provider", [NoOpTracerProvider(), None], ids=["no-op", "none"])
def test_without_an_sdk_provider_scopes_work_and_no_span_is_created(provider, exporter):
    scope = SpanScope(get_tracer(provider), "nothing", {"a": 1})
    with scope.attached():
        scope.set({"b": 2})
        scope.event("c", {})
        scope.fail(ValueError("x"))
    assert not scope.is_open
    assert exporter.get_finished_spans() == ()


def test_children_of_a_scope_whose_tracer_fails_still_run(monkeypatch, tracer):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")

    class Broken:
        def start_span(self, *_args, **_kwargs):
            raise RuntimeError("no span for you")

    scope = SpanScope(Broken(), "work")  # pyright: ignore[reportArgumentType]
    with scope.attached():
        assert current_scope() is scope
    assert scope.finish()


def test_attributes_of_an_unsampled_span_are_not_read():
    looked_at = []

    class Costly:
        def __repr__(self):
            looked_at.append(self)
            return "costly"

    scope = SpanScope(get_tracer(TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)), "work")
    scope.set({"value": Costly()})
    scope.event("happened", {"value": Costly()})
    scope.finish()
    assert looked_at == []
