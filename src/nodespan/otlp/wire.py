"""Spans as OTLP protobuf bytes, written by hand.

Decoded, the message equals that of the SDK's encoder (opentelemetry-proto 1.x, ``trace.proto``). Resource, scope,
attribute keys and the first values of each key are encoded once and kept, in bounded tables. An unsupported value
raises; ``encode.py`` then uses the SDK's encoder for the slice. Safe from any thread: the tables hold immutable bytes,
and two threads that fill the same place write the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, cast

from nodespan.fastspan import LeanSpan, WireFields

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, Status, TraceState

_KEYS_MAX: Final = 1024
_VALUES_MAX: Final = 64
"""Number of cached values of a key. Further values of a key, such as a task's id, are not cached."""
_TEXT_MAX: Final = 256
_FRAMES_MAX: Final = 32
_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(128))
_double: Final = Struct("<d").pack
_fixed64: Final = Struct("<Q").pack
_child: Final = Struct("<2s16s2s8s2s8s3sQsQ").pack
_root: Final = Struct("<2s16s2s8s3sQsQ").pack
# Tags of trace.proto: the field's number * 8 + its wire type.
_TRACE_ID, _SPAN_ID, _PARENT_ID, _END_TIME = b"\x0a\x10", b"\x12\x08", b"\x22\x08", b"\x41"
_KIND_AND_START: Final = tuple(b"\x30" + bytes((kind + 1,)) + b"\x39" for kind in range(5))
_LOCAL: Final = b"\x85\x01\x00\x01\x00\x00"
"""Flags of a span whose parent is known not to be remote."""
_REMOTE: Final = b"\x85\x01\x00\x03\x00\x00"
_UNSET: Final = b"\x7a\x00"


def varint(number: int) -> bytes:
    """A non-negative integer as protobuf writes it."""
    if number < 128:
        return _ONE_BYTE[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(tag: bytes, data: bytes) -> bytes:
    return b"".join((tag, varint(len(data)), data))


def _any_value(value: Any) -> bytes:
    """An ``AnyValue``. Types are tried in the SDK encoder's order.

    Raises:
        ValueError: An integer of more than 64 bits, or a text that UTF-8 cannot hold.
        TypeError: A type that OTLP does not have.
    """
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return _field(b"\x0a", value.encode())
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("the integer has more than 64 bits")
        return b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, bytes):
        return _field(b"\x3a", value)
    if isinstance(value, Sequence):
        several = cast("Sequence[Any]", value)
        return _field(b"\x2a", b"".join([_field(b"\x0a", _any_value(one)) for one in several]))
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return _field(b"\x32", b"".join([_field(b"\x0a", _key_value(str(key), one)) for key, one in pairs]))
    raise TypeError(f"OTLP has no {type(value).__name__}")


def _key_value(key: str, value: Any) -> bytes:
    return _field(b"\x0a", key.encode()) + _field(b"\x12", _any_value(value))


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b""
    return b"".join([_field(tag, _key_value(key, value)) for key, value in attributes.items()])


