"""The guard: internal errors stop there, are logged once and counted_errors every time."""

from __future__ import annotations

import logging

import pytest

from nodespan.spans import guard
from nodespan.spans.guard import Guard


def test_an_internal_error_is_suppressed_logged_once_and_counted_errors_each_time(monkeypatch, caplog, counted_errors):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "0")
    for _ in range(3):
        with Guard("tie a shoe"):
            raise ValueError("knot")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "tie a shoe" in caplog.text
    assert counted_errors() == {"tie a shoe": 3}


def test_two_kinds_of_error_are_both_logged(monkeypatch, caplog, counted_errors):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "0")
    for error in (ValueError, KeyError):
        with Guard("tie a shoe"):
            raise error
    assert len(caplog.records) == 2


def test_internal_errors_are_raised_in_tests(monkeypatch):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "1")
    with pytest.raises(ValueError, match="knot"), Guard("tie a shoe"):
        raise ValueError("knot")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exits_and_interrupts_are_not_suppressed(monkeypatch, kind):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "0")
    with pytest.raises(kind), Guard("tie a shoe"):
        raise kind


def test_an_error_of_a_log_handler_is_not_raised_in_the_application(monkeypatch, counted_errors):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "0")

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    handler = Broken()
    logging.getLogger("nodespan").addHandler(handler)
    try:
        with Guard("tie a shoe"):
            raise ValueError("knot")
    finally:
        logging.getLogger("nodespan").removeHandler(handler)
    assert counted_errors() == {"tie a shoe": 1}
