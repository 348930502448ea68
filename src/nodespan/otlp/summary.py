"""The searchable fields of an encoded batch, without records of its spans."""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

    Word = tuple[str, str]
    """A kind, such as ``node``, and a value."""

WORD_KINDS: Final = {
    semconv.WORKFLOW_NAME: "workflow",
    semconv.NODE: "node",
    semconv.MIRROR_KEYS["node_name"]: "node",
    semconv.REQUEST_MODEL: "model",
    semconv.CONVERSATION_ID: "conversation",
    semconv.USER_ID: "user",
    semconv.LANGGRAPH_GRAPH_HASH: "graph",
}
"""Searchable attributes and the kinds of their words; tags and metadata are searchable as well."""
MAX_WORDS: Final = 64
"""Tags and metadata of one span; nodespan writes at most 32 of each."""
ERROR: Final = ("error", "")
"""The word of a trace with a failed span."""
INTERRUPTED: Final = ("interrupted", "")
"""The word of a trace whose run stopped at an interrupt."""
RESUMES: Final = "resumes"
"""The kind of the word that is the id of the trace whose run a run resumes."""

_MODEL_CALLS: Final = frozenset((semconv.CHAT, semconv.TEXT_COMPLETION, semconv.EMBEDDINGS, "generate_content"))
"""Operations whose usage is counted; agents and runs of other instrumentations repeat that of their calls."""
_DECODE_S: Final = semconv.MIRROR_KEYS["decode_s"]
_MEASURED: Final = frozenset(
    (
        semconv.OPERATION_NAME,
        semconv.USAGE_INPUT_TOKENS,
        semconv.USAGE_OUTPUT_TOKENS,
        _DECODE_S,
        semconv.LANGGRAPH_INTERRUPTED,
    )
)


_TOKENS_MAX: Final = 2**40
_SECONDS_MAX: Final = 1e9
"""Above these a value is not a measurement, and sums would leave SQLite's integers."""


class Sums(NamedTuple):
    """Sums over spans.

    Attributes:
        spans: Number of spans.
        errors: Those with the status ``ERROR``.
        calls: Model calls with usage.
        tokens_in: Their input tokens.
        tokens_out: Their output tokens.
        decode_us: Their time of decoding, where it was measured.
    """

    spans: int
    errors: int
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    decode_us: int = 0


@dataclass(slots=True)
class TraceSlice:
    """The summary of a trace in some batches. Times are Unix time in ns.

    Attributes:
        name: Of the span that started first, like the service.
        sums: Of its spans.
        words: Searchable values of the trace.
    """

    name: str
    service: str
    start_ns: int
    end_ns: int
    is_root_first: bool
    sums: Sums
    words: set[Word]

    def add(self, other: TraceSlice) -> None:
        """Adds the summary of further batches of the same trace."""
        if other.start_ns < self.start_ns or (other.start_ns == self.start_ns and other.is_root_first):
            self.name, self.service = other.name, other.service
            self.start_ns, self.is_root_first = other.start_ns, other.is_root_first
        self.end_ns = max(self.end_ns, other.end_ns)
        self.sums = Sums(*map(add, self.sums, other.sums))
        self.words |= other.words


def summarise(data: bytes) -> dict[str, TraceSlice]:
    """The traces of an encoded ``ExportTraceServiceRequest``, by id in hex.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not such a message.
    """
    slices: dict[str, TraceSlice] = {}
    for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        service = next((_text(a.value) for a in of_resource.resource.attributes if a.key == "service.name"), "")
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                one = _slice(span, service)
                if (found := slices.setdefault(span.trace_id.hex(), one)) is not one:
                    found.add(one)
    return slices


def _slice(span: Span, service: str) -> TraceSlice:
    measured: dict[str, object] = {}
    found: dict[str, object] = {}
    for one in span.attributes:
        key = one.key
        if key in _MEASURED:
            measured[key] = getattr(one.value, one.value.WhichOneof("value") or "string_value")
        elif _is_word(key):
            found[key] = _value(one.value)
    words = {("service", service), *words_of(found)}
    failed = span.status.code == Status.STATUS_CODE_ERROR
    if failed:
        words.add(ERROR)
    if measured.get(semconv.LANGGRAPH_INTERRUPTED) is True:
        words.add(INTERRUPTED)
    words.update((RESUMES, trace_id) for trace_id in _resumed(span))
    return TraceSlice(
        span.name,
        service,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        not span.parent_span_id,
        Sums(1, int(failed), *_usage(measured)),
        words,
    )


def _usage(measured: Mapping[str, object]) -> tuple[int, ...]:
    """The last four of ``Sums``, of one span."""
    given = measured.get(semconv.USAGE_INPUT_TOKENS), measured.get(semconv.USAGE_OUTPUT_TOKENS)
    if measured.get(semconv.OPERATION_NAME) not in _MODEL_CALLS or given == (None, None):
        return ()
    tokens_in, tokens_out = (max(one, 0) if isinstance(one, int) else 0 for one in given)
    decode_s = measured.get(_DECODE_S)
    decode_us = round(decode_s * 1e6) if isinstance(decode_s, int | float) and 0 <= decode_s < _SECONDS_MAX else 0
    return 1, min(tokens_in, _TOKENS_MAX), min(tokens_out, _TOKENS_MAX), decode_us


def _resumed(span: Span) -> Iterator[str]:
    return (link.trace_id.hex() for link in span.links if is_resumed_from(link))


def is_resumed_from(link: Span.Link) -> bool:
    """Whether the link leads to the run that this one resumes."""
    return any(
        one.key == semconv.LINK_KIND and one.value.string_value == semconv.RESUMED_FROM for one in link.attributes
    )


def words_of(attributes: Mapping[str, object]) -> Iterator[Word]:
    """The searchable values of a span with these attributes."""
    left = MAX_WORDS
    for key, value in attributes.items():
        if (kind := WORD_KINDS.get(key)) is not None:
            yield kind, str(value)
        elif key == semconv.TAGS and left:
            several = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
            tags = [tag for tag in several[:left] if isinstance(tag, str)]
            left -= len(tags)
            yield from (("tag", tag) for tag in tags)
        elif key.startswith(semconv.METADATA_PREFIX) and left:
            left -= 1
            yield "metadata", f"{key.removeprefix(semconv.METADATA_PREFIX)}={_shown(value)}"


def _shown(value: object) -> str:
    """A value as it is typed after ``key=``: booleans as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_word(key: str) -> bool:
    return key in WORD_KINDS or key == semconv.TAGS or key.startswith(semconv.METADATA_PREFIX)


def _value(value: AnyValue) -> object:
    if value.HasField("array_value"):
        return [_text(one) for one in value.array_value.values]
    return value.bool_value if value.HasField("bool_value") else _text(value)


def _text(value: AnyValue) -> str:
    return value.string_value or str(getattr(value, value.WhichOneof("value") or "string_value"))