class _Key:
    """The cache of an attribute key: its bytes, and those of its first values."""

    __slots__ = ("_head", "_text_heads", "float_head", "ints", "no", "texts", "tuples", "yes")

    def __init__(self, key: str) -> None:
        self._head = _field(b"\x0a", key.encode())
        self._text_heads: dict[int, bytes] = {}
        self.texts: dict[str, bytes] | None = {}
        self.ints: dict[int, bytes] = {}
        self.tuples: dict[tuple[str, ...], bytes] = {}
        self.no, self.yes = self.encode(value=False), self.encode(value=True)
        self.float_head = self.encode(0.0)[:-8]

    def encode(self, value: Any) -> bytes:
        """The field ``attributes`` of a span."""
        data = _any_value(value)
        return _field(b"\x4a", b"".join((self._head, b"\x12", varint(len(data)), data)))

    def keep_text(self, texts: dict[str, bytes], value: str) -> bytes:
        """Encodes a text that is not cached."""
        data = self.encode(value)
        if len(value) <= _TEXT_MAX:
            if len(texts) < _VALUES_MAX:
                texts[value] = data
            else:
                self.texts = None
        return data

    def text(self, value: str) -> bytes:
        """Encodes a text of a key with many values."""
        raw = value.encode()
        head = self._text_heads.get(len(raw))
        if head is None:
            head = self.encode(value)[: -len(raw) or None]
            if len(raw) <= _TEXT_MAX:
                self._text_heads[len(raw)] = head
        return head + raw

    def other(self, value: Any) -> bytes:
        """Encodes an integer or a sequence, and keeps some of them."""
        data = self.encode(value)
        if type(value) is int:
            if len(self.ints) < _VALUES_MAX:
                self.ints[value] = data
        elif type(value) is tuple:
            several = cast("tuple[Any, ...]", value)
            # Texts alone: 1, True and 1.0 are equal as keys of a dict.
            if len(self.tuples) < _VALUES_MAX and len(several) <= 8 and all(type(one) is str for one in several):
                self.tuples[several] = data
        return data


_keys: Final[dict[str, _Key]] = {}
_names: Final[dict[str, bytes]] = {}
_frames: Final[dict[tuple[int, int], tuple[Any, Any, bytes, bytes, bytes]]] = {}


def _key(key: str) -> _Key:
    made = _Key(key)
    if len(_keys) < _KEYS_MAX:
        _keys[key] = made
    return made


def _name(name: str) -> bytes:
    data = _field(b"\x2a", name.encode())
    if len(_names) < _KEYS_MAX and len(name) <= _TEXT_MAX:
        _names[name] = data
    return data


