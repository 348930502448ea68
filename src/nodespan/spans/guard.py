"""The one boundary where nodespan's own errors stop, so that telemetry never hurts the application."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from nodespan import semconv

if TYPE_CHECKING:
    from types import TracebackType

RAISE_INTERNAL_ERRORS: Final = "NODESPAN_RAISE_INTERNAL_ERRORS"

_logger = logging.getLogger("nodespan")
_seen: set[tuple[str, type]] = set()
_lock = threading.Lock()


class Guard:
    """Encloses a piece of our own work: swallows what goes wrong in it, says it once, counts it.

    One instance per kind of work, made at import. Stateless, so it nests and serves all threads. Only ``Exception`` is
    swallowed; with ``NODESPAN_RAISE_INTERNAL_ERRORS=1`` nothing is.
    """

    __slots__ = ("operation",)

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def __enter__(self) -> None:
        """Nothing to do: entering must cost nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        if not isinstance(error, Exception):
            return False
        if os.environ.get(RAISE_INTERNAL_ERRORS) == "1":
            return False
        report(self.operation, error)
        return True


def report(operation: str, problem: Exception | str) -> None:
    """Says a fault of our own as a WARNING, once per kind, and counts every one of them. Never raises.

    Args:
        operation: What nodespan was doing, a short fixed text.
        problem: The exception, or in words what could not be held.
    """
    kind = (operation, type(problem))
    with _lock:
        first = kind not in _seen
        _seen.add(kind)
    try:
        from nodespan.spans.instruments import get_instruments  # which has a guard itself

        # Put off, so that a meter which fails is not asked again in the midst of saying so.
        get_instruments().record(semconv.TELEMETRY_ERRORS, 1, {semconv.TELEMETRY_ERROR_KIND: operation}, later=True)
        if first:
            _logger.warning(
                "nodespan could not %s; the application is not affected. Said once, counted in %s.",
                operation,
                semconv.TELEMETRY_ERRORS,
                exc_info=problem if isinstance(problem, Exception) else None,
            )
    except Exception:  # noqa: BLE001, S110 the last line: a broken meter or log handler must not reach the application
        pass


def forget_reported() -> None:
    """Logs each kind of failure once more when it occurs again."""
    with _lock:
        _seen.clear()
