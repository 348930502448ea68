"""Exceptions as span events: type, message and stack as Python prints them, without input values."""

from __future__ import annotations

import os
import traceback
from typing import Any, Final, cast

from nodespan import semconv
from nodespan.spans.attributes import fact
from nodespan.spans.redaction import safe_text

CAPTURE_MESSAGES: Final = "NODESPAN_CAPTURE_EXCEPTION_MESSAGES"


def error_type(error: BaseException) -> str:
    """The exception's class as ``error.type`` names it: module and qualified name, builtins without module."""
    kind = type(error)
    module = fact(kind, "__module__")
    return kind.__qualname__ if module in (None, "builtins") else f"{module}.{kind.__qualname__}"


def exception_message(error: BaseException) -> str | None:
    """The message as it is recorded: redacted and cut; ``None`` if messages are not captured."""
    return safe_text(_message(error)) if _captures_messages() else None


def exception_attributes(error: BaseException) -> dict[str, str]:
    """Attributes of the ``exception`` event (semantic conventions for exceptions, stable).

    Messages go through redaction and the cap; pydantic's ValidationError shows no input values; with
    ``NODESPAN_CAPTURE_EXCEPTION_MESSAGES=false`` there are none, and the stack holds code locations alone.
    """
    attributes = {
        semconv.EXCEPTION_TYPE: error_type(error),
        semconv.EXCEPTION_STACKTRACE: safe_text(_stack(error, with_messages=_captures_messages()), keep_end=True),
    }
    if (message := exception_message(error)) is not None:
        attributes[semconv.EXCEPTION_MESSAGE] = message
    return attributes


def _captures_messages() -> bool:
    return os.environ.get(CAPTURE_MESSAGES, "true").strip().lower() not in {"false", "0", "no"}


def _message(error: BaseException) -> str:
    """The exception's message; for pydantic's ValidationError locations and reasons without input values."""
    try:
        if type(error).__name__ == "ValidationError" and callable(getattr(error, "errors", None)):
            problems = cast(
                "list[dict[str, Any]]",
                error.errors(include_url=False, include_input=False, include_context=False),  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] pydantic is not imported here
            )
            return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['type']}" for problem in problems)
        return str(error)
    except (Exception, SystemExit):  # noqa: BLE001 a __str__ may raise; the type must still be recorded
        return "[str(exception) raised]"


def _stack(error: BaseException, *, with_messages: bool) -> str:
    """What Python prints for the exception: causes, groups with their members, notes, repeated frames collapsed."""
    try:
        formatted = traceback.TracebackException.from_exception(error, compact=True)
        _replace_messages(formatted, error, with_messages=with_messages)
        return "".join(formatted.format())
    except (Exception, SystemExit):  # noqa: BLE001 notes or members that raise; the place must still be recorded
        return "".join(
            ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__), error_type(error)]
        )


def _replace_messages(formatted: traceback.TracebackException, error: BaseException, *, with_messages: bool) -> None:
    """Replaces the message of the exception, and of all exceptions that it refers to, by the recorded one."""
    pending: list[tuple[traceback.TracebackException | None, BaseException | None]] = [(formatted, error)]
    while pending:
        shown, raised = pending.pop()
        if shown is None or raised is None:
            continue
        # TracebackException has no public way to set the text; an empty one leaves the class alone. Python's own text
        # begins with the message, and may continue with a suggestion.
        message = _message(raised) if with_messages else ""
        if not message or not shown._str.startswith(message):  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] as described above
            shown._str = message  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue] as described above
        if not with_messages:
            shown.__notes__ = None
            if isinstance(raised, SyntaxError):
                shown.text = shown.msg = None  # pyright: ignore[reportAttributeAccessIssue] are set for this class alone
        pending += [(shown.__cause__, raised.__cause__), (shown.__context__, raised.__context__)]
        if isinstance(raised, BaseExceptionGroup):
            members = cast("tuple[BaseException, ...]", raised.exceptions)
            pending += list(zip(shown.exceptions or (), members, strict=False))
