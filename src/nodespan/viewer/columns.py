"""The columns of a trace, as the page reads them."""

from __future__ import annotations

import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nodespan import semconv
from nodespan.otlp import SpanColumns
from nodespan.store import edge_records, write_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nodespan.store.records import EdgeRecord, SpanRecord, WriteRecord

_T = TypeVar("_T")

_WRITES: Final = (semconv.LANGGRAPH_WRITES, semconv.LANGGRAPH_WRITTEN_VALUES)
_PREFIXES: Final = {
    "shared": semconv.PREFIX_SHARED,
    "repeated": semconv.PREFIX_REPEATED,
    "previous_node": semconv.PREFIX_PREVIOUS_NODE,
    "cost_s": semconv.PREFIX_COST,
}
STATES: Final = {"ended": 0, "running": 1, "silent": 2, "lost": 3}
INTERRUPTED: Final = 1
CANCELLED: Final = 2
NOISE: Final = 64
UNDECLARED_EDGE: Final = 128
CACHED: Final = 256
"""Bits of ``flags``; the others are those of ``nodespan.otlp.columns``."""

_TEXTS: Final = {"operation": semconv.OPERATION_NAME, "node": semconv.LANGGRAPH_NODE}
_NUMBERS: Final = {
    "step": semconv.LANGGRAPH_STEP,
    "tokens_in": semconv.USAGE_INPUT_TOKENS,
    "tokens_out": semconv.USAGE_OUTPUT_TOKENS,
    "cached": semconv.USAGE_CACHE_READ,
}
_COLUMNS: Final = {**_TEXTS, **_NUMBERS}
_KINDS: Final = {2: 1, 3: 2, 4: 3, 5: 4}
"""From OTLP's numbers; the others are 0, internal."""
_NOISE: Final = ("opentelemetry.instrumentation.", "openinference.instrumentation", "io.opentelemetry.", "langsmith")
"""How the scopes of instrumented frameworks begin."""


def new_columns(others: Iterable[str] = (*_WRITES, *_PREFIXES.values())) -> SpanColumns:
    """Columns with the attributes that the page draws.

    Args:
        others: Attributes without a column, for ``View.writes`` and ``View.prefixes`` if not given. Nearly every
            value differs, so that they cost the most time.
    """
    texts = (*_TEXTS.values(), semconv.STATUS, semconv.CONVERSATION_ID, semconv.LANGGRAPH_GRAPH_HASH)
    objects = (semconv.LANGGRAPH_EDGES, semconv.LANGGRAPH_INTERRUPTED, semconv.RESPONSE_CACHED)
    return SpanColumns(texts, _NUMBERS.values(), objects, others)


