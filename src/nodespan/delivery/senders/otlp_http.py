"""OTLP over HTTP by the SDK's exporter: its retries, back-off, compression, TLS and headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.common.http import (
    _extract_retry_after,  # pyright: ignore[reportPrivateUsage] the header has two forms, and the SDK reads both
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from nodespan.delivery.senders.answer import Answer, accepted, short, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.exporter.http.transport._base import BaseHTTPResult

_TOO_LARGE: Final = 413
_RETRYABLE: Final = (502, 503, 504)
"""Of the 5xx those that the OTLP specification has tried again as they are."""
_FOR_NOW: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})
"""Statuses that speak of the address, the key or the moment: another batch would fare no better, a later try may."""


class HttpSender:
    """OTLP over HTTP with protobuf bodies.

    Args:
        endpoint: With the path of the signal; ``None`` leaves it to the ``OTEL_*`` variables.
        headers: Sent along.
    """

    def __init__(self, endpoint: str | None, headers: Mapping[str, str]) -> None:
        self._exporter = OTLPSpanExporter(endpoint=endpoint, headers=headers)
        # The exporter's public face takes spans, which it would encode once more, and tells no more than yes or no.
        self._client: Any = self._exporter._client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._transport = _Listener(self._client._transport)  # noqa: SLF001
        self._client._transport = self._transport  # noqa: SLF001
        self.timeout_s: float = self._client._timeout  # noqa: SLF001

    def send(self, data: bytes) -> Answer:
        """See ``Sender``."""
        self._transport.last = None
        result = self._client.export(data)
        last = self._transport.last
        status = last.status_code if last is not None else None
        if last is None or status is None:
            return Answer("waiting", text=words_of(result.error or (last and last.error) or "no answer"))
        if 200 <= status < 300:
            return accepted(last.content())
        text = short(f"{status} {_body_of(last)}")
        if status == _TOO_LARGE:
            return Answer("too_large", str(status), text)
        if status >= 500 and status not in _RETRYABLE:
            return Answer("failing", str(status), text)
        if status in _FOR_NOW or not 400 <= status < 500:
            return Answer("waiting", str(status), text, wait_s=_extract_retry_after(last) or 0.0)
        return Answer("refused", str(status), text)

    def close(self) -> None:
        """See ``Sender``."""
        self._exporter.shutdown()


class _Listener:
    """The transport of the SDK's exporter, which remembers the last answer."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.last: BaseHTTPResult | None = None

    def request(self, *args: Any, **kwargs: Any) -> BaseHTTPResult:
        self.last = answer = self._transport.request(*args, **kwargs)
        return answer

    def is_connection_error(self, exception: Exception | None) -> bool:
        return self._transport.is_connection_error(exception)

    def close(self) -> None:
        self._transport.close()


def _body_of(answer: BaseHTTPResult) -> str:
    """The specification wants a ``google.rpc.Status``; proxies answer in text."""
    body = answer.content()
    try:
        if message := Status.FromString(body).message:
            return message
    except DecodeError:
        pass
    return body.decode(errors="replace") or answer.reason or ""
