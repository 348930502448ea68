"""Exceptions as span events: type, message and stack as OpenTelemetry has them, without content that must not leave."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any, Final, cast

from nodespan import semconv
from nodespan.spans.redaction import safe_text

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPTURE_MESSAGES: Final = "NODESPAN_CAPTURE_EXCEPTION_MESSAGES"

_CAUSED: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_DURING: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


def error_type(error: BaseException) -> str:
    """The exception's class as ``error.type`` names it: module and qualified name, builtins without module."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def exception_message(error: BaseException) -> str | None:
    """The message as it may leave: redacted and capped, or ``None`` when messages are not to be captured."""
    return safe_text(_message(error)) if _captures_messages() else None


def exception_attributes(error: BaseException) -> dict[str, str]:
    """Attributes of the ``exception`` event (semantic conventions for exceptions, stable).

    Messages go through redaction and the cap; pydantic's ValidationError shows no input values; with
    ``NODESPAN_CAPTURE_EXCEPTION_MESSAGES=false`` there are none, and the stack holds code locations alone.
    """
    attributes = {
        semconv.EXCEPTION_TYPE: error_type(error),
        semconv.EXCEPTION_STACKTRACE: safe_text("".join(_stack(error, with_messages=_captures_messages()))),
    }
    if (message := exception_message(error)) is not None:
        attributes[semconv.EXCEPTION_MESSAGE] = message
    return attributes


def _captures_messages() -> bool:
    return os.environ.get(CAPTURE_MESSAGES, "true").strip().lower() not in {"false", "0", "no"}


def _message(error: BaseException) -> str:
    """The exception's own message; for pydantic's ValidationError where and why, not what was given."""
    try:
        if type(error).__name__ == "ValidationError" and callable(getattr(error, "errors", None)):
            problems = cast(
                "list[dict[str, Any]]",
                error.errors(include_url=False, include_input=False, include_context=False),  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] pydantic is not imported here
            )
            return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['type']}" for problem in problems)
        return str(error)
    except Exception:  # noqa: BLE001 somebody's __str__ may fail; the type must still be recorded
        return "[the exception's own text could not be made]"


def _stack(error: BaseException, *, with_messages: bool) -> Iterator[str]:
    """The lines of ``traceback.format_exception`` with messages that may leave."""
    chain: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    current: BaseException | None = error
    joint = ""
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        chain.append((current, joint))
        if current.__cause__ is not None:
            current, joint = current.__cause__, _CAUSED
        else:
            current, joint = (None if current.__suppress_context__ else current.__context__), _DURING
    for link, joint_after in reversed(chain):
        if link.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            for frame in traceback.extract_tb(link.__traceback__):
                yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n'
                yield f"    {frame.line}\n" if frame.line else ""
        yield f"{error_type(link)}: {_message(link)}\n" if with_messages else f"{error_type(link)}\n"
        yield joint_after
