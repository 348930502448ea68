"""What a user wants to read of a destination that takes nothing, instead of a line for every try."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from nodespan.delivery.senders.answer import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_HTTP: Final = "opentelemetry.exporter.otlp.proto.http"
_SDK_LOGGERS: Final = (
    f"{_HTTP}.trace_exporter",
    f"{_HTTP}.metric_exporter",
    f"{_HTTP}._log_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)
_here: Final = threading.local()
_logger: Final = logging.getLogger("nodespan")


class SaidOnce:
    """Warnings, each said once for its subject."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, subject: str, message: str, *arguments: object) -> None:
        """Logs a warning, unless one of this subject was logged before."""
        if subject not in self._said:
            self._said.add(subject)
            _logger.warning(f"{message} Said once.", *arguments)


@contextmanager
def exporting(on_trouble: Callable[[str, bool], None]) -> Generator[None]:
    """In this thread, meanwhile, the lines of the SDK's exporters lead to a call instead of to the log.

    The lines of exporters that somebody else has made are left alone.

    Args:
        on_trouble: Called with the reason why a try failed, and whether the exporter will try again.
    """
    for name in _SDK_LOGGERS:
        logging.getLogger(name).addFilter(_is_of_others)  # adding it again changes nothing
    _here.on_trouble = on_trouble
    try:
        yield
    finally:
        _here.on_trouble = None


def _is_of_others(record: logging.LogRecord) -> bool:
    on_trouble: Callable[[str, bool], None] | None = getattr(_here, "on_trouble", None)
    if on_trouble is None:
        return True
    if record.levelno >= logging.WARNING:
        cause = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if "Transient error %s" in record.msg:
            on_trouble(words_of(cause), True)
        else:
            on_trouble(words_of(record.getMessage()), False)
    return False
