"""What sends encoded batches, and what a destination answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeSender = Callable[[], "Sender"]
    """Called on the thread that sends, after every fork."""

_TEXT_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination said of a request.

    Attributes:
        kind: ``refused``: it will never take these bytes. ``too_large``: it may take the halves. ``waiting``: it takes
            nothing now. ``failing``: something in it broke, over these bytes or over all.
        reason: A word for the metrics: the status, or ``rejected`` for a part of what it took.
        text: In its own words.
        rejected: Of the spans in an accepted request, those that it threw away.
        wait_s: How long it asks to be left alone.
    """

    kind: Literal["accepted", "refused", "too_large", "waiting", "failing"]
    reason: str = ""
    text: str = ""
    rejected: int = 0
    wait_s: float = 0.0


class Sender(Protocol):
    """Sends the bytes of a batch. Used by one thread, but for ``close``."""

    timeout_s: float
    """How long one ``send`` may take."""

    def send(self, data: bytes) -> Answer:
        """Tries, with the SDK's own retries, for as long as ``timeout_s``."""
        ...

    def close(self) -> None:
        """Gives up what is under way."""
        ...


def accepted(response: bytes | ExportTraceServiceResponse) -> Answer:
    """The answer of a destination that took the request, perhaps not all of it."""
    try:
        parsed = ExportTraceServiceResponse.FromString(response) if isinstance(response, bytes) else response
    except DecodeError:  # it said yes, in whatever words
        return Answer("accepted")
    partial = parsed.partial_success
    return Answer("accepted", "rejected", short(partial.error_message), max(partial.rejected_spans, 0))


def words_of(trouble: object) -> str:
    """Why it went wrong: of an exception the one deepest within, such as ``[Errno 111] Connection refused``."""
    while isinstance(trouble, BaseException) and (deeper := trouble.__cause__ or trouble.__context__) is not None:
        trouble = deeper
    return short(trouble)


def short(text: object) -> str:
    """One line of what a destination said, of a length that a log line bears."""
    line = " ".join(str(text).split())
    return line if len(line) <= _TEXT_MAX else f"{line[:_TEXT_MAX]}..."
