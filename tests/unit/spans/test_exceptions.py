"""Exceptions as events: type, message and stack, without content that must not leave."""

from __future__ import annotations

import traceback

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


def test_type_message_and_stack_equal_those_of_opentelemetry():
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


def test_without_messages_no_text_of_the_exception_is_recorded(monkeypatch):
    monkeypatch.setenv(CAPTURE_MESSAGES, "false")
    attributes = exception_attributes(raised(ValueError(CANARY)))
    assert CANARY not in repr(attributes)
    assert set(attributes) == {"exception.type", "exception.stacktrace"}
    assert "test_exceptions.py" in attributes["exception.stacktrace"]


def test_an_error_of_pydantic_has_location_and_reason_and_no_input():
    class Person(BaseModel):
        age: int

    with pytest.raises(ValueError, match="age") as caught:
        Person(age=CANARY)  # pyright: ignore[reportArgumentType]
    attributes = exception_attributes(caught.value)
    assert CANARY not in repr(attributes)
    assert attributes["exception.message"] == "age: int_parsing"


def test_message_and_stack_are_redacted():
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


def test_an_exception_whose_str_raises_has_its_type():
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert exception_attributes(raised(Hostile()))["exception.type"].endswith("Hostile")


def test_a_cycle_of_causes_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "second" in exception_attributes(first)["exception.stacktrace"]


def grouped() -> BaseException:
    error = ValueError(CANARY)
    error.add_note("a note of the program")
    try:
        raise ExceptionGroup("several", [raised(error), ExceptionGroup("inner", [raised(KeyError("deep"))])])
    except ExceptionGroup as group:
        return group


def test_a_group_has_its_members_and_their_notes_in_the_stack():
    stack = exception_attributes(grouped())["exception.stacktrace"]
    for text in ("several (2 sub-exceptions)", f"ValueError: {CANARY}", "a note of the program", "KeyError: 'deep'"):
        assert text in stack


def test_without_messages_a_group_has_only_classes(monkeypatch):
    monkeypatch.setenv(CAPTURE_MESSAGES, "false")
    stack = exception_attributes(grouped())["exception.stacktrace"]
    assert CANARY not in stack
    assert "a note" not in stack
    assert "KeyError: " not in stack
    assert "ValueError" in stack
    assert "KeyError" in stack


def deep(n: int) -> int:
    return deep(n + 1)


def test_repeated_frames_are_collapsed_and_the_error_is_the_end_of_the_stack():
    with pytest.raises(RecursionError) as caught:
        deep(0)
    stack = exception_attributes(caught.value)["exception.stacktrace"]
    assert "Previous line repeated" in stack
    assert stack.rstrip().endswith("RecursionError: maximum recursion depth exceeded")


def test_the_middle_of_a_long_stack_is_cut():
    frames = [*(f"def f{n}(): return f{n + 1}()" for n in range(600)), "def f600(): raise ValueError('the cause')"]
    names: dict[str, object] = {}
    exec(compile("\n".join(frames), "a/rather/long/path/of/a/generated/module.py", "exec"), names)
    with pytest.raises(ValueError, match="the cause") as caught:
        names["f0"]()
    stack = exception_attributes(caught.value)["exception.stacktrace"]
    assert len(stack.encode()) <= MAX_TEXT_BYTES
    assert stack.startswith("Traceback (most recent call last):")
    assert "[cut: " in stack
    assert stack.rstrip().endswith("ValueError: the cause")


def test_the_line_of_a_syntax_error_is_shown():
    with pytest.raises(SyntaxError) as caught:
        compile("x = = 1", "m.py", "exec")
    assert "x = = 1" in exception_attributes(caught.value)["exception.stacktrace"]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_an_exception_with_a_failing_message_has_its_type(error):
    class Broken(Exception):
        def __str__(self):
            raise error

    assert "Broken: [str(exception) raised]" in exception_attributes(raised(Broken()))["exception.stacktrace"]


@pytest.mark.parametrize("limit", ["60", "200", "1000", "0"])
def test_with_a_low_limit_of_the_sdk_the_stack_still_ends_with_the_error(monkeypatch, limit):
    """The SDK itself cuts the end."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", limit)

    def deep(n):
        if n == 0:
            raise ValueError("the cause")
        (deep if n % 2 else lambda m: deep(m))(n - 1)

    with pytest.raises(ValueError, match="the cause") as caught:
        deep(60)
    stack = exception_attributes(caught.value)["exception.stacktrace"]
    assert len(stack) <= int(limit)
    assert stack.endswith("ValueError: the cause\n") or limit == "0"


class UnreadableNotes(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("lazy")


class UnreadableMembers(ExceptionGroup):
    @property
    def exceptions(self):
        raise RuntimeError("lazy")


def _with_a_number_as_its_line():
    error = SyntaxError("bad")
    error.text = 5  # pyright: ignore[reportAttributeAccessIssue]
    return error


@pytest.mark.parametrize(
    "error",
    [UnreadableNotes("a"), UnreadableMembers("a", [ValueError("b")]), _with_a_number_as_its_line()],
    ids=["notes", "members", "line"],
)
def test_an_exception_whose_parts_cannot_be_read_keeps_its_type_and_message(error):
    attributes = exception_attributes(raised(error))
    assert attributes["exception.type"].endswith(type(error).__qualname__)
    assert attributes["exception.message"]
    assert "in raised" in attributes["exception.stacktrace"]
    assert type(error).__qualname__ in attributes["exception.stacktrace"]


def test_without_messages_that_of_a_syntax_error_is_omitted(monkeypatch):
    monkeypatch.setenv(CAPTURE_MESSAGES, "false")
    stack = exception_attributes(raised(SyntaxError(CANARY, ("m.py", 1, 1, CANARY))))["exception.stacktrace"]
    assert CANARY not in stack
    assert stack.splitlines()[-1].startswith("SyntaxError")
    assert "m.py" in stack


def test_the_stack_equals_that_of_python_with_suggestions():
    """Suggestions are part of it from Python 3.12 on."""
    with pytest.raises(AttributeError) as caught:
        "text".uper()  # pyright: ignore[reportAttributeAccessIssue]
    printed = "".join(traceback.format_exception(caught.value))
    assert exception_attributes(caught.value)["exception.stacktrace"] == printed
