"""The self-test finds a library in which a name is there, but has another meaning; frozen programs are instrumented."""

from __future__ import annotations

import dataclasses
from collections import deque

import pytest
from langchain_core.language_models import FakeListLLM
from langgraph.pregel import _loop, _retry, _runner
from opentelemetry import trace
from opentelemetry.instrumentation import dependencies

from nodespan.instrumentation import instrument, uninstrument
from nodespan.testing import self_test
from nodespan.workflow import ComposerService
from small_graphs import chain


def test_the_installed_libraries_pass_the_self_test():
    assert self_test() == []


def test_the_self_test_does_not_use_the_global_provider(exporter):
    provider = trace.get_tracer_provider()
    assert self_test() == []
    assert trace.get_tracer_provider() is provider
    assert exporter.get_finished_spans() == ()


@pytest.fixture
def installed():
    """The seams are wrapped for the time of the test, so that a change after that is not wrapped."""
    return ComposerService()


def test_a_runner_that_does_not_call_the_wrapped_function_is_detected(installed, monkeypatch):
    monkeypatch.setattr(_runner, "arun_with_retry", _retry.arun_with_retry)
    differences = self_test()
    assert differences
    assert "spans of a two-node graph" in differences[0]


@pytest.mark.parametrize(
    ("owner", "name", "reported"),
    [
        (_runner, "run_with_retry", "spans"),
        (_retry, "_should_retry_on", "failed attempts"),
        (_retry, "patch_configurable", "failed attempts"),
        (_loop.PregelLoop, "_first", "link of the resumed run"),
        (_loop.PregelLoop, "_suppress_interrupt", "attributes of invoke_workflow"),
    ],
)
def test_a_library_that_no_longer_calls_a_wrapped_function_is_detected(installed, monkeypatch, owner, name, reported):
    monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    assert self_test()[0].startswith(f"The {reported}")


def test_writes_that_are_gone_when_a_task_ends_are_detected(installed, monkeypatch):
    wrapped = _runner.arun_with_retry

    async def arun_with_retry(task, *args, **kwargs):
        return await wrapped(dataclasses.replace(task, writes=deque()), *args, **kwargs)

    monkeypatch.setattr(_runner, "arun_with_retry", arun_with_retry)
    assert any("langgraph.edges" in difference for difference in self_test())


def test_a_library_that_raises_is_reported(monkeypatch):
    def raises(*args, **kwargs):
        raise TypeError("unexpected argument")

    monkeypatch.setattr(_runner, "arun_with_retry", raises)
    assert self_test() == ["The self-test failed: TypeError: unexpected argument"]


def test_a_frozen_program_which_has_no_package_metadata_is_instrumented(monkeypatch, tracer_provider, exporter):
    def absent(name):
        raise dependencies.PackageNotFoundError(name)

    monkeypatch.setattr(dependencies, "version", absent)
    instrument(tracer_provider=tracer_provider)
    try:
        chain(lambda state: {"seen": [FakeListLLM(responses=["x"]).invoke("a")]}).invoke({"seen": []})
    finally:
        uninstrument()
    names = [span.name.split()[0] for span in exporter.get_finished_spans()]
    assert sorted(names) == ["invoke_node", "invoke_workflow", "text_completion"]
