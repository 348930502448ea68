"""The files of a store, as a reader opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from nodespan.errors import StoreBusyError, StoreError
from nodespan.spans.log import warn
from nodespan.store.database import MEMORY, Database, DatabaseReader
from nodespan.store.index import INDEX, Index
from nodespan.store.paths import index_path
from nodespan.store.running import OpenSpans, read_open
from nodespan.store.schema import OUTBOX

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from nodespan.store.outbox import SqliteStore

_T = TypeVar("_T")


class StoreConnections:
    """Connections to the outbox, for reading alone, and to its index. The base of ``StoreReader``.

    Args:
        store: The store to read.
        progress: Called while the index is filled.
        fill_s: How long a call may fill the index; ``None``: until it is complete.
    """

    def __init__(
        self,
        store: SqliteStore,
        progress: Callable[[int, int], None] | None = None,
        fill_s: float | None = None,
    ) -> None:
        self._path = store.path
        self._outbox = store.database if store.path == MEMORY else DatabaseReader(store.path, OUTBOX)
        self._progress = progress
        self._fill_s = fill_s
        self._index: Index | None = None
        self._is_index_unavailable = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a later call opens them again."""
        if self._path != MEMORY:
            self._outbox.close()
        if self._index is not None:
            self._index.database.close()

    def _open_spans(self) -> OpenSpans:
        path = None if self._path == MEMORY else self._path
        return self._outbox.read(lambda connection: read_open(connection, path))

    def _search(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def fill_and_read(index: Index) -> _T:
            try:
                index.fill(self._fill_s)
            except StoreBusyError:
                if self._fill_s is None:
                    raise
            return index.database.read(work)

        return self._with_index(fill_and_read)

    def _with_index(self, work: Callable[[Index], _T]) -> _T:
        """Runs the work on the index beside the store, or on a temporary one if that cannot be used."""
        self._outbox.version()  # errors of the outbox are raised
        if self._is_copy() or self._is_absent() or self._path == MEMORY or self._is_index_unavailable:
            return work(self._index_at(MEMORY))
        try:
            return work(self._index_at(index_path(self._path)))
        except StoreBusyError:
            raise
        except StoreError as error:
            self._is_index_unavailable = True
            warn("store.index_unavailable", "%s This process uses a temporary search index.", error)
            return work(self._index_at(MEMORY))

    def _index_at(self, path: Path) -> Index:
        if self._index is None or self._index.database.path != path:
            if self._index is not None:
                self._index.database.close()
            self._index = Index(self._outbox, Database(path, INDEX), self._progress)
        return self._index

    def _is_copy(self) -> bool:
        return isinstance(self._outbox, DatabaseReader) and self._outbox.is_copy

    def _is_absent(self) -> bool:
        return isinstance(self._outbox, DatabaseReader) and self._outbox.is_absent
