"""The filter of a list, from the query of its URL."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from nodespan.errors import ConfigurationError
from nodespan.store import TraceFilter

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
_WORDS: Final = ("service", "workflow", "node", "model", "conversation", "user", "graph", "before")
NS_DIGITS: Final = 19


def filter_of(query: QueryParams) -> TraceFilter:
    """The filter; other parameters are ignored.

    Raises:
        ConfigurationError: A value is invalid.
    """
    words = {key: query[key] for key in _WORDS if query.get(key)}
    return TraceFilter(
        **words,
        trace_id=query.get("id") or None,
        tags=tuple(filter(None, query.getlist("tag"))),
        metadata=tuple(filter(None, query.getlist("meta"))),
        min_duration_s=_seconds(query.get("min")),
        is_error=query.get("error") == "1",
        is_running=query.get("running") == "1",
        since_ns=_time(query, "since"),
        until_ns=_time(query, "until"),
    )


def limit_of(query: QueryParams) -> int:
    """The number of records in a page.

    Raises:
        ConfigurationError: It is not a number from 1 to 200.
    """
    text = query.get("limit") or str(LIMIT_DEFAULT)
    if not (text.isascii() and text.isdecimal() and len(text) < NS_DIGITS and 1 <= int(text) <= LIMIT_MAX):
        raise ConfigurationError(f"limit is {text[:50]!r}. Give a number from 1 to {LIMIT_MAX}.")
    return int(text)


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"min is {text[:50]!r}. Give a number of seconds, such as 0.5.")
    return value


def _time(query: QueryParams, key: str) -> int | None:
    text = query.get(key)
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= NS_DIGITS:
        return int(text)
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError(
            f"{key} is {text[:50]!r}. Give an ISO 8601 time, such as 2026-01-31T12:00, or Unix time in ns."
        ) from None
