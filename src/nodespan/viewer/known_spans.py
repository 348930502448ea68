"""Ids of the spans in the store: a span that is sent again, or that its program has stored, is not added twice."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Set

    from nodespan.store import StoreReader

    Key = tuple[str, str]
    """Trace and span id in hex."""

_IDS_MAX: Final = 500_000


class KnownSpans:
    """Ids of the stored spans of the most recently used traces, read from the store as it grows."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._traces: OrderedDict[str, tuple[int, set[str]]] = OrderedDict()
        self._ids = 0

    def among(self, keys: Set[Key]) -> set[Key]:
        """Those of the spans that are in the store.

        Raises:
            StoreError: The store cannot be read.
        """
        stored = {trace_id: self._of(trace_id) for trace_id in {trace_id for trace_id, _ in keys}}
        return {(trace_id, span_id) for trace_id, span_id in keys if span_id in stored[trace_id]}

    def _of(self, trace_id: str) -> set[str]:
        last, ids = self._traces.pop(trace_id, (0, set[str]()))
        before = len(ids)
        last = self._reader.add_span_ids(trace_id, ids, last)
        self._traces[trace_id] = last, ids
        self._ids += len(ids) - before
        while self._ids > _IDS_MAX and len(self._traces) > 1:
            self._ids -= len(self._traces.popitem(last=False)[1][1])
        return ids