def _add_attributes(add: Callable[[bytes], None], attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        known = _keys.get(key) or _key(key)
        kind = type(value)  # pyright: ignore[reportUnknownVariableType] an attribute may have any type
        if kind is str:
            texts = known.texts
            add(known.text(value) if texts is None else texts.get(value) or known.keep_text(texts, value))
        elif kind is int:
            add(known.ints.get(value) or known.other(value))
        elif kind is float:
            add(known.float_head)
            add(_double(value))
        elif kind is bool:
            add(known.yes if value else known.no)
        elif kind is tuple:
            add(_tuple(known, value))
        else:
            add(known.encode(value))


def _tuple(known: _Key, value: tuple[Any, ...]) -> bytes:
    try:
        return known.tuples.get(value) or known.other(value)
    except TypeError:  # a member has no hash
        return known.encode(value)


def _span(span: WireFields) -> bytes:
    ids = _TRACE_ID, span.trace_id.to_bytes(16, "big"), _SPAN_ID, span.span_id.to_bytes(8, "big")
    times = _KIND_AND_START[span.kind.value], span.start_ns, _END_TIME, span.end_ns
    parts = [
        _child(*ids, _PARENT_ID, span.parent_id.to_bytes(8, "big"), *times) if span.parent_id else _root(*ids, *times),
        _names.get(span.name) or _name(span.name),
        _REMOTE if span.parent_is_remote else _LOCAL,
        _status(span.status),
    ]
    _add_attributes(parts.append, span.attributes)
    parts.append(_count(b"\x50", span.dropped_attributes))
    if span.events is not None:
        parts += [_event(event) for event in span.events]
        parts.append(_count(b"\x60", span.events.dropped))
    if span.links is not None:
        parts += [_link(link) for link in span.links]
        parts.append(_count(b"\x70", span.links.dropped))
    if span.trace_state is not None:
        parts.append(_trace_state(span.trace_state))
    return b"".join(parts)


def _count(tag: bytes, number: int) -> bytes:
    return tag + varint(number) if number else b""


def _status(status: Status) -> bytes:
    code = status.status_code.value
    if not code and not status.description:
        return _UNSET
    text = _field(b"\x12", status.description.encode()) if status.description else b""
    return _field(b"\x7a", text + (b"\x18" + _ONE_BYTE[code] if code else b""))


def _trace_state(state: TraceState) -> bytes:
    text = ",".join([f"{key}={value}" for key, value in state.items()])
    return _field(b"\x1a", text.encode()) if text else b""


def _event(event: Event) -> bytes:
    name = _field(b"\x12", event.name.encode()) if event.name else b""
    attributes = _attributes(b"\x1a", event.attributes)
    dropped = _count(b"\x20", event.dropped_attributes)
    return _field(b"\x5a", b"".join((b"\x09", _fixed64(event.timestamp), name, attributes, dropped)))


def _link(link: Link) -> bytes:
    context = link.context
    ids = _TRACE_ID, context.trace_id.to_bytes(16, "big"), _SPAN_ID, context.span_id.to_bytes(8, "big")
    attributes = _attributes(b"\x22", link.attributes)
    flags = b"\x35\x00\x03\x00\x00" if context.is_remote else b"\x35\x00\x01\x00\x00"
    return _field(b"\x6a", b"".join((*ids, attributes, _count(b"\x28", link.dropped_attributes), flags)))


def _fields_of(span: ReadableSpan) -> WireFields:
    """The fields of a span of the SDK's, by its public properties."""
    own: Any = span.get_span_context()
    parent = span.parent
    attributes: Any = span.attributes
    return WireFields(
        span.name,
        own.trace_id,
        own.span_id,
        parent.span_id if parent else 0,
        bool(parent and parent.is_remote),
        own.trace_state or None,
        span.kind,
        cast("int", span.start_time),
        span.end_time,
        attributes.copy() if attributes else {},
        span.dropped_attributes,
        _counted(span.events, span.dropped_events),
        _counted(span.links, span.dropped_links),
        span.status,
        span.resource,
        cast("InstrumentationScope", span.instrumentation_scope),
    )


class _Counted(tuple[Any, ...]):
    """Events or links of a span of the SDK's, with the number of dropped ones."""

    dropped = 0


def _counted(members: Iterable[Any], dropped: int) -> _Counted | None:
    counted = _Counted(members)
    counted.dropped = dropped
    return counted if counted or dropped else None


def _frame(resource: Resource, scope: InstrumentationScope | None) -> tuple[Any, Any, bytes, bytes, bytes]:
    """Resource and scope, referenced so that their ids are not reused, and the bytes around their spans."""
    found = _frames.get((id(resource), id(scope)))
    if found is not None:
        return found
    head = tail = b""
    if scope is not None:
        name = _field(b"\x0a", scope.name.encode()) if scope.name else b""
        version = _field(b"\x12", scope.version.encode()) if scope.version else b""
        head = name + version + _attributes(b"\x1a", scope.attributes)
        tail = _field(b"\x1a", scope.schema_url.encode()) if scope.schema_url else b""
    of_resource = _field(b"\x0a", _attributes(b"\x0a", resource.attributes))
    if len(_frames) >= _FRAMES_MAX:
        _frames.clear()
    made = _frames[id(resource), id(scope)] = resource, scope, of_resource, _field(b"\x0a", head), tail
    return made


def _request(resource: Resource, scope: InstrumentationScope | None, spans: Iterable[bytes]) -> bytes:
    _, _, of_resource, head, tail = _frame(resource, scope)
    parts = [head]
    for data in spans:
        parts += (b"\x12", varint(len(data)), data)
    parts.append(tail)
    of_scope = _field(b"\x12", b"".join(parts))
    schema = _field(b"\x1a", resource.schema_url.encode()) if resource.schema_url else b""
    return _field(b"\x0a", b"".join((of_resource, of_scope, schema)))


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """An ``ExportTraceServiceRequest`` of ended spans, in their order within each resource and scope.

    Raises:
        Exception: A span has a value that this encoder does not support.
    """
    groups: dict[tuple[int, int], tuple[Any, Any, list[bytes]]] = {}
    for span in spans:
        fields = span.wire_fields() if type(span) is LeanSpan else _fields_of(span)
        group = groups.setdefault((id(fields.resource), id(fields.scope)), (fields.resource, fields.scope, []))
        group[2].append(_span(fields))
    return b"".join([_request(*group) for group in groups.values()])
