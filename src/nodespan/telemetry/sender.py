"""Sends stored batches by the SDK's own exporters: their retries, back-off, compression, TLS and headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from nodespan.telemetry.settings import Settings

Verdict = Literal["accepted", "later", "refused"]


class Sender(Protocol):
    """Sends the bytes of a batch. Used by one thread."""

    def send(self, data: bytes) -> Verdict:
        """Tries once, with the SDK's retries; ``refused`` means that it will never be accepted."""
        ...

    def close(self) -> None:
        """Gives up what is under way."""
        ...


def make_sender(settings: Settings) -> Sender:
    """The sender for the protocol that the settings ask for."""
    endpoint = settings.exporter_endpoint("traces")
    if settings.protocol_of("traces") == "grpc":
        return _GrpcSender(endpoint, settings.headers)
    return _HttpSender(endpoint, settings.headers)


class _HttpSender:
    def __init__(self, endpoint: str | None, headers: Any) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._exporter = OTLPSpanExporter(endpoint=endpoint, headers=headers)
        # The exporter's public face takes spans and would encode them once more.
        self._client = self._exporter._client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def send(self, data: bytes) -> Verdict:
        result = self._client.export(data)
        if result.success:
            return "accepted"
        is_final = result.status_code is not None and 400 <= result.status_code < 500 and result.status_code != 429
        return "refused" if is_final else "later"

    def close(self) -> None:
        self._exporter.shutdown()


class _GrpcSender:
    def __init__(self, endpoint: str | None, headers: Any) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult

        class Exporter(OTLPSpanExporter):
            """Takes encoded batches where the SDK's takes spans."""

            def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
                return ExportTraceServiceRequest.FromString(cast("bytes", data))

        self._success = SpanExportResult.SUCCESS
        self._exporter = Exporter(endpoint=endpoint, headers=headers)

    def send(self, data: bytes) -> Verdict:
        return "accepted" if self._exporter.export(cast("Any", data)) is self._success else "later"

    def close(self) -> None:
        self._exporter.shutdown()
