"""Spans of many batches as columns, without a record per span, for views of large traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nodespan import semconv
from nodespan.otlp.decode import attribute_value
from nodespan.otlp.summary import is_resumed_from

if TYPE_CHECKING:
    from collections.abc import Iterable

HAS_EVENTS: Final = 16
HAS_LINKS: Final = 32
RETRIED: Final = 4
RESUMED: Final = 8
"""Bits of the column ``flags`` that a span's own fields set."""

_OTHER: Final = -2
"""Instead of a column: the value is added to ``others``."""
_VALUES_MAX: Final = 10_000
"""Encoded attributes whose values are kept: operations, nodes and small numbers repeat in each batch."""
_ATTEMPT_FAILED: Final = semconv.ATTEMPT_FAILED.encode()
_LINK_KIND: Final = semconv.LINK_KIND.encode()


def _schema() -> Any:
    """``ExportTraceServiceRequest`` with only the fields of the columns; attributes, events and links stay bytes.

    Field numbers of opentelemetry-proto 1.x (``trace.proto``). Protobuf skips other fields, and reads bytes faster than
    messages: decoding takes a third of the time.
    """
    field = descriptor_pb2.FieldDescriptorProto
    text, raw, number, fixed = field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_INT32, field.TYPE_FIXED64
    file = descriptor_pb2.FileDescriptorProto(name="nodespan_columns.proto", package="nodespan", syntax="proto3")
    fields: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
        "Request": (("resource_spans", 1, "OfResource", True),),
        "OfResource": (("resource", 1, "Resource", False), ("scope_spans", 2, "OfScope", True)),
        "Resource": (("attributes", 1, raw, True),),
        "OfScope": (("scope", 1, "Scope", False), ("spans", 2, "Span", True)),
        "Scope": (("name", 1, text, False),),
        "Span": (
            ("trace_id", 1, raw, False),
            ("span_id", 2, raw, False),
            ("parent_span_id", 4, raw, False),
            ("name", 5, text, False),
            ("kind", 6, number, False),
            ("start", 7, fixed, False),
            ("end", 8, fixed, False),
            ("attributes", 9, raw, True),
            ("events", 11, raw, True),
            ("links", 13, raw, True),
            ("status", 15, raw, False),
        ),
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for member, tag, kind, is_repeated in members:
            label = field.LABEL_REPEATED if is_repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=member, number=tag, label=label, type=field.TYPE_MESSAGE, type_name=f".nodespan.{kind}"
                )
            else:
                message.field.add(name=member, number=tag, label=label, type=kind)
    pool: Any = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nodespan.Request"))


_Request: Final = _schema()


