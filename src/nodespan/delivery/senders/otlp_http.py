"""OTLP over HTTP with protobuf bodies (https://opentelemetry.io/docs/specs/otlp/#otlphttp)."""

from __future__ import annotations

import gzip
import time
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import requests
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from nodespan._version import __version__
from nodespan.delivery.senders.answer import Answer, accepted, made_readable, short, words_of

if TYPE_CHECKING:
    from nodespan.delivery.destination import Destination

_TOO_LARGE: Final = 413
_RETRYABLE: Final = (502, 503, 504)
"""The retryable 5xx statuses of the OTLP specification."""
_FOR_NOW: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})
"""Statuses caused by the address, the credentials or a temporary condition: a later try may succeed."""


class HttpSender:
    """Sends batches with ``POST``. Redirects are not followed, because they would receive the credentials.

    Args:
        destination: Its endpoint is the URL of the requests.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._url = destination.endpoint
        self._compression = destination.compression
        self.timeout_s = destination.timeout_s
        self._session = session = make_session()
        session.headers.update(
            {
                "user-agent": f"nodespan/{__version__}",
                "content-type": "application/x-protobuf",
                **({} if self._compression == "none" else {"content-encoding": self._compression}),
                **destination.headers,
            }
        )
        if destination.certificate is not None:
            session.verify = destination.certificate
        if destination.client_certificate is not None:
            pair = destination.client_certificate, destination.client_key
            session.cert = (pair[0], pair[1]) if pair[1] is not None else pair[0]

    def send(self, data: bytes) -> Answer:
        """See ``Sender``."""
        return made_readable(self._post(data), self._destination)

    def _post(self, data: bytes) -> Answer:
        try:
            answer = self._session.post(
                self._url, data=self._compressed(data), timeout=self.timeout_s, allow_redirects=False
            )
        except (requests.RequestException, OSError, ValueError) as error:
            return Answer("waiting", text=words_of(error))
        return _answer_of(answer)

    def close(self) -> None:
        """See ``Sender``."""
        self._session.close()

    def _compressed(self, data: bytes) -> bytes:
        if self._compression == "gzip":
            return gzip.compress(data, 6)
        return zlib.compress(data) if self._compression == "deflate" else data


def make_session() -> requests.Session:
    """A session that does not replace the configured ``authorization`` by that of the user's ``.netrc``."""
    session = requests.Session()
    session.auth = lambda request: request
    return session


def _answer_of(answer: requests.Response) -> Answer:
    status = answer.status_code
    if 200 <= status < 300:
        return accepted(answer.headers.get("content-type", ""), answer.content)
    text = short(f"{status} {_body_of(answer)}")
    if status == _TOO_LARGE:
        return Answer("too_large", str(status), text)
    if status >= 500 and status not in _RETRYABLE:
        return Answer("failing", str(status), text)
    if status in _FOR_NOW or not 400 <= status < 500:
        return Answer("waiting", str(status), text, wait_s=_retry_after_s(answer.headers.get("retry-after", "")))
    return Answer("refused", str(status), text)


def _body_of(answer: requests.Response) -> str:
    """The specification requires a ``google.rpc.Status``; proxies answer in text."""
    body = answer.content
    try:
        if message := Status.FromString(body).message:
            return message
    except DecodeError:
        pass
    return body.decode(errors="replace") or answer.reason or ""


def _retry_after_s(value: str) -> float:
    """Seconds of a ``Retry-After`` header, which holds a number or a date (RFC 9110, 10.2.3)."""
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
