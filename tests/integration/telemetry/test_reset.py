"""``nodespan.testing.reset`` ends what a process has configured and instrumented."""

from __future__ import annotations

import logging

from langchain_core.language_models.chat_models import BaseChatModel

import nodespan
from nodespan.instrumentation import instrument
from nodespan.spans.announced import is_due
from nodespan.spans.content import CAPTURE, capture
from nodespan.spans.fingerprint import fingerprint
from nodespan.spans.guard import report
from nodespan.spans.log import CODE_FIELD
from nodespan.spans.redaction import redacted
from nodespan.telemetry import Telemetry
from nodespan.testing import reset
from small_graphs import chain


def test_telemetry_is_shut_down_and_can_be_configured_again():
    first = nodespan.configure(service_name="one")
    reset()
    assert Telemetry.active() is None
    assert nodespan.configure(service_name="two") is not first


def test_libraries_are_no_longer_instrumented(tracer_provider, exporter):
    instrument(tracer_provider=tracer_provider)
    reset()
    chain(lambda state: {"seen": [1]}).invoke({"seen": []})
    assert exporter.get_finished_spans() == ()


def test_redaction_keys_and_announced_graphs_are_cleared():
    with nodespan.configure(redact=lambda text: text.upper()):
        assert is_due("hash")
        reset()
    assert is_due("hash")
    assert redacted("a") == "a"
    assert fingerprint(1) == "int 1 -"


def test_warnings_that_are_logged_once_are_logged_again(monkeypatch, caplog):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv(CAPTURE, "true")
    monkeypatch.delattr(BaseChatModel, "_agenerate_with_cache")

    def codes() -> list[str]:
        caplog.clear()
        for _ in range(2):
            report("tie a shoe", ValueError("knot"))
            capture()
            instrument(langgraph=False, llama_cpp=False, openai=False)
        return [getattr(record, CODE_FIELD) for record in caplog.records if record.levelno == logging.WARNING]

    once = ["internal.failed", "configure.invalid_variable", "instrumentation.missing"]
    assert codes() == once
    assert codes() == []
    reset()
    assert codes() == once
