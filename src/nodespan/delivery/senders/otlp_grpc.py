"""OTLP over gRPC (https://opentelemetry.io/docs/specs/otlp/#otlpgrpc)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo

from nodespan._version import __version__
from nodespan.delivery.senders.answer import Answer, accepted, made_readable, short, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodespan.delivery.destination import Destination, Signal

_METHODS: Final[Mapping[Signal, str]] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
_BAD_BATCH: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION}
)
"""Codes caused by the batch; all others are caused by the address, the credentials or a temporary condition."""
_BROKEN: Final = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
_TOO_LARGE: Final = "larger than max"
"""Text of gRPC's libraries, under the code RESOURCE_EXHAUSTED, for a message over the limit of a side."""
_OPTIONS: Final = (
    ("grpc.primary_user_agent", f"nodespan/{__version__}"),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # the sender pauses between its tries
)


class GrpcSender:
    """Sends batches as unary calls on one channel.

    Args:
        destination: Its endpoint is a URL, ``host:port`` or a ``unix:`` target.
        signal: Of the batches.
    """

    def __init__(self, destination: Destination, signal: Signal = "traces") -> None:
        self._destination = destination
        self.timeout_s = destination.timeout_s
        self._metadata = tuple(destination.headers.items())
        compression = grpc.Compression.Gzip if destination.compression == "gzip" else grpc.Compression.NoCompression
        target = urlsplit(destination.endpoint).netloc or destination.endpoint
        self._channel: Any
        if destination.is_insecure:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS, compression=compression)
        else:
            credentials = channel_credentials(destination)
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS, compression=compression)
        self._export: Any = self._channel.unary_unary(_METHODS[signal])

    def send(self, data: bytes) -> Answer:
        """See ``Sender``."""
        return made_readable(self._call(data), self._destination)

    def _call(self, data: bytes) -> Answer:
        try:
            response: bytes = self._export(data, metadata=self._metadata, timeout=self.timeout_s)
        except grpc.RpcError as error:
            return _answer_of(error)
        except Exception as error:  # noqa: BLE001 gRPC raises various errors for a closed channel or an invalid header
            return Answer("waiting", text=words_of(error))
        return accepted("", response)

    def close(self) -> None:
        """See ``Sender``."""
        self._channel.close()


def _answer_of(error: Any) -> Answer:
    code: grpc.StatusCode = error.code()
    text = short(f"{code.name} {error.details()}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or ""):
        return Answer("too_large", code.name, text)
    if code in _BAD_BATCH:
        return Answer("refused", code.name, text)
    if code in _BROKEN:
        return Answer("failing", code.name, text)
    return Answer("waiting", code.name, text, wait_s=_retry_delay_s(error))


def _retry_delay_s(error: Any) -> float:
    """The delay of a ``RetryInfo`` in the trailing metadata, as the OTLP specification has it."""
    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())
    packed = metadata.get("google.rpc.retryinfo-bin")
    try:
        delay = RetryInfo.FromString(packed).retry_delay if packed else None
    except DecodeError:
        return 0.0
    return delay.seconds + delay.nanos / 1e9 if delay is not None else 0.0


def channel_credentials(destination: Destination) -> Any:
    """TLS credentials of the destination's certificate files."""
    return grpc.ssl_channel_credentials(
        _content(destination.certificate),
        _content(destination.client_key),
        _content(destination.client_certificate),
    )


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
