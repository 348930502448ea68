"""The check that every test runs under fails when its rule is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
INNER = """
import asyncio
import contextvars

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider

import nodespan
from nodespan.spans.scope import SpanScope, get_tracer


def span():
    return TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("lost")


def scope():
    return SpanScope(get_tracer(TracerProvider(shutdown_on_exit=False)), "lost", {})


def attach(span):
    return context.attach(trace.set_span_in_context(span))


def test_bad_span_left_open():
    span()


def test_bad_span_left_current():
    attach(opened := span())
    opened.end()


async def test_bad_span_left_current_in_the_task_of_the_test():
    attach(opened := span())
    opened.end()


def test_bad_detach_in_another_context():
    token = contextvars.copy_context().run(attach, opened := span())
    context.detach(token)
    opened.end()


def test_bad_lean_span_left_open():
    with nodespan.configure():
        get_tracer().start_span("lost")


def test_bad_scope_left_current():
    (opened := scope()).attached().__enter__()
    opened.finish()


def test_good_lean_span_and_scope():
    with nodespan.configure():
        get_tracer().start_span("lost").end()
    with (opened := scope()).attached():
        pass
    opened.finish()


def test_good_span_ended_and_detached():
    token = attach(opened := span())
    context.detach(token)
    opened.end()


def test_good_span_left_open_on_purpose(leaks):
    leaks.forget(span())


async def test_good_context_that_goes_with_its_cancelled_task():
    async def work():
        attach(opened)
        await asyncio.sleep(60)  # until it is cancelled

    opened = span()
    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    opened.end()
"""


def test_a_test_that_leaves_a_span_open_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest((TESTS / "conftest.py").read_text() + "\nimport leaks as _\n_.GRACE_S = 0.05\n")
    pytester.makepyfile(INNER)
    pytester.makeini("[pytest]\nasyncio_mode = auto")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # of all that is installed, one plugin is needed
    result = pytester.runpytest_subprocess("-p", "pytest_asyncio.plugin")

    result.assert_outcomes(passed=10, errors=6)  # a bad test's body passes, and the check after it does not
    result.stdout.no_fnmatch_line("*ERROR at teardown of test_good*")
    result.stdout.fnmatch_lines_random(
        ["*a span is open: lost", "*a span is current: lost", "*in the log: Failed to detach context"]
    )
