"""nodespan's logger provider, one per process. Each ``configure()`` exchanges its SDK provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import _logs
from typing_extensions import override

from nodespan.spans.fork_lock import ForkLock
from nodespan.telemetry.exchangeable import Exchangeable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NONE: Final = _logs.NoOpLoggerProvider()


class _Logger(_logs.Logger):
    """A logger whose SDK logger can be exchanged."""

    def __init__(self, arguments: tuple[Any, ...], provider: _logs.LoggerProvider) -> None:
        super().__init__(*arguments)
        self._arguments = arguments
        self._behind = provider.get_logger(*arguments)

    def use(self, provider: _logs.LoggerProvider) -> None:
        """Emits to this provider from now on."""
        self._behind = provider.get_logger(*self._arguments)

    @override
    def emit(self, *arguments: Any, **options: Any) -> None:
        self._behind.emit(*arguments, **options)

    @override
    def enabled(self, *arguments: Any, **options: Any) -> bool:
        return self._behind.enabled(*arguments, **options)


class NodespanLoggerProvider(Exchangeable, _logs.LoggerProvider):
    """A logger provider whose SDK provider can be exchanged; without one it emits nothing.

    Loggers that were obtained earlier emit to the new one from then on. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._behind: _logs.LoggerProvider = _NONE
        self._loggers: dict[tuple[Any, ...], _Logger] = {}

    @override
    def use(self, provider: _logs.LoggerProvider | None, end: Callable[[float], object] | None = None) -> None:
        """Exchanges the SDK provider; with ``None`` nothing is emitted.

        Args:
            provider: The SDK provider.
            end: Shuts it down, within this number of seconds.
        """
        with self._lock:
            self._end = end
            self._behind = provider if provider is not None else _NONE
            for logger in self._loggers.values():
                logger.use(self._behind)

    @override
    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> _logs.Logger:
        arguments = name, version, schema_url, attributes
        key = name, version, schema_url, repr(attributes)
        with self._lock:
            found = self._loggers.get(key)
            if found is None:
                found = self._loggers[key] = _Logger(arguments, self._behind)
            return found
