"""The self-test finds a library in which a name is there, but has another meaning; frozen programs are instrumented."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListLLM
from langgraph.pregel import _retry, _runner
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


def test_retries_decided_by_another_function_are_detected(installed, monkeypatch):
    wrapped = _retry._should_retry_on
    monkeypatch.setattr(_retry, "_should_retry_on", wrapped.__wrapped__)
    assert any("failed attempt" in difference for difference in self_test())


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
