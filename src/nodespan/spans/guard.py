"""The boundary at which nodespan's own errors stop, so that they never reach the application."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.spans.log import is_first, warn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

RAISE_INTERNAL_ERRORS: Final = "NODESPAN_RAISE_INTERNAL_ERRORS"

_counters: list[Callable[[str], None]] = []


class Guard:
    """Context manager around nodespan's own work: suppresses its exceptions, logs each kind once, counts all.

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
        if error is None or not isinstance(error, Exception) or _raises():
            return False
        report(self.operation, error)
        return True

    def failed(self, error: Exception) -> None:
        """The same in an ``except Exception`` clause, for work that is done at every span: ``try`` costs nothing."""
        if _raises():
            raise error
        report(self.operation, error)


def _raises() -> bool:
    return os.environ.get(RAISE_INTERNAL_ERRORS) == "1"


def report(operation: str, problem: Exception | str) -> None:
    """Logs an internal failure as a warning, once per kind, and counts each one. Never raises.

    Args:
        operation: What nodespan failed to do, a short fixed text.
        problem: The exception, or a description.
    """
    try:
        for count in _counters:
            count(operation)
        if is_first(operation, type(problem)):
            warn(
                "internal.failed",
                "nodespan failed to %s. Your application is not affected. "
                "Further failures are only counted (metric %s).",
                operation,
                semconv.TELEMETRY_ERRORS,
                exc_info=problem if isinstance(problem, Exception) else None,
            )
    except Exception:  # noqa: BLE001, S110 a broken meter or log handler must not reach the application
        pass


def set_failure_counter(count: Callable[[str], None]) -> None:
    """Sets the function that counts each failure, by the operation that failed. Called once, by the metrics."""
    _counters[:] = [count]
