"""Current phases of open spans: published by their code, read by the writer of running spans only.

Publishing costs one entry in a weak table; the phase is computed when the writer reads it, about once a second, only
for spans that are open for longer than 80 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol
from weakref import WeakValueDictionary

from nodespan.spans.guard import Guard, report

if TYPE_CHECKING:
    from opentelemetry.trace import Span

PhaseName = Literal["queued", "loading", "prefilling", "decoding", "retrying", "tool"]


class Phase(NamedTuple):
    """A phase and its progress now.

    Attributes:
        name: The phase.
        since_ns: Unix time in ns of its begin.
        done: Tokens so far, for ``prefilling`` and ``decoding``.
        total: Tokens in all, for ``prefilling``.
        position: Generations ahead in the queue, for ``queued``.
        text: The tool's name or the error class of the failed attempt; no content.
    """

    name: PhaseName
    since_ns: int
    done: int | None = None
    total: int | None = None
    position: int | None = None
    text: str = ""


class HasPhase(Protocol):
    """The work of an open span."""

    def phase(self) -> Phase | None:
        """The current phase; ``None`` between phases. Called on another thread: acquires no lock, changes nothing."""
        ...


_READING: Final = Guard("read the phase of a span")
_sources: Final[WeakValueDictionary[int, HasPhase]] = WeakValueDictionary()
"""By span id. An entry is removed with its source, for every outcome of the work."""


def publish(span: Span, source: HasPhase) -> None:
    """Publishes the phase of a span. The source is referenced weakly."""
    if span.is_recording():
        _sources[span.get_span_context().span_id] = source


def phase_of(span_id: int) -> Phase | None:
    """The phase of an open span; ``None`` if nothing was published."""
    source = _sources.get(span_id)
    if source is not None:
        try:
            return source.phase()
        except Exception as error:  # noqa: BLE001 reported
            _READING.failed(error)
        except BaseException as error:  # noqa: BLE001 an exit would end the thread that asks, and not the program
            report(_READING.operation, type(error).__name__)
    return None
