"""Log lines about unsent spans at the end and at the start of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodespan.errors import StoreBusyError, StoreError
from nodespan.spans.log import warn
from nodespan.store import MEMORY

if TYPE_CHECKING:
    from pathlib import Path

    from nodespan.delivery.destination import Destination
    from nodespan.store import SqliteStore


def log_what_is_left(
    store: SqliteStore, path: Path, destination: Destination | None, unstored: int, waiting: int
) -> None:
    """Logs the spans that are lost at the end of the process, and those that the next start sends.

    Args:
        store: Of the last spans: the file, or the memory that has replaced it.
        path: Of the store at the start of the process.
        destination: Where spans are sent; ``None`` if they stay in the store.
        unstored: Number of spans that were not stored.
        waiting: Spans in a store that are to be sent.
    """
    if unstored:
        message = "%d spans could not be stored in %s, which is locked or unavailable. They are lost."
        warn("export.lost_at_exit", message, unstored, store.path)
    if destination is None:
        return
    in_memory = sum(each.spans for each in store.waiting()) if store.path == MEMORY else 0
    if in_memory:
        message = "%d spans were not exported to %s. They were in memory and are lost."
        warn("export.lost_at_exit", message, in_memory, destination.label)
    if waiting > in_memory:
        message = (
            "%d spans were not exported to %s. They are in %s and will be sent on the next start; "
            "to send them now, run `nodespan flush`."
        )
        warn("export.left_behind", message, waiting - in_memory, destination.label, path)


def waits_for(identity: str, store: SqliteStore) -> bool:
    """Whether spans of earlier processes wait for this destination; logs those for other destinations."""
    try:
        if store.path == MEMORY or not store.path.exists():
            return False
        found = store.waiting()
    except StoreBusyError:
        return True  # the sender checks again
    except (StoreError, OSError):
        return False  # logged when the first span cannot be stored
    others = sum(each.spans for each in found if each.identity not in (identity, None))
    if others:
        message = (
            "%s holds %d spans for other destinations, or for other credentials of this one. They are not sent by "
            "this program. List them: nodespan flush --list. Send them here: nodespan flush --from ID."
        )
        warn("export.other_destination", message, store.path, others)
    return any(each.identity == identity for each in found)
