"""Exceptions as events: type, message and stack, without content that must not leave."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from nodespan.spans.exceptions import CAPTURE_MESSAGES, exception_attributes
from nodespan.spans.redaction import MAX_TEXT_BYTES, REMOVED, set_redaction

CANARY = "jane.roe@example.org"


@pytest.fixture(autouse=True)
def _no_redaction_afterwards():
    yield
    set_redaction(None)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_type_message_and_stack_are_those_of_opentelemetry():
    attributes = exception_attributes(raised(KeyError("name")))
    assert attributes["exception.type"] == "KeyError"
    assert attributes["exception.message"] == "'name'"
    assert attributes["exception.stacktrace"].startswith("Traceback (most recent call last):")
    assert "raise error" in attributes["exception.stacktrace"]
    assert attributes["exception.stacktrace"].rstrip().endswith("KeyError: 'name'")


def test_the_chain_of_causes_is_in_the_stack():
    try:
        try:
            raise ValueError("inner")
        except ValueError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as error:
        stack = exception_attributes(error)["exception.stacktrace"]
    assert stack.index("ValueError: inner") < stack.index("direct cause") < stack.index("RuntimeError: outer")


def test_messages_can_be_left_out_and_are_then_nowhere(monkeypatch):
    monkeypatch.setenv(CAPTURE_MESSAGES, "false")
    attributes = exception_attributes(raised(ValueError(CANARY)))
    assert CANARY not in repr(attributes)
    assert set(attributes) == {"exception.type", "exception.stacktrace"}
    assert "test_exceptions.py" in attributes["exception.stacktrace"]


def test_pydantics_error_shows_where_and_why_and_not_what_was_given():
    class Person(BaseModel):
        age: int

    with pytest.raises(ValueError, match="age") as caught:
        Person(age=CANARY)  # pyright: ignore[reportArgumentType]
    attributes = exception_attributes(caught.value)
    assert CANARY not in repr(attributes)
    assert attributes["exception.message"] == "age: int_parsing"


def test_redaction_reaches_message_and_stack():
    set_redaction(lambda text: text.replace(CANARY, "***"))
    attributes = exception_attributes(raised(ValueError(f"cannot write to {CANARY}")))
    assert CANARY not in repr(attributes)
    assert attributes["exception.message"] == "cannot write to ***"


def test_a_redaction_hook_that_raises_removes_the_value():
    def broken(text: str) -> str:
        raise RuntimeError(text)

    set_redaction(broken)
    attributes = exception_attributes(raised(ValueError(CANARY)))
    assert CANARY not in repr(attributes)
    assert attributes["exception.message"] == REMOVED


def test_a_long_message_is_cut():
    attributes = exception_attributes(raised(ValueError("x" * 1_000_000)))
    assert all(len(value.encode()) <= MAX_TEXT_BYTES for value in attributes.values())


def test_an_exception_that_cannot_be_shown_still_has_its_type():
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert exception_attributes(raised(Hostile()))["exception.type"].endswith("Hostile")


def test_a_circle_of_causes_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "second" in exception_attributes(first)["exception.stacktrace"]
