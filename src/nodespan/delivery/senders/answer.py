"""The protocol of senders of encoded batches, and the answers of destinations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

if TYPE_CHECKING:
    from nodespan.delivery.destination import Destination

_TEXT_MAX: Final = 300
_READ_MAX: Final = 4096
"""Maximum number of characters that are read of a message; a page of a proxy may be large."""
_HTTP2_SETTINGS: Final = re.compile(r"\x00\x00.\x04\x00{5}", re.DOTALL)
"""The first frame of an HTTP/2 server (RFC 9113, 6.5), which HTTP/1 libraries report as a bad status line."""
_GRPC_PORT: Final = "the port expects gRPC; use port 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request.

    Attributes:
        kind: ``refused``: the destination will never accept these bytes. ``too_large``: it may accept the halves.
            ``waiting``: it accepts nothing now. ``failing``: an error on its side, for these bytes or for all.
        reason: For the metrics: the status, or ``rejected`` for a part of an accepted request.
        text: The destination's own message.
        rejected: Spans of an accepted request that it rejected.
        wait_s: Seconds before the next request, as requested by the destination.
    """

    kind: Literal["accepted", "refused", "too_large", "waiting", "failing"]
    reason: str = ""
    text: str = ""
    rejected: int = 0
    wait_s: float = 0.0


class Sender(Protocol):
    """Sends the bytes of a batch. For one thread, except ``close``."""

    timeout_s: float
    """Longest time of one ``send``."""

    def send(self, data: bytes) -> Answer:
        """Sends one request, without retries."""
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


def accepted(content_type: str, body: bytes) -> Answer:
    """The answer of a success status, by its body.

    Args:
        content_type: Of the body.
        body: An ``ExportTraceServiceResponse`` as protobuf or JSON, or empty. A page in HTML, such as the sign-in page
            of a proxy, is not an acceptance.
    """
    if "html" in content_type.lower() or body.lstrip()[:1] == b"<":
        return Answer("waiting", text=f"not an OTLP receiver: it answered with a page ({content_type or 'no type'})")
    if "json" in content_type.lower():
        return _from_json(body)
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:
        return Answer("accepted")
    return Answer("accepted", "rejected", short(partial.error_message), max(partial.rejected_spans, 0))


def _from_json(body: bytes) -> Answer:
    try:
        found: Any = json.loads(body)
        partial: Any = found.get("partialSuccess", found.get("partial_success")) or {}
        rejected = int(partial.get("rejectedSpans", partial.get("rejected_spans", 0)))
        return Answer("accepted", "rejected", short(partial.get("errorMessage", "")), max(rejected, 0))
    except (ValueError, TypeError, AttributeError):
        return Answer("accepted")


def words_of(trouble: object) -> str:
    """The reason of a failure: of an exception the innermost one, such as ``[Errno 111] Connection refused``."""
    while isinstance(trouble, BaseException) and (deeper := trouble.__cause__ or trouble.__context__) is not None:
        trouble = deeper
    return short(trouble)


def short(text: object) -> str:
    """One line of a destination's message, with control characters replaced; of HTTP/2 frames the cause."""
    read = str(text)[:_READ_MAX]
    if _HTTP2_SETTINGS.search(read):
        return _GRPC_PORT
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(read.split()))


def readable(text: str, destination: Destination) -> str:
    """A destination's message as it is logged: bounded, and without credentials, which it may repeat."""
    shown = destination.masked(text)  # before the cut, which may halve one
    return shown if len(shown) <= _TEXT_MAX else f"{shown[:_TEXT_MAX]}..."


def made_readable(answer: Answer, destination: Destination) -> Answer:
    """The answer with a text that may be logged."""
    return replace(answer, text=readable(answer.text, destination)) if answer.text else answer
