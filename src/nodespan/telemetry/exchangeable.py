"""What the program can call on nodespan's global meter and logger provider, as on the SDK's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from nodespan.spans.fork_lock import ForkLock

_STOPPING: Final = Guard("shut down a provider")


class Exchangeable:
    """A provider whose SDK provider is exchanged by each ``configure()``."""

    _lock: ForkLock
    _behind: Any
    _end: Callable[[float], object] | None = None

    @abstractmethod
    def use(self, provider: None) -> None:
        """Records nothing from now on."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Exports what has been recorded.

        Returns:
            ``False`` if it took longer than the time limit in ms. A failed export is logged.
        """
        flush = getattr(self._behind, "force_flush", None)  # without a configuration there is nothing to export
        try:
            return flush is None or bool(flush(int(timeout_millis)))
        except Exception:  # noqa: BLE001 raised by the SDK's meter provider instead of False
            return False

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Exports what has been recorded, and records nothing until nodespan is configured anew. Can be repeated."""
        with self._lock:
            end, self._end, behind = self._end, None, self._behind
        if end is None:
            return
        try:
            with _STOPPING:
                end(timeout_millis / 1e3)
        finally:
            with self._lock:
                if self._behind is behind:  # otherwise another thread has configured meanwhile
                    self.use(None)