class SpanColumns:
    """Spans as parallel lists, a row each, in the order in which they were added.

    Attributes:
        strings: Texts that ``names``, ``services``, ``scopes`` and attributes refer to by index; index 0 is the empty
            text.
        ids: Ids in hex; ``parents`` likewise, empty for a root.
        names: Index in ``strings``.
        services: Index in ``strings``.
        scopes: Index in ``strings``.
        kinds: OTLP's numbers: 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
        starts_ns: Unix time; ``ends_ns`` likewise.
        statuses: 0 unset, 1 ok, 2 error.
        flags: ``HAS_EVENTS``, ``HAS_LINKS``, ``RETRIED``, ``RESUMED``.
        objects: Values that the columns of ``objects`` refer to by index; index 0 is ``None``.
        others: By row, the values of further requested attributes; rows without any are absent.
        resumed: By row, trace and span id in hex that a link of the kind ``resumed_from`` leads to.

    Args:
        texts: Attributes that are read as text.
        numbers: Attributes that are read as integers.
        objects: Attributes of any type whose values repeat.
        others: Attributes of any type that few spans have, or whose values differ.
    """

    def __init__(
        self,
        texts: Iterable[str] = (),
        numbers: Iterable[str] = (),
        objects: Iterable[str] = (),
        others: Iterable[str] = (),
    ) -> None:
        self.strings = [""]
        self.objects: list[Any] = [None]
        self.ids: list[str] = []
        self.parents: list[str] = []
        self.names: list[int] = []
        self.services: list[int] = []
        self.scopes: list[int] = []
        self.kinds: list[int] = []
        self.starts_ns: list[int] = []
        self.ends_ns: list[int] = []
        self.statuses: list[int] = []
        self.flags: list[int] = []
        self.others: dict[int, dict[str, Any]] = {}
        self.resumed: dict[int, tuple[str, str]] = {}
        self._index = {"": 0}
        texts, numbers, objects = list(texts), list(numbers), list(objects)
        self._keys = [*texts, *numbers, *objects]
        self._texts_end = len(texts)
        self._numbers_end = len(texts) + len(numbers)
        # Values of all spans, one after the other; each span has one more place for all other attributes.
        self._values: list[int] = []
        self._absent = [0] * len(texts) + [-1] * len(numbers) + [0] * (len(objects) + 1)
        self._columns = {_head(key): i for i, key in enumerate(self._keys)}
        self._columns |= {_head(key): _OTHER for key in others}
        self._is_wanted_length = bytes(length in {head[1] for head in self._columns} for length in range(256))
        self._known: dict[bytes, tuple[int, int]] = {}

    def index(self, text: str) -> int:
        """Returns the place of a text in ``strings``."""
        found = self._index.get(text)
        if found is None:
            found = self._index[text] = len(self.strings)
            self.strings.append(text)
        return found

    def attribute(self, key: str) -> list[int]:
        """The values of an attribute by row: numbers (-1 if absent), or indices in ``strings`` or ``objects`` (0)."""
        return self._values[self._keys.index(key) :: len(self._absent)]

    def add_batch(self, data: bytes, trace_id: str) -> None:
        """Adds the spans of a trace in an encoded batch.

        Args:
            data: An ``ExportTraceServiceRequest`` with its fields in the order of their numbers, as encoders write it.
            trace_id: In hex.

        Raises:
            google.protobuf.message.DecodeError: The bytes are not such a message.
        """
        wanted = bytes.fromhex(trace_id)
        for of_resource in _Request.FromString(data).resource_spans:
            service = self.index(_service(of_resource.resource.attributes))
            for of_scope in of_resource.scope_spans:
                scope = self.index(of_scope.scope.name)
                for span in of_scope.spans:
                    if span.trace_id == wanted:
                        self.services.append(service)
                        self.scopes.append(scope)
                        self._add(span)

    def add(self, record: Any, end_ns: int) -> None:
        """Adds an open span, given as a record of the read model, which ends at ``end_ns``."""
        values = self._absent[:]
        for key, value in record["attributes"].items():
            if (column := self._columns.get(_head(key))) is not None:
                self._set(values, column, key, value)
        self._values += values
        self.ids.append(record["span_id"])
        self.parents.append(record["parent_span_id"])
        self.names.append(self.index(record["name"]))
        self.services.append(self.index(str(record["resource"].get("service.name", ""))))
        self.scopes.append(self.index(record["scope"]))
        self.kinds.append(Span.SpanKind.Value(f"SPAN_KIND_{record['kind']}"))
        self.starts_ns.append(record["start_ns"])
        self.ends_ns.append(end_ns)
        self.statuses.append(0)
        self.flags.append(0)

    def _add(self, span: Any) -> None:
        values = self._absent[:]
        is_wanted_length, known = self._is_wanted_length, self._known
        for raw in span.attributes:
            try:
                if not is_wanted_length[raw[1]]:
                    continue
            except IndexError:  # an attribute without key and value
                continue
            if (found := known.get(raw)) is not None:
                values[found[0]] = found[1]
            else:
                self._decode(values, raw)
        self._values += values
        flags = 0
        if span.events:
            flags = HAS_EVENTS | (RETRIED if any(map(_is_failed_attempt, span.events)) else 0)
        if span.links:
            flags |= HAS_LINKS | self._add_links(span.links)
        self.flags.append(flags)
        name = span.name
        self.names.append(self._index.get(name) or self.index(name))
        self.ids.append(span.span_id.hex())
        self.parents.append(span.parent_span_id.hex())
        self.kinds.append(span.kind)
        self.starts_ns.append(span.start)
        self.ends_ns.append(span.end)
        status = span.status
        self.statuses.append(Status.FromString(status).code if status else 0)

    def _decode(self, values: list[int], raw: bytes) -> None:
        column = self._columns.get(raw[: raw[1] + 2], len(values) - 1)
        if column != len(values) - 1:
            pair = KeyValue.FromString(raw)
            self._set(values, column, pair.key, attribute_value(pair.value))
        if column != _OTHER and len(self._known) < _VALUES_MAX:
            self._known[raw] = column, values[column]

    def _set(self, values: list[int], column: int, key: str, value: Any) -> None:
        if column == _OTHER:
            self.others.setdefault(len(self.ids), {})[key] = value
        elif column < self._texts_end:
            values[column] = self.index(value if isinstance(value, str) else str(value))
        elif column >= self._numbers_end:
            values[column] = len(self.objects)
            self.objects.append(value)
        elif isinstance(value, int):
            values[column] = value

    def _add_links(self, links: Iterable[bytes]) -> int:
        for raw in links:
            if _LINK_KIND in raw:
                link = Span.Link.FromString(raw)
                if is_resumed_from(link):
                    self.resumed[len(self.ids)] = link.trace_id.hex(), link.span_id.hex()
                    return RESUMED
        return 0


def _head(key: str) -> bytes:
    """The first bytes of an encoded attribute with this key. Keys of more than 127 bytes are not supported."""
    name = key.encode()
    return bytes((0x0A, len(name))) + name if len(name) < 128 else b"\x0a\xff"


def _service(attributes: Iterable[bytes]) -> str:
    pairs = map(KeyValue.FromString, attributes)
    return next((str(attribute_value(pair.value)) for pair in pairs if pair.key == "service.name"), "")


def _is_failed_attempt(raw: bytes) -> bool:
    return _ATTEMPT_FAILED in raw and Span.Event.FromString(raw).name == semconv.ATTEMPT_FAILED
