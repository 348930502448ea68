"""Log lines of an outage: its begin, its end, and losses, each at most once a minute per destination."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from nodespan.delivery.senders.answer import words_of
from nodespan.spans.fork_lock import ForkLock
from nodespan.spans.log import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_INTERVAL_S: Final = 60.0
_HTTP: Final = "opentelemetry.exporter.otlp.proto.http"
_SDK_LOGGERS: Final = (
    f"{_HTTP}.trace_exporter",
    f"{_HTTP}.metric_exporter",
    f"{_HTTP}._log_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)
_here: Final = threading.local()


class OutageLog:
    """Logs the begin and the end of each outage, by subject. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = ForkLock()  # reentrant: a log handler may end a span
        self._down_since: dict[str, float] = {}
        self._logged_at: dict[str, float] = {}

    def failed(self, subject: str, message: str, *arguments: object, code: str = "export.unreachable") -> None:
        """Logs a failure, unless the subject is known to be down or a line of it was logged in the last minute.

        Args:
            subject: A destination and a signal.
            message: Format string.
            arguments: Its arguments.
            code: Of the warning.
        """
        with self._lock:
            if subject in self._down_since:
                return
            self._down_since[subject] = time.monotonic()
            if not self._may_log(subject):
                return
        warn(code, message, *arguments)

    def succeeded(self, subject: str, what: str) -> None:
        """Logs the end of an outage, if its begin was logged.

        Args:
            subject: As in ``failed``.
            what: Names the destination and the signal in the log line.
        """
        if subject not in self._down_since:  # the usual case, without the lock
            return
        with self._lock:
            since = self._down_since.pop(subject, None)
            was_logged = since is not None and self._logged_at.get(subject, -_INTERVAL_S) >= since
        if since is not None and was_logged:
            warn("export.recovered", "%s recovered after %.0f s.", what, time.monotonic() - since)

    def lost(self, subject: str, message: str, *arguments: object, code: str = "export.rejected") -> None:
        """Logs a loss, at most once a minute for its subject; every loss is counted elsewhere."""
        with self._lock:
            may_log = self._may_log(subject)
        if may_log:
            warn(code, message, *arguments)

    def _may_log(self, subject: str) -> bool:
        now = time.monotonic()
        if now - self._logged_at.get(subject, -_INTERVAL_S) < _INTERVAL_S:
            return False
        self._logged_at[subject] = now
        return True


@contextmanager
def exporting(on_trouble: Callable[[str], None]) -> Generator[None]:
    """During the block, log records of the SDK's OTLP exporters in this thread are replaced by a call.

    Records of the program's own exporters are not changed.

    Args:
        on_trouble: Called with the reason of each failure.
    """
    for name in _SDK_LOGGERS:
        filters = logging.getLogger(name).filters
        if _passes not in filters:
            filters.insert(0, _passes)  # before the SDK's own, which drops records that are like the last one
    _here.on_trouble = on_trouble
    try:
        yield
    finally:
        _here.on_trouble = None


def _passes(record: logging.LogRecord) -> bool:
    on_trouble: Callable[[str], None] | None = getattr(_here, "on_trouble", None)
    if on_trouble is None:
        return True
    if record.levelno >= logging.WARNING:
        cause = record.args[0] if isinstance(record.args, tuple) and record.args else None
        on_trouble(words_of(cause if isinstance(cause, BaseException) else record.getMessage()))
    return False
