"""OTLP over gRPC by the SDK's exporter: its retries, back-off, compression, TLS and metadata."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from nodespan.delivery.senders.answer import Answer, accepted, short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_BAD_BATCH: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION}
)
"""Codes that speak of the batch; all others speak of the address, the key or the moment."""
_BROKEN: Final = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
_TOO_LARGE: Final = "larger than max"
"""What gRPC's libraries say, under the code RESOURCE_EXHAUSTED, of a message that a side does not want to take."""


def grpc_compression(name: str) -> grpc.Compression:
    """What the SDK's exporters want to be given; left to read the variable, they do not know ``none``."""
    return grpc.Compression.Gzip if name == "gzip" else grpc.Compression.NoCompression


class GrpcSender:
    """OTLP over gRPC.

    Args:
        endpoint: ``None`` leaves it to the ``OTEL_*`` variables.
        headers: Sent along as metadata.
        compression: ``none`` or ``gzip``.
    """

    def __init__(self, endpoint: str | None, headers: Mapping[str, str], compression: str = "none") -> None:
        self._exporter = _BytesExporter(
            endpoint=endpoint, headers=dict(headers), compression=grpc_compression(compression)
        )
        self.timeout_s: float = self._exporter._timeout  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def send(self, data: bytes) -> Answer:
        """See ``Sender``."""
        self._exporter.heard = None
        with suppress(_TooLargeError):
            self._exporter.export(cast("Any", data))
        heard = self._exporter.heard
        if isinstance(heard, ExportTraceServiceResponse):
            return accepted(heard)
        if heard is None:
            return Answer("waiting", text="no answer")
        code = heard.code()
        text = short(f"{code.name} {heard.details()}")
        if _is_too_large(heard):
            return Answer("too_large", code.name, text)
        if code in _BAD_BATCH:
            return Answer("refused", code.name, text)
        if code in _BROKEN:
            return Answer("failing", code.name, text)
        return Answer("waiting", code.name, text, wait_s=_retry_delay_s(heard))

    def close(self) -> None:
        """See ``Sender``."""
        self._exporter.shutdown()  # pyright: ignore[reportUnknownMemberType] the SDK leaves its **kwargs untyped


class _TooLargeError(Exception):
    """Ends the tries of the SDK, for which this code is like any other of a destination that has too much to do."""


class _BytesExporter(OTLPSpanExporter):
    """Takes an encoded batch where the SDK's takes spans, and remembers the last answer."""

    heard: Any = None

    def _initialize_channel_and_stub(self) -> None:
        """Called anew for each channel, which the SDK replaces when a destination cannot be reached."""
        super()._initialize_channel_and_stub()
        channel: Any = self._channel
        self._export_bytes = channel.unary_unary(_METHOD, None, ExportTraceServiceResponse.FromString)
        self._client: Any = self

    def Export(self, **call: Any) -> None:  # noqa: N802 the name of the method that the SDK calls on its stub
        try:
            self.heard = self._export_bytes(**call)
        except grpc.RpcError as error:
            self.heard = error
            if _is_too_large(error):
                raise _TooLargeError from error
            raise

    def _translate_data(self, data: Sequence[Any]) -> Any:
        return data

    def _count_data(self, data: Sequence[Any]) -> int:
        del data
        return 0  # the ledger counts


def _is_too_large(error: Any) -> bool:
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or "")


def _retry_delay_s(error: Any) -> float:
    """The delay that the answer asks for, where the SDK looks for it too."""
    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())
    packed = metadata.get("google.rpc.retryinfo-bin")
    try:
        delay = RetryInfo.FromString(packed).retry_delay if packed else None
    except DecodeError:
        return 0.0
    return delay.seconds + delay.nanos / 1e9 if delay is not None else 0.0
