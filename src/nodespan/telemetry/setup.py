"""`configure()`: the only code that sets OpenTelemetry's globals."""

from __future__ import annotations

import atexit
import time
from typing import TYPE_CHECKING, ClassVar, Final

from nodespan.delivery.ledger import DeliveryReport
from nodespan.errors import ConfigurationError
from nodespan.spans import announced
from nodespan.spans.exits import end_running_work
from nodespan.spans.fingerprint import set_hash_key
from nodespan.spans.fork_lock import ForkLock
from nodespan.spans.guard import Guard
from nodespan.spans.log import warn
from nodespan.spans.redaction import Redact, set_redaction
from nodespan.store import hash_key
from nodespan.telemetry.env import reporting_problems_once
from nodespan.telemetry.pipelines import Pipelines
from nodespan.telemetry.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from nodespan.store import SqliteStore

EXIT_S: Final = 1.5
"""Time limit for the last spans, metrics and log records; with the interpreter's own shutdown the exit takes 2 s."""
_FOR_SPANS: Final = 0.5
"""Share of this time for sending spans; the rest is for the last metrics and log records."""

_lock: Final = ForkLock()
_STOPPING: Final = Guard("shut down")


class Telemetry:
    """The telemetry of this process, as set up by ``configure()``. A context manager: its exit shuts down.

    After ``shutdown()`` the process can be configured again. Tracers, meters and loggers that were obtained earlier use
    the new configuration.

    Attributes:
        settings: The arguments of ``configure()``.
        redact: Every captured text runs through it.
    """

    _current: ClassVar[Telemetry | None] = None

    def __init__(self, settings: Settings, redact: Redact | None) -> None:
        settings.check()
        self.settings = settings
        self.redact = redact
        self._pipelines = Pipelines(settings)
        with reporting_problems_once():
            settings.report_unsupported()
            try:
                self._pipelines.start()
                set_hash_key(hash_key(self.store.path if self.store is not None else None))
            except BaseException:  # also an interrupt: no half of a configuration remains
                self._pipelines.stop(time.monotonic() + EXIT_S)
                raise
        announced.forget()
        set_redaction(redact)

    @classmethod
    def of(cls, settings: Settings, redact: Redact | None) -> Telemetry:
        """The active configuration of this process; it is created if there is none.

        Raises:
            ConfigurationError: The process is configured with other settings.
        """
        with _lock:
            current = cls._current
            if current is None or current.is_shut_down:
                if current is not None:
                    current.stop(time.monotonic() + EXIT_S)
                current = cls._current = cls(settings, redact)
            elif current.settings.zero_code:
                current.add_to_zero_code(settings, redact)
            elif current.settings == settings:
                current._use_redaction(redact)  # a notebook cell that runs again creates a new hook
            else:
                raise ConfigurationError(
                    f"configure() was called before with other settings: {current.settings.difference(settings)}. "
                    "Call telemetry.shutdown() first, or use the same settings."
                )
            return current

    @classmethod
    def active(cls) -> Telemetry | None:
        """The active configuration of this process; ``None`` before ``configure()`` and after ``shutdown()``."""
        return cls._current

    @property
    def store(self) -> SqliteStore | None:
        """The local store of this process's spans; ``None`` if they are not stored."""
        delivery = self._pipelines.delivery
        return delivery.store if delivery is not None else None

    @property
    def is_shut_down(self) -> bool:
        """Whether the program has shut down the tracer provider; ``configure()`` then creates a new configuration."""
        return self._pipelines.is_shut_down

    def force_flush(self, timeout_s: float = 30.0) -> DeliveryReport:
        """Writes and sends the waiting spans, within a time limit.

        Returns:
            The number of spans by outcome. It is true if no span waits or was dropped.
        """
        delivery = self._pipelines.delivery
        if delivery is None:
            return DeliveryReport(0, 0, 0, 0)
        delivery.force_flush(round(timeout_s * 1e3))
        return delivery.report()

    def shutdown(self, timeout_s: float = EXIT_S) -> DeliveryReport:
        """Flushes and stops, within a time limit. Unsent spans stay in the store for the next start."""
        deadline = time.monotonic() + timeout_s
        report = self.force_flush(timeout_s * _FOR_SPANS)
        self.stop(deadline)
        return report

    def stop(self, deadline: float) -> None:
        """Stops without a flush, until a time on the monotonic clock."""
        with _lock, _STOPPING:
            self._pipelines.stop(deadline)
            if Telemetry._current is self:
                Telemetry._current = None

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def add_to_zero_code(self, settings: Settings, redact: Redact | None) -> None:
        """Applies the redaction hook of a ``configure()`` in a program under ``opentelemetry-instrument``."""
        if redact is not None:
            self._use_redaction(redact)
        if settings != Settings():
            warn(
                "configure.zero_code",
                "opentelemetry-instrument has configured this process from OTEL_* variables. Of the arguments of "
                "configure() only redact is used: set the others as variables, such as OTEL_SERVICE_NAME.",
            )

    def _use_redaction(self, redact: Redact | None) -> None:
        self.redact = redact
        set_redaction(redact)


def _shut_down_at_exit() -> None:
    end_running_work()
    if (current := Telemetry.active()) is not None:
        current.shutdown()
    Pipelines.shut_down_others()


atexit.register(_shut_down_at_exit)


def configure(
    service_name: str | None = None,
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    resource_attributes: Mapping[str, str] | None = None,
    redact: Redact | None = None,
    attach: bool = False,
) -> Telemetry:
    """Sets up traces, metrics and logs for this process. ``OTEL_*`` variables take precedence over arguments.

    Without an endpoint spans are written to the local store (``NODESPAN_STORE``), and metrics and logs are not
    recorded. If the program has set a tracer provider, nodespan creates its spans with it, and only that provider
    exports them. After ``shutdown()`` the function can be called again, with other settings.

    Args:
        service_name: ``service.name`` of the resource.
        endpoint: OTLP address, such as ``http://localhost:4318``.
        protocol: ``"http/protobuf"`` (the default) or ``"grpc"``.
        headers: Sent with each request.
        resource_attributes: Further attributes of the resource.
        redact: Function that is applied to every captured text.
        attach: Adds the local store, and the endpoint, to a tracer provider that the program has set.

    Returns:
        The same object for the same arguments.

    Raises:
        ConfigurationError: An argument is invalid, or the process is configured with other settings.
    """
    return Telemetry.of(Settings(service_name, endpoint, protocol, headers, resource_attributes or {}, attach), redact)