class View:
    """Rows of a trace in the order of the page.

    Attributes:
        columns: The spans.
        states: State of each of them, a number of ``STATES``.
        order: Rows of ``columns``: each span once, by start (the longer first where two started at once).
        rows: Place in ``order`` by span id.

    Args:
        columns: Ended spans; the open ones are added.
        opened: Open spans. One that has ended meanwhile is left out.
    """

    def __init__(self, columns: SpanColumns, opened: Sequence[SpanRecord]) -> None:
        self.columns = columns
        ended = set(columns.ids)
        self.opened = {span["span_id"]: span for span in opened if span["span_id"] not in ended}
        self.states = [0] * len(columns.ids)
        for span in self.opened.values():
            columns.add(span, span["start_ns"] + round(span["duration_s"] * 1e9))
            self.states.append(STATES[span["state"]])
        last = dict(zip(columns.ids, range(len(columns.ids)), strict=True))
        # Two stable sorts: keys of two numbers would be additional objects.
        self.order = sorted(last.values(), key=columns.ends_ns.__getitem__, reverse=True)
        self.order.sort(key=columns.starts_ns.__getitem__)
        self.rows = dict(zip(self._picked(columns.ids), range(len(self.order)), strict=True))

    def spans(self, t0_ns: int, *, with_parent_ids: bool = False) -> dict[str, Any]:
        """The columns; times in µs since ``t0_ns``.

        Args:
            t0_ns: Unix time.
            with_parent_ids: ``parent_id`` in hex in place of ``parent``, the row.
        """
        columns, picked = self.columns, self._picked
        parents = picked(columns.parents)
        starts, ends = picked(columns.starts_ns), picked(columns.ends_ns)
        row_of = self.rows.get
        return {
            "n": len(self.order),
            "id": picked(columns.ids),
            **({"parent_id": parents} if with_parent_ids else {"parent": [row_of(parent, -1) for parent in parents]}),
            "name": picked(columns.names),
            "service": picked(columns.services),
            "scope": picked(columns.scopes),
            "kind": [_KINDS.get(kind, 0) for kind in picked(columns.kinds)],
            "start": [(start - t0_ns) / 1e3 for start in starts],
            "duration": [(end - start) / 1e3 if end > start else 0.0 for start, end in zip(starts, ends, strict=True)],
            "state": picked(self.states),
            "status": picked(columns.statuses),
            **{name: picked(columns.attribute(key)) for name, key in _COLUMNS.items()},
            "flags": self.flags(),
        }

    def of_open(self, key: str) -> dict[int, Any]:
        """A part of the records of open spans, ``phase`` or ``process``, by place; without those that have none."""
        return {self.rows[span_id]: span[key] for span_id, span in self.opened.items() if span[key] is not None}

    def runs(self) -> list[int]:
        """Places of the runs of graphs."""
        operation = self.columns.index(semconv.INVOKE_WORKFLOW)
        operations = self._picked(self.columns.attribute(semconv.OPERATION_NAME))
        return [place for place, one in enumerate(operations) if one == operation]

    def text(self, key: str, place: int) -> str | None:
        """The value of a text attribute; ``None`` if it is absent."""
        return self.columns.strings[self.columns.attribute(key)[self.order[place]]] or None

    def edges(self) -> dict[int, list[EdgeRecord]]:
        """Taken edges by place; without those that have none."""
        records = [edge_records(value) for value in self.columns.objects]
        indices = self._picked(self.columns.attribute(semconv.LANGGRAPH_EDGES))
        return {place: records[index] for place, index in enumerate(indices) if index and records[index]}

    def writes(self) -> dict[int, list[WriteRecord]]:
        """Written channels by place; without those that have none."""
        records = ((place, write_records(*map(values.get, _WRITES))) for place, values in self._others())
        return {place: several for place, several in records if several}

    def prefixes(self) -> dict[int, dict[str, Any]]:
        """Prefixes shared with the model's previous call, by place; without prompts that were not compared."""
        return {
            place: {name: values.get(key) for name, key in _PREFIXES.items()}
            for place, values in self._others()
            if isinstance(values.get(semconv.PREFIX_SHARED), int)
        }

    def _others(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Attributes without a column by place."""
        others = self.columns.others
        return ((place, others[row]) for place, row in enumerate(self.order) if row in others)

    def _picked(self, column: Sequence[_T]) -> list[_T]:
        """The values of a column in the order of the rows."""
        order = self.order
        return list(itemgetter(*order)(column)) if len(order) > 1 else [column[row] for row in order]

    def flags(self) -> list[int]:
        """The bits of each span, by place."""
        columns = self.columns
        strings = columns.strings
        noisy = {i for i, scope in enumerate(strings) if scope.startswith(_NOISE)}
        by_status = {columns.index("interrupted"): INTERRUPTED, columns.index("cancelled"): CANCELLED}
        flags = [
            flag | by_status.get(status, 0) | (NOISE if not operation and scope in noisy else 0)
            for flag, status, operation, scope in zip(
                self._picked(columns.flags),
                self._picked(columns.attribute(semconv.STATUS)),
                self._picked(columns.attribute(semconv.OPERATION_NAME)),
                self._picked(columns.scopes),
                strict=True,
            )
        ]
        if flags and all(flag & NOISE for flag in flags):  # all spans would be hidden
            flags = [flag & ~NOISE for flag in flags]
        objects = columns.objects
        is_undeclared = [any(not edge["is_declared"] for edge in edge_records(value)) for value in objects]
        for key, bit, is_set in (
            (semconv.LANGGRAPH_INTERRUPTED, INTERRUPTED, [value is True for value in objects]),
            (semconv.RESPONSE_CACHED, CACHED, [value is True for value in objects]),
            (semconv.LANGGRAPH_EDGES, UNDECLARED_EDGE, is_undeclared),
        ):
            for place, index in enumerate(self._picked(columns.attribute(key))):
                if index and is_set[index]:
                    flags[place] |= bit
        return flags


def now_us(t0_ns: int) -> float:
    """Now, in µs since ``t0_ns``."""
    return (time.time_ns() - t0_ns) / 1e3
