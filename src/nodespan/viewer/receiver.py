"""OTLP/HTTP receiver: stores the spans of any OpenTelemetry program; they are never forwarded."""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from typing import TYPE_CHECKING, Final

import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from nodespan.errors import StoreError
from nodespan.otlp import check_spans, from_json, keys_of, parse_request, without

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from starlette.requests import Request

    from nodespan.otlp import Received
    from nodespan.store import SqliteStore
    from nodespan.viewer.known_spans import KnownSpans

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
BODY_MAX_BYTES: Final = 8 * 1024 * 1024
UNPACKED_MAX_BYTES: Final = 32 * 1024 * 1024
REQUESTS_MAX: Final = 8
"""Requests that are received at once."""
RATE_BYTES_PER_S: Final = 32 * 1024 * 1024
RATE_BURST_BYTES: Final = 128 * 1024 * 1024
_BODY_TIMEOUT_S: Final = 30.0
_RETRY_AFTER_S: Final = 1
# Codes of google.rpc.Code, which OTLP names for the body of an error.
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNAVAILABLE = 3, 8, 14


class _RefusedError(Exception):
    """A request that is answered with a status alone.

    Attributes:
        status: Of the answer.
        code: A ``google.rpc.Code``.
    """

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class Receiver:
    """Receives spans.

    Args:
        store: Stores them.
        known: Ids of the stored spans.
    """

    def __init__(self, store: SqliteStore, known: KnownSpans) -> None:
        self._store = store
        self._known = known
        self._requests = 0
        self._rate = _Rate()
        self._lock = threading.Lock()

    async def receive(self, request: Request) -> Response:
        """Answers ``POST /v1/traces``."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (PROTOBUF, JSON):
            text = f"Content-Type is {kind[:100]!r}. Give {PROTOBUF} or {JSON}."
            return _failure(JSON, _RefusedError(415, _INVALID_ARGUMENT, text))
        if self._requests >= REQUESTS_MAX:
            return _failure(kind, _RefusedError(429, _RESOURCE_EXHAUSTED, "Too many requests at once."))
        self._requests += 1
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await _body(request)
            received = await run_in_threadpool(self._take, body, kind, request.headers.get("content-encoding", ""))
        except TimeoutError:
            return _failure(kind, _RefusedError(408, _UNAVAILABLE, "The body did not arrive in time."))
        except _RefusedError as error:
            return _failure(kind, error)
        except StoreError as error:
            return _failure(kind, _RefusedError(503, _UNAVAILABLE, str(error)))
        finally:
            self._requests -= 1
        answer = ExportTraceServiceResponse()
        if received.rejected:
            answer.partial_success.rejected_spans = received.rejected
            answer.partial_success.error_message = received.reason
        return _message(kind, 200, answer)

    def _take(self, body: bytes, kind: str, encoding: str) -> Received:
        """Stores the valid spans that are not in the store yet."""
        data = _unpacked(body, encoding.strip().lower())
        if not self._rate.allows(len(data)):
            raise _RefusedError(429, _RESOURCE_EXHAUSTED, "Too many bytes per second.")
        try:
            received = check_spans(parse_request(data) if kind == PROTOBUF else from_json(orjson.loads(data)))
        except (DecodeError, orjson.JSONDecodeError) as error:
            raise _RefusedError(400, _INVALID_ARGUMENT, f"The body is not an OTLP message: {error}") from error
        with self._lock:  # or two requests with one span would both find it missing
            known = self._known.among(keys_of(received.request))
            for batch in without(received.request, known):
                self._store.append(batch, None)
        return received


class _Rate:
    """A bucket of bytes that fills at a constant rate."""

    def __init__(self) -> None:
        self._left = float(RATE_BURST_BYTES)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def allows(self, size: int) -> bool:
        with self._lock:
            now = time.monotonic()
            self._left = min(self._left + (now - self._at) * RATE_BYTES_PER_S, RATE_BURST_BYTES)
            self._at = now
            if size > self._left:
                return False
            self._left -= size
            return True


async def _body(request: Request) -> bytes:
    text = f"The body has more than {BODY_MAX_BYTES} bytes. Send smaller batches."
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_MAX_BYTES:
        raise _RefusedError(413, _INVALID_ARGUMENT, text)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX_BYTES:
            raise _RefusedError(413, _INVALID_ARGUMENT, text)
    return bytes(body)


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise _RefusedError(415, _INVALID_ARGUMENT, f"Content-Encoding is {encoding[:100]!r}. Give gzip, or none.")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = unpacker.decompress(body, UNPACKED_MAX_BYTES + 1)
    except zlib.error as error:
        raise _RefusedError(400, _INVALID_ARGUMENT, f"The body is not gzip: {error}") from error
    if len(data) > UNPACKED_MAX_BYTES:
        raise _RefusedError(413, _INVALID_ARGUMENT, f"The body has more than {UNPACKED_MAX_BYTES} bytes when unpacked.")
    if not unpacker.eof or unpacker.unused_data:
        raise _RefusedError(400, _INVALID_ARGUMENT, "The body is not one whole gzip stream.")
    return data


def _failure(kind: str, error: _RefusedError) -> Response:
    answer = _message(kind, error.status, Status(code=error.code, message=str(error)))
    if error.status in (429, 503):
        answer.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return answer


def _message(kind: str, status: int, message: Message) -> Response:
    """An answer in the encoding of the request."""
    content = message.SerializeToString() if kind == PROTOBUF else orjson.dumps(MessageToDict(message))
    return Response(content, status, media_type=kind)
