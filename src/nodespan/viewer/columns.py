"""The columns of a trace, as the page reads them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from nodespan import semconv
from nodespan.otlp import SpanColumns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nodespan.store.records import SpanRecord

STATES: Final = {"ended": 0, "running": 1, "silent": 2, "lost": 3}
INTERRUPTED: Final = 1
CANCELLED: Final = 2
NOISE: Final = 64
UNDECLARED_EDGE: Final = 128
CACHED_NODE: Final = 256
"""Bits of ``flags``; the others are those of ``nodespan.otlp.columns``."""

_TEXTS: Final = (semconv.OPERATION_NAME, semconv.LANGGRAPH_NODE, semconv.STATUS)
_NUMBERS: Final = (
    semconv.LANGGRAPH_STEP,
    semconv.USAGE_INPUT_TOKENS,
    semconv.USAGE_OUTPUT_TOKENS,
    semconv.USAGE_CACHE_READ,
)
_OTHERS: Final = (semconv.LANGGRAPH_INTERRUPTED, semconv.CONVERSATION_ID, semconv.WORKFLOW_NAME)
_NOISE: Final = ("opentelemetry.instrumentation.", "openinference.instrumentation", "io.opentelemetry.", "langsmith")
"""How the scopes of instrumented frameworks begin."""


def new_columns(others: Iterable[str] = ()) -> SpanColumns:
    """Columns with the attributes that the page draws, and further ones that few spans have."""
    return SpanColumns(_TEXTS, _NUMBERS, (*_OTHERS, *others))


class View:
    """Rows of a trace in the order in which the page wants them.

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
        last = {span_id: row for row, span_id in enumerate(columns.ids)}
        starts, ends = columns.starts_ns, columns.ends_ns
        self.order = sorted(last.values(), key=lambda row: (starts[row], -ends[row]))
        self.rows = {columns.ids[row]: place for place, row in enumerate(self.order)}

    def spans(self, t0_ns: int, *, with_parent_ids: bool = False) -> dict[str, Any]:
        """The columns; times in µs since ``t0_ns``.

        Args:
            t0_ns: Unix time.
            with_parent_ids: ``parent_id`` in hex in place of ``parent``, the row.
        """
        columns, order = self.columns, self.order
        values = [columns.values[row] for row in order]
        starts, ends = columns.starts_ns, columns.ends_ns
        parents = [columns.parents[row] for row in order]
        return {
            "n": len(order),
            "id": [columns.ids[row] for row in order],
            **({"parent_id": parents} if with_parent_ids else {"parent": [self.rows.get(one, -1) for one in parents]}),
            "name": [columns.names[row] for row in order],
            "service": [columns.services[row] for row in order],
            "scope": [columns.scopes[row] for row in order],
            "kind": [max(columns.kinds[row] - 1, 0) for row in order],
            "start": [(starts[row] - t0_ns) / 1e3 for row in order],
            "duration": [max(ends[row] - starts[row], 0) / 1e3 for row in order],
            "state": [self.states[row] for row in order],
            "status": [columns.statuses[row] for row in order],
            "operation": [value[0] for value in values],
            "node": [value[1] for value in values],
            "step": [value[3] for value in values],
            "tokens_in": [value[4] for value in values],
            "tokens_out": [value[5] for value in values],
            "cached": [value[6] for value in values],
            "flags": self.flags(),
        }

    def of_open(self, key: str) -> dict[int, Any]:
        """A part of the records of open spans, ``phase`` or ``process``, by place; without those that have none."""
        return {self.rows[span_id]: span[key] for span_id, span in self.opened.items() if span[key] is not None}

    def others(self) -> Iterable[tuple[int, dict[str, Any]]]:
        """Further attributes by place."""
        ids = self.columns.ids
        return ((self.rows[ids[row]], found) for row, found in self.columns.others.items())

    def flags(self) -> list[int]:
        """The bits of each span, by place."""
        columns = self.columns
        strings = columns.strings
        noisy = {i for i, scope in enumerate(strings) if scope.startswith(_NOISE)}
        by_status = {columns.index("interrupted"): INTERRUPTED, columns.index("cancelled"): CANCELLED}
        flags = [
            columns.flags[row]
            | by_status.get(columns.values[row][2], 0)
            | (NOISE if columns.scopes[row] in noisy and not columns.values[row][0] else 0)
            for row in self.order
        ]
        if flags and all(flag & NOISE for flag in flags):  # nothing would be left to see
            flags = [flag & ~NOISE for flag in flags]
        for place, found in self.others():
            if found.get(semconv.LANGGRAPH_INTERRUPTED) is True:
                flags[place] |= INTERRUPTED
        return flags


def now_us(t0_ns: int) -> float:
    """Now, in µs since ``t0_ns``."""
    return (time.time_ns() - t0_ns) / 1e3
