"""Sends stored batches by the SDK's own exporters: their retries, back-off, compression, TLS and headers."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nodespan.store import BatchState

SENDER_THREAD: Final = "nodespan delivery"
_TOO_MANY_REQUESTS: Final = 429
_SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)


class Sender(Protocol):
    """Sends the bytes of a batch. Used by one thread, but for ``close``."""

    def send(self, data: bytes) -> BatchState:
        """Tries, with the SDK's own retries. ``refused`` means that it will never be accepted."""
        ...

    def close(self) -> None:
        """Gives up what is under way."""
        ...


class HttpSender:
    """OTLP over HTTP with protobuf bodies."""

    def __init__(self, endpoint: str | None, headers: Mapping[str, str] | None, on_trouble: Callable[[], None]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers) if headers else None)
        # The exporter's public face takes spans and would encode them once more.
        self._client = self._exporter._client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        _listen(on_trouble)

    def send(self, data: bytes) -> BatchState:
        """See ``Sender``."""
        result = self._client.export(data)
        if result.success:
            return "accepted"
        code = result.status_code
        return "refused" if code is not None and 400 <= code < 500 and code != _TOO_MANY_REQUESTS else "waiting"

    def close(self) -> None:
        """See ``Sender``."""
        self._exporter.shutdown()


class GrpcSender:
    """OTLP over gRPC."""

    def __init__(self, endpoint: str | None, headers: Mapping[str, str] | None, on_trouble: Callable[[], None]) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        class BytesExporter(OTLPSpanExporter):
            """Takes encoded batches where the SDK's takes spans."""

            def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
                return ExportTraceServiceRequest.FromString(cast("bytes", data))

        self._exporter = BytesExporter(endpoint=endpoint, headers=dict(headers) if headers else None)
        _listen(on_trouble)

    def send(self, data: bytes) -> BatchState:
        """See ``Sender``."""
        result = self._exporter.export(cast("Any", data))
        return "accepted" if result is SpanExportResult.SUCCESS else "waiting"

    def close(self) -> None:
        """See ``Sender``."""
        self._exporter.shutdown()  # pyright: ignore[reportUnknownMemberType] the SDK leaves its **kwargs untyped


def _listen(on_trouble: Callable[[], None]) -> None:
    """Has the SDK's log lines about our own tries passed on and dropped: nothing is lost by one of them."""
    for name in _SDK_LOGGERS:
        logger = logging.getLogger(name)
        for known in logger.filters[:]:
            if isinstance(known, _Tries):
                logger.removeFilter(known)
        logger.addFilter(_Tries(on_trouble))


class _Tries(logging.Filter):
    def __init__(self, on_trouble: Callable[[], None]) -> None:
        super().__init__()
        self._on_trouble = on_trouble

    def filter(self, record: logging.LogRecord) -> bool:
        del record
        if threading.current_thread().name != SENDER_THREAD:
            return True
        self._on_trouble()
        return False
